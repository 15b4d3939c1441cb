//! A blocking client: every read has a deadline.

use std::collections::HashSet;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::Path;

use socket2::{Domain, Socket, Type};

use super::PATIENCE;

pub struct Client {
    stream: Stream,
    /// Read, and not yet asked for.
    ahead: Vec<u8>,
}

enum Stream {
    Tcp(TcpStream),
    Unix(UnixStream),
}

impl Client {
    pub fn tcp(address: SocketAddr) -> Self {
        Self::try_tcp(address).expect("the example accepts")
    }

    /// From another address of this machine.
    pub fn tcp_from(from: [u8; 4], address: SocketAddr) -> Self {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        socket.bind(&SocketAddr::from((from, 0)).into()).unwrap();
        socket.connect(&address.into()).expect("the example accepts");
        Self::of(socket.into()).unwrap()
    }

    pub fn try_tcp(address: SocketAddr) -> io::Result<Self> {
        Self::of(TcpStream::connect_timeout(&address, PATIENCE)?)
    }

    fn of(stream: TcpStream) -> io::Result<Self> {
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        Ok(Self { stream: Stream::Tcp(stream), ahead: Vec::new() })
    }

    pub fn unix(path: &Path) -> Self {
        let stream = UnixStream::connect(path).expect("the example accepts");
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.set_write_timeout(Some(PATIENCE)).unwrap();
        Self { stream: Stream::Unix(stream), ahead: Vec::new() }
    }

    pub fn try_send(&mut self, bytes: impl AsRef<[u8]>) -> io::Result<()> {
        match &mut self.stream {
            Stream::Tcp(stream) => stream.write_all(bytes.as_ref()),
            Stream::Unix(stream) => stream.write_all(bytes.as_ref()),
        }
    }

    pub fn send(&mut self, bytes: impl AsRef<[u8]>) {
        self.try_send(bytes).expect("the example reads");
    }

    /// Sends piece by piece.
    pub fn send_pieces(&mut self, pieces: &[&[u8]]) {
        for piece in pieces {
            self.send(piece);
        }
    }

    /// Says that nothing more will come, as `nc -N` does.
    pub fn finish(&self) {
        match &self.stream {
            Stream::Tcp(stream) => stream.shutdown(Shutdown::Write),
            Stream::Unix(stream) => stream.shutdown(Shutdown::Write),
        }
        .expect("the connection is open");
    }

    /// The same connection, for another thread to send on.
    pub fn sender(&self) -> Self {
        let stream = match &self.stream {
            Stream::Tcp(stream) => Stream::Tcp(stream.try_clone().unwrap()),
            Stream::Unix(stream) => Stream::Unix(stream.try_clone().unwrap()),
        };
        Self { stream, ahead: Vec::new() }
    }

    /// Reads once. 0 is the end.
    fn fill(&mut self) -> io::Result<usize> {
        let mut buf = [0; 16 * 1024];
        let n = match &mut self.stream {
            Stream::Tcp(stream) => stream.read(&mut buf),
            Stream::Unix(stream) => stream.read(&mut buf),
        }?;
        self.ahead.extend_from_slice(&buf[..n]);
        Ok(n)
    }

    /// Exactly the next `n` bytes.
    pub fn read(&mut self, n: usize) -> Vec<u8> {
        while self.ahead.len() < n {
            let got =
                self.fill().unwrap_or_else(|error| panic!("{error} after {:?}", self.shown()));
            assert!(got > 0, "the end after {:?}", self.shown());
        }
        self.ahead.drain(..n).collect()
    }

    /// The next line, with its end.
    pub fn line(&mut self) -> String {
        let mut searched = 0;
        loop {
            if let Some(end) = self.ahead[searched..].iter().position(|&byte| byte == b'\n') {
                let line = self.read(searched + end + 1);
                return String::from_utf8(line).expect("a line of text");
            }
            searched = self.ahead.len();
            let got =
                self.fill().unwrap_or_else(|error| panic!("{error} after {:?}", self.shown()));
            assert!(got > 0, "the end after {:?}", self.shown());
        }
    }

    /// All that comes up to a proper end.
    pub fn rest(&mut self) -> Vec<u8> {
        loop {
            match self.fill() {
                Ok(0) => return std::mem::take(&mut self.ahead),
                Ok(_) => {}
                Err(error) => panic!("{error} and no end, after {:?}", self.shown()),
            }
        }
    }

    /// Reads until it ends, properly or not; false if it has not ended in time.
    pub fn ends(&mut self) -> bool {
        loop {
            match self.fill() {
                Ok(0) => return true,
                Ok(_) => self.ahead.clear(),
                Err(error) => {
                    return !matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut);
                }
            }
        }
    }

    /// Sends a request and checks the answer.
    pub fn ask(&mut self, request: impl AsRef<[u8]>, answer: impl AsRef<[u8]>) {
        self.send(request);
        self.expect(answer);
    }

    pub fn expect(&mut self, bytes: impl AsRef<[u8]>) {
        let bytes = bytes.as_ref();
        let read = self.read(bytes.len());
        assert!(read == bytes, "expected {}, read {}", bytes.escape_ascii(), read.escape_ascii());
    }

    /// The end of what was read, for messages.
    fn shown(&self) -> String {
        let from = self.ahead.len().saturating_sub(200);
        self.ahead[from..].escape_ascii().to_string()
    }
}

/// Waits until the kernel at the other end has all that these have sent, whether the program has
/// read it or not.
pub fn acknowledged(clients: &[Client]) {
    // What was written to a Unix socket is with the other end already.
    let ports = |client: &Client| match &client.stream {
        Stream::Tcp(stream) => {
            Some((stream.local_addr().unwrap().port(), stream.peer_addr().unwrap().port()))
        }
        Stream::Unix(_) => None,
    };
    let sent: HashSet<(u16, u16)> = clients.iter().filter_map(ports).collect();
    super::until("TCP has acknowledged all", || {
        let table = std::fs::read_to_string("/proc/net/tcp").unwrap();
        // sl local_address rem_address st tx_queue:rx_queue …
        let rows = table
            .lines()
            .skip(1)
            .map(|row| row.split_whitespace().skip(1).take(4).collect::<Vec<_>>());
        let done = rows.filter(|row| {
            row[3].starts_with("00000000:") && sent.contains(&(port(row[0]), port(row[1])))
        });
        done.count() == sent.len()
    });
}

/// The port of an address as the kernel's table has it: `0100007F:1F47`.
fn port(address: &str) -> u16 {
    let (_, port) = address.rsplit_once(':').unwrap();
    u16::from_str_radix(port, 16).unwrap()
}
