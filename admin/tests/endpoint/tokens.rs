//! The file of the token.

use std::fs::{OpenOptions, Permissions, set_permissions, write};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::Duration;

use ropewalk_admin::Admin;

use crate::common::{TOKEN, Watched, token_file};

async fn error(watched: &Watched, file: &Path) -> String {
    let bound = Admin::new().listen("tcp:127.0.0.1:0").token_file(file).bind(&watched.handle).await;
    bound.err().map_or_else(String::new, |error| error.to_string())
}

#[tokio::test]
async fn a_file_that_others_may_read_or_write_is_refused() {
    let watched = Watched::start().await;
    let (_dir, file) = token_file();
    for mode in [0o640, 0o604, 0o620, 0o602, 0o610, 0o601, 0o644, 0o666] {
        set_permissions(&file, Permissions::from_mode(mode)).unwrap();
        let error = error(&watched, &file).await;
        assert!(error.contains(&format!("{mode:o}")) && error.contains("chmod 600"), "{error}");
        assert!(error.contains(&*file.display().to_string()), "{error}");
    }
    for mode in [0o600, 0o400, 0o700] {
        set_permissions(&file, Permissions::from_mode(mode)).unwrap();
        assert_eq!(error(&watched, &file).await, "", "{mode:o}");
    }
}

#[tokio::test]
async fn a_token_has_16_to_1024_printable_characters_on_one_line() {
    let watched = Watched::start().await;
    let (_dir, file) = token_file();
    for bad in [
        "",
        "\n",
        "fifteen-letters",
        "two words of a token",
        "a-token\nof-two-lines",
        &"x".repeat(1025),
    ] {
        write(&file, bad).unwrap();
        let error = error(&watched, &file).await;
        assert!(error.contains("16 to 1024"), "{bad:?}: {error}");
    }
    for good in ["sixteen-letters!", &"x".repeat(1024), &format!("{TOKEN}\r\n")] {
        write(&file, good).unwrap();
        assert_eq!(error(&watched, &file).await, "", "{good:?}");
    }
}

#[tokio::test]
async fn a_missing_file_and_a_folder_are_errors_that_name_the_path() {
    let watched = Watched::start().await;
    let (dir, file) = token_file();
    for path in [dir.path(), &file.with_extension("missing")] {
        let error = error(&watched, path).await;
        assert!(error.contains(&*path.display().to_string()), "{error}");
    }
}

#[tokio::test]
async fn a_pipe_in_its_place_is_refused_and_nothing_waits_for_its_other_end() {
    use rustix::fs::{CWD, FileType, Mode, mknodat};
    let watched = Watched::start().await;
    let (dir, _) = token_file();
    let pipe = dir.path().join("pipe");
    mknodat(CWD, &pipe, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap();
    let refused = tokio::time::timeout(Duration::from_secs(20), error(&watched, &pipe)).await;
    // The thread that waits, if there is one, is let go.
    drop(OpenOptions::new().read(true).write(true).open(&pipe));
    let error = refused.unwrap();
    assert!(error.contains("not a regular file"), "{error}");
}
