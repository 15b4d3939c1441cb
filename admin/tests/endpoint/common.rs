//! A server with an admin endpoint, and a client of it.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use ropewalk::memory::{self, Connector};
use ropewalk::server::Serve;
use ropewalk::{Addr, Bytes, Handle, Lines, Server, framed, reply_fn};
use ropewalk_admin::Admin;
use serde_json::Value;
use tempfile::TempDir;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, BufReader};
use tokio::net::{TcpStream, UnixStream};

pub(crate) const TOKEN: &str = "0123456789abcdef0123456789abcdef";

/// A server of lines in memory, which runs.
pub(crate) struct Watched {
    pub(crate) handle: Handle,
    connector: Connector,
}

impl Watched {
    pub(crate) async fn start() -> Self {
        Self::with(Server::new()).await
    }

    pub(crate) async fn with(server: Server) -> Self {
        let (endpoint, connector) = memory::endpoint();
        let serve =
            server.listen(endpoint).serve(framed(Lines::any(), reply_fn(|line: Bytes| line)));
        let serve = serve.bind().await.unwrap();
        let handle = serve.handle();
        tokio::spawn(serve);
        Self { handle, connector }
    }

    /// A connection that has been answered once.
    pub(crate) async fn connect(&self) -> BufReader<impl AsyncRead + AsyncWrite + Unpin + use<>> {
        let mut stream = BufReader::new(self.connector.connect().await.unwrap());
        say(&mut stream, "hello").await;
        stream
    }
}

/// Sends a line, and reads it back.
pub(crate) async fn say(stream: &mut (impl AsyncRead + AsyncWrite + Unpin), line: &str) {
    stream.write_all(format!("{line}\n").as_bytes()).await.unwrap();
    let mut back = vec![0; line.len() + 1];
    stream.read_exact(&mut back).await.unwrap();
    assert_eq!(back, format!("{line}\n").as_bytes());
}

/// An admin endpoint that runs.
pub(crate) struct Asked {
    pub(crate) handle: Handle,
}

/// A folder with a token in it.
pub(crate) fn token_file() -> (TempDir, PathBuf) {
    let dir = TempDir::new().unwrap();
    let file = dir.path().join("token");
    write_token(&file, TOKEN);
    (dir, file)
}

pub(crate) fn write_token(file: &Path, token: &str) {
    use std::os::unix::fs::PermissionsExt;
    std::fs::write(file, format!("{token}\n")).unwrap();
    std::fs::set_permissions(file, std::fs::Permissions::from_mode(0o600)).unwrap();
}

pub(crate) fn spawned(admin: Serve) -> Asked {
    let handle = admin.handle();
    tokio::spawn(admin);
    Asked { handle }
}

impl Asked {
    /// An endpoint on a free port, with a token.
    pub(crate) async fn tcp(watched: &Watched) -> Self {
        Self::with(watched, Admin::new()).await
    }

    pub(crate) async fn with(watched: &Watched, admin: Admin) -> Self {
        let (_dir, file) = token_file();
        spawned(
            admin.listen("tcp:127.0.0.1:0").token_file(file).bind(&watched.handle).await.unwrap(),
        )
    }

    /// Sends these bytes on a connection of its own, and reads all that comes back.
    pub(crate) async fn raw(&self, request: &str) -> Answer {
        match &self.handle.addresses()[0] {
            Addr::Tcp(tcp) => exchange(TcpStream::connect(tcp).await.unwrap(), request).await,
            Addr::Unix(Some(path)) => {
                exchange(UnixStream::connect(path).await.unwrap(), request).await
            }
            other => panic!("{other}"),
        }
    }

    /// A request with these headers, and no others but Host.
    pub(crate) async fn request(
        &self,
        method: &str,
        path: &str,
        headers: &[&str],
        body: &str,
    ) -> Answer {
        let headers: String = headers.iter().map(|header| format!("{header}\r\n")).collect();
        let length = if body.is_empty() {
            String::new()
        } else {
            format!("Content-Length: {}\r\n", body.len())
        };
        let head = format!(
            "{method} {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n{length}{headers}\r\n"
        );
        self.raw(&(head + body)).await
    }

    pub(crate) async fn get(&self, path: &str) -> Answer {
        self.request("GET", path, &[&bearer(TOKEN)], "").await
    }

    pub(crate) async fn post(&self, path: &str, body: &str) -> Answer {
        self.request("POST", path, &[&bearer(TOKEN)], body).await
    }
}

/// An encrypted connection to its first address.
pub(crate) async fn encrypted(
    asked: &Asked,
    roots: tokio_rustls::rustls::RootCertStore,
) -> tokio_rustls::client::TlsStream<TcpStream> {
    let ring = tokio_rustls::rustls::crypto::ring::default_provider();
    let config = tokio_rustls::rustls::ClientConfig::builder_with_provider(ring.into())
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let connector = tokio_rustls::TlsConnector::from(std::sync::Arc::new(config));
    let port = asked.handle.addresses()[0].to_string().rsplit(':').next().unwrap().parse().unwrap();
    let tcp = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
    connector.connect("localhost".try_into().unwrap(), tcp).await.unwrap()
}

pub(crate) fn bearer(token: &str) -> String {
    format!("Authorization: Bearer {token}")
}

pub(crate) async fn exchange(
    mut stream: impl AsyncRead + AsyncWrite + Unpin,
    request: &str,
) -> Answer {
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut all = Vec::new();
    stream.read_to_end(&mut all).await.unwrap();
    Answer::parse(&String::from_utf8(all).unwrap())
}

#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: HashMap<String, String>,
    pub(crate) body: String,
}

impl Answer {
    fn parse(text: &str) -> Self {
        let (head, body) =
            text.split_once("\r\n\r\n").unwrap_or_else(|| panic!("no answer: {text:?}"));
        let mut lines = head.lines();
        let status = lines.next().unwrap().split(' ').nth(1).unwrap().parse().unwrap();
        let header = |line: &str| {
            line.split_once(": ").map(|(name, value)| (name.to_lowercase(), value.to_owned()))
        };
        Self { status, headers: lines.filter_map(header).collect(), body: body.to_owned() }
    }

    pub(crate) fn json(&self) -> Value {
        assert_eq!(
            (self.status, &*self.headers["content-type"]),
            (200, "application/json"),
            "{}",
            self.body
        );
        serde_json::from_str(&self.body).unwrap()
    }
}
