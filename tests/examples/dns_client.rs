//! The dns_client example asks our own server, over TLS, and answers overtake one another.

use crate::encrypted::{Ca, Folder};
use crate::support::{Example, TempDir, command};

#[test]
fn answers_come_as_they_are_ready_over_tls_and_each_is_its_names() {
    let (ca, folder) = (Ca::new(), Folder::new());
    let (roots, issued) = (folder.write("ca.pem", ca.pem()), ca.issue(["localhost"]));
    let (cert, key) =
        (folder.write("cert.pem", &issued.cert), folder.write("key.pem", &issued.key));
    let mut server = command("dns");
    server.args(["--zone", "examples/dns/example.zone", "--slow", "www.example.org", "--listen"]);
    server.arg(format!("tls:127.0.0.1:0?cert={}&key={}&alpn=dot", cert.display(), key.display()));
    let example = Example::spawn_behind(server, TempDir::new());
    let remote = format!("tls:localhost:{}?ca={}&alpn=dot", example.first.port(), roots.display());
    for to in [remote, format!("tcp:{}", example.tcp)] {
        let names = ["www.example.org", "mail.example.org", "nobody.example.org"];
        let output = command("dns_client").args(["--to", &to]).args(names).output().unwrap();
        assert!(output.status.success(), "{output:?}");
        let text = String::from_utf8(output.stdout).unwrap();
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines.len(), 3, "{text}");
        assert!(
            lines[2].starts_with("www.example.org 192.0.2."),
            "the slow one comes last: {text}"
        );
        assert!(lines.iter().any(|line| line.starts_with("mail.example.org 192.0.2.")), "{text}");
        assert!(lines.contains(&"nobody.example.org "), "{text}");
    }
}
