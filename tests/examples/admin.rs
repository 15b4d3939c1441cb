//! The example `admin`: what operators and their tools ask, and the page in a browser.

use std::fs::{Permissions, set_permissions, write};
use std::os::unix::fs::PermissionsExt;
use std::process::Command;

use crate::support::{Client, Example, TempDir, command, program, run, until};

const TOKEN: &str = "a-token-of-the-tests";

/// The example with a token, and its admin endpoint on TCP.
fn admin() -> Example {
    let (mut command, dir) = (command("admin"), TempDir::new());
    let file = dir.join("token");
    write(&file, TOKEN).unwrap();
    set_permissions(&file, Permissions::from_mode(0o600)).unwrap();
    // A port of the system's choice would not be known.
    let port = crate::generations::free_port();
    command.arg("--admin").arg(format!("tcp:{port}")).arg("--token-file").arg(file);
    let mut example = Example::spawn(command, dir);
    example.first = port;
    until("the admin endpoint listens", || Client::try_tcp(port).is_ok());
    example
}

fn asked(example: &Example, request: &str) -> String {
    let mut client = Client::tcp(example.first);
    let token = format!("Authorization: Bearer {TOKEN}");
    client.send(format!(
        "{request} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n{token}\r\n\r\n"
    ));
    String::from_utf8(client.rest()).unwrap()
}

/// What a browser makes of the page, and the lines of its log.
fn page(example: &Example) -> Option<(String, String)> {
    let chromium = program("chromium")?;
    let mut command = Command::new(chromium);
    // Tests may run as root, and then it has no sandbox; the page is our own.
    command.args([
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--virtual-time-budget=6000",
        "--enable-logging=stderr",
    ]);
    command.arg(format!("--user-data-dir={}", example.dir.join("chromium").display()));
    command.arg("--dump-dom").arg(format!("http://{}/#token={TOKEN}", example.first));
    let output = command.output().unwrap();
    assert!(output.status.success());
    Some((
        String::from_utf8(output.stdout).unwrap(),
        String::from_utf8_lossy(&output.stderr).into_owned(),
    ))
}

#[test]
fn the_connections_are_listed_with_their_names_and_one_is_aborted() {
    let mut example = admin();
    let mut client = example.tcp();
    client.ask("I am Zoë\n", "I am Zoë\n");
    client.ask("sleep 2\n", "sleep 2\n");
    let listed = asked(&example, "GET /connections?q=zo%C3%AB");
    assert!(listed.contains("\"matched\":1") && listed.contains("\"name\":\"Zoë\""), "{listed}");
    until("the metrics have it", || {
        asked(&example, "GET /metrics").contains("ropewalk_connections_active")
    });
    let status = asked(&example, "GET /status");
    assert!(
        status.contains("\"name\":\"lines\"") && status.contains("[\"slots taken, of 5000\",1]"),
        "{status}"
    );
    let id = listed.split("\"id\":").nth(1).unwrap().split(',').next().unwrap();
    assert!(asked(&example, &format!("POST /connections/{id}/abort")).starts_with("HTTP/1.1 200 "));
    assert!(client.ends());
    example.terminate();
    assert!(example.wait().success());
}

#[test]
fn a_browser_shows_the_page_and_takes_a_name_of_markup_for_text() {
    let mut example = admin();
    let mut client = example.tcp();
    let name =
        "<script>document.title='changed'</script><img src=x onerror=document.title='changed'>";
    client.ask(format!("I am {name}\n"), format!("I am {name}\n"));
    let Some((page, log)) = page(&example) else { return };
    assert!(page.contains("<title>ropewalk</title>"), "{page}");
    // Its script ran, was let in with the token, and wrote the name as text.
    assert!(page.contains(">running</span>"), "{page}");
    assert!(
        page.contains("&lt;script&gt;document.title='changed'&lt;/script&gt;&lt;img src=x"),
        "{page}"
    );
    assert!(!page.contains("<img"), "{page}");
    assert_eq!(page.matches("<script").count(), 1, "{page}");
    assert!(page.contains("1 of 1 that match, of 1 open"), "{page}");
    // The browser says if a policy forbids what the page does.
    let complaints: Vec<&str> = log.lines().filter(|line| line.contains("CONSOLE")).collect();
    assert!(complaints.is_empty(), "{complaints:?}");
    drop(client);
    example.terminate();
    assert!(example.wait().success());
}

#[test]
fn a_non_loopback_address_is_refused_and_the_error_names_the_fix() {
    let mut command = command("admin");
    command.args(["--listen", "tcp:127.0.0.1:0", "--admin", "tcp:0.0.0.0:0"]);
    let (status, text) = run(command);
    assert!(!status.success());
    assert!(
        text.contains("other machines") && text.contains("token_file") && text.contains("tls:"),
        "{text}"
    );
}
