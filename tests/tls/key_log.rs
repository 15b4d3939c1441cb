//! What is written of encrypted connections on request: their keys, or their bytes.

use std::env;
use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::process::Command;

use ropewalk::layer::TapLayer;
use ropewalk::layer::tap::{TapFormat, TapRules};
use ropewalk::{Bytes, RawBytes, TlsConfig, framed, reply_fn};
use rustix::fs::{CWD, FileType, Mode, mknodat};
use tower::Layer;

use crate::encrypted::{Ca, Client, Folder, Running, echo, localhost, until};
use crate::support::{self, TempDir};

const VARIABLE: &str = "SSLKEYLOGFILE";

async fn serve_one(ca: &Ca, tls: TlsConfig) {
    let running = Running::tls(tls, framed(RawBytes, reply_fn(|bytes: Bytes| bytes))).await;
    let mut client = Client::new(ca, "localhost").tcp(running.addr).await.unwrap();
    echo(&mut client, b"hello").await.unwrap();
    drop(client);
    running.end().await;
}

#[test]
fn keys_are_written_for_their_owner_only_and_on_request_only() {
    const NAME: &str = "keys_are_written_for_their_owner_only_and_on_request_only";
    let Some(path) = env::var_os(VARIABLE).filter(|_| env::var_os("ROPEWALK_KEYS_TEST").is_some())
    else {
        // The environment of a process that has threads is not to be changed: so this runs itself
        // in another one.
        let dir = TempDir::new();
        let mut command = Command::new(env::current_exe().unwrap());
        command
            .args(["--exact", &support::test(module_path!(), NAME), "--nocapture"])
            .env(VARIABLE, dir.join("keys"))
            .env("ROPEWALK_KEYS_TEST", "1");
        let (status, words) = support::run(command);
        assert!(status.success(), "{words}");
        return;
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let (ca, folder) = (Ca::new(), Folder::new());
        let tls = localhost(&ca, &folder);
        serve_one(&ca, tls.clone()).await;
        assert!(fs::metadata(&path).is_err(), "it was not asked for");
        assert_ne!(tls.clone().log_keys(true), tls);
        serve_one(&ca, tls.clone().log_keys(true)).await;
        let keys = fs::read_to_string(&path).unwrap();
        assert!(keys.contains("SERVER_TRAFFIC_SECRET_0 "), "{keys}");
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        // Asked for and taken back, and for a clone from before.
        serve_one(&ca, tls.clone().log_keys(true).log_keys(false)).await;
        serve_one(&ca, tls).await;
        assert_eq!(fs::read_to_string(&path).unwrap(), keys);
    });
}

/// Each of them may be read by others, or may be another user's trap.
#[test]
fn a_file_of_keys_that_is_not_its_owners_alone_is_an_error_and_has_no_key() {
    const NAME: &str = "a_file_of_keys_that_is_not_its_owners_alone_is_an_error_and_has_no_key";
    if let (Some(path), Some(kind)) = (env::var_os(VARIABLE), env::var_os("ROPEWALK_KEYS_TEST")) {
        let (ca, folder) = (Ca::new(), Folder::new());
        let loaded = localhost(&ca, &folder).log_keys(true).load();
        if kind == "good" {
            return loaded.unwrap();
        }
        let error = loaded.unwrap_err();
        assert_eq!(error.path(), Some(Path::new(&path)), "{error}");
        return;
    }
    let dir = TempDir::new();
    let with_mode = |name: &str, mode: u32| {
        let path = dir.join(name);
        fs::write(&path, "# mine\n").unwrap();
        fs::set_permissions(&path, Permissions::from_mode(mode)).unwrap();
        path
    };
    let own = with_mode("own", 0o600);
    symlink(&own, dir.join("link")).unwrap();
    symlink(dir.join("nothing there"), dir.join("to nothing")).unwrap();
    let fifo = dir.join("fifo");
    mknodat(CWD, &fifo, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap();
    for (path, kind) in [
        (own, "good"),
        (with_mode("of the group", 0o640), "bad"),
        (with_mode("of all", 0o602), "bad"),
        (dir.join("link"), "bad"),
        (dir.join("to nothing"), "bad"),
        (dir.join("no/such/folder"), "bad"),
        ("/dev/full".into(), "bad"),
        (fifo, "bad"),
    ] {
        let mut command = Command::new(env::current_exe().unwrap());
        command
            .args(["--exact", &support::test(module_path!(), NAME), "--nocapture"])
            .env(VARIABLE, &path)
            .env("ROPEWALK_KEYS_TEST", kind);
        let (status, words) = support::run(command);
        assert!(status.success(), "{path:?}: {words}");
    }
    assert!(!dir.join("nothing there").exists());
}

#[tokio::test]
async fn a_tap_records_the_plaintext_without_keys() {
    let (ca, folder, dir) = (Ca::new(), Folder::new(), TempDir::new());
    let tap = TapLayer::new();
    tap.start(TapRules::new().format(TapFormat::Hex), dir.join("tap")).unwrap();
    let service = tap.layer(framed(RawBytes, reply_fn(|bytes: Bytes| bytes)));
    let running = Running::tls(localhost(&ca, &folder), service).await;
    let mut client = Client::new(&ca, "localhost").tcp(running.addr).await.unwrap();
    echo(&mut client, b"hello").await.unwrap();
    drop(client);
    running.end().await;
    tap.stop();
    let status = tap.status().unwrap();
    until("the file is complete", || status.end().is_some()).await;
    let text = fs::read_to_string(status.path()).unwrap();
    let line = |arrow: &str| text.lines().filter(|line| line.contains(arrow)).count();
    assert_eq!(
        (line(" > 00000000  68 65 6c 6c 6f "), line(" < 00000000  68 65 6c 6c 6f ")),
        (1, 1)
    );
    assert_eq!((line(" < end"), status.connections()), (1, 1));
}
