//! The example `admin`: what operators and their tools ask, and the page in a browser.

use std::fs::{Permissions, set_permissions, write};
use std::os::unix::fs::PermissionsExt;
use std::process::Command;

use rustix::process::Signal;

use crate::support::{Client, Example, TempDir, command, program, run, until};

pub(crate) const TOKEN: &str = "a-token-of-the-tests";

/// The example with a token, and its admin endpoint on TCP.
pub(crate) fn admin() -> Example {
    admin_by(command("admin"))
}

/// The same, by this command.
fn admin_by(mut command: Command) -> Example {
    let dir = TempDir::new();
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
    asked_with(example, request, TOKEN)
}

fn asked_with(example: &Example, request: &str, token: &str) -> String {
    let mut client = Client::tcp(example.first);
    let token = format!("Authorization: Bearer {token}");
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

#[test]
fn a_signal_reloads_the_token() {
    let mut example = admin();
    let another = "another-token-of-the-tests";
    write(example.dir.join("token"), another).unwrap();
    assert!(asked_with(&example, "GET /status", another).starts_with("HTTP/1.1 401 "));
    example.signal(Signal::HUP);
    until("the new token is in use", || {
        asked_with(&example, "GET /status", another).starts_with("HTTP/1.1 200 ")
    });
    assert!(asked(&example, "GET /status").starts_with("HTTP/1.1 401 "));
    example.terminate();
    assert!(example.wait().success());
}

/// By default a server leaves enough descriptors.
#[test]
fn it_answers_while_the_server_has_as_many_connections_as_its_descriptors_allow() {
    let Some(prlimit) = program("prlimit") else { return };
    let mut limited = Command::new(prlimit);
    limited.arg("--nofile=300").arg(command("admin").get_program());
    let mut example = admin_by(limited);
    // Each has been served, so it need not make room for those that wait.
    let mut clients = Vec::new();
    for n in 0..250 {
        let mut client = example.tcp();
        client.send(format!("I am {n}\n"));
        clients.push(client);
    }
    let listed = || asked(&example, "GET /connections?limit=1");
    until("it is full", || {
        let open = listed()
            .split("\"open\":")
            .nth(1)
            .and_then(|text| text.split(',').next()?.parse::<u32>().ok());
        open.is_some_and(|open| open >= 176)
    });
    // As many at once as it takes.
    let mut streams: Vec<Client> = (0..64).map(|_| Client::tcp(example.first)).collect();
    for client in &mut streams {
        client.send("GET /readyz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
    }
    for mut client in streams {
        assert!(client.rest().starts_with(b"HTTP/1.1 200 "));
    }
    drop(clients);
    example.terminate();
    assert!(example.wait().success());
}
