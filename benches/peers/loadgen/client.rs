//! A connection of the load generator, the loop around many of them, and the clock.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use ropewalk_peers::{Pattern, Report, Result, cpu_ns};
use rustix::buffer::spare_capacity;
use rustix::event::Timespec;
use rustix::event::epoll::{self, CreateFlags, Event, EventData, EventFlags};
use rustix::fd::OwnedFd;
use socket2::{Domain, Socket, Type};

use crate::transport::{Connector, Transport};

/// A server that sends nothing for this long counts as dead.
const PATIENCE: Duration = Duration::from_secs(10);
/// Source addresses: the ports of one are soon used up, and finding a free one gets slow before
/// that.
const SOURCES: usize = 200;
/// Connections opened or used at once when it is not their load that is measured: fewer than any
/// backlog.
const AT_ONCE: usize = 128;

/// Where to connect to, and how.
pub struct Target {
    pub addr: SocketAddr,
    /// The first byte after 127 of the addresses to connect from
    pub net: u8,
    pub tls: Option<Connector>,
}

/// A connection and the burst it waits for.
pub struct Connection {
    stream: Transport,
    phase: usize,
    sent: usize,
    received: usize,
    /// What has come of a burst that may be answered in any order.
    shuffled: Option<Vec<u8>>,
    begun: Instant,
}

impl Connection {
    /// The `n`th connection. On the loopback device connecting waits for nobody as long as the
    /// backlog has room. A handshake begins with the first bytes that are sent.
    pub fn open(target: &Target, n: usize) -> Result<Self> {
        Self::open_at(target, n, n * 7)
    }

    /// The same, with the number of the burst before its first.
    pub fn open_at(target: &Target, n: usize, phase: usize) -> Result<Self> {
        let Target { addr, net, tls } = target;
        let socket = Socket::new(Domain::for_address(*addr), Type::STREAM, None)?;
        if addr.is_ipv4() {
            let source = [127, *net, 0, (n % SOURCES) as u8 + 1];
            socket.bind(&SocketAddr::from((source, 0)).into())?;
        }
        socket.connect(&(*addr).into())?;
        // For the exchanges that block.
        socket.set_read_timeout(Some(PATIENCE))?;
        socket.set_write_timeout(Some(PATIENCE))?;
        socket.set_nonblocking(true)?;
        socket.set_tcp_nodelay(true)?;
        let begun = Instant::now();
        let tcp = TcpStream::from(socket);
        let stream = match tls {
            None => Transport::Tcp(tcp),
            Some(tls) => tls.connect(tcp)?,
        };
        Ok(Self { stream, phase, sent: 0, received: 0, shuffled: None, begun })
    }

    /// Sends as much of the burst as the kernel takes.
    pub fn send(&mut self, burst: &[u8]) -> Result {
        while self.sent < burst.len() {
            match self.stream.write(&burst[self.sent..]) {
                Ok(sent) => self.sent += sent,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(error.into()),
            }
        }
        // What TLS has taken it may still hold.
        match self.stream.flush() {
            Err(error) if error.kind() != ErrorKind::WouldBlock => Err(error.into()),
            _ => Ok(()),
        }
    }

    /// Reads the bytes that have arrived and compares them. Returns their number.
    pub fn receive(&mut self, burst: &[u8], scratch: &mut [u8]) -> Result<usize> {
        let before = self.received;
        loop {
            let read = match self.stream.read(scratch) {
                Ok(0) => return Err("the server closed the connection".into()),
                Ok(read) => read,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(self.received - before),
                Err(error) => return Err(error.into()),
            };
            if let Some(shuffled) = &mut self.shuffled {
                shuffled.extend_from_slice(&scratch[..read]);
                if shuffled.len() >= burst.len() {
                    same_lines(burst, shuffled)?;
                    shuffled.clear();
                }
            } else if burst.get(self.received..self.received + read) != Some(&scratch[..read]) {
                return Err("the answer is not what was sent".into());
            }
            self.received += read;
            // A read that is not full has emptied a socket, but of TLS it is one record.
            if !self.stream.is_tls() || self.is_done(burst) {
                return Ok(self.received - before);
            }
        }
    }

    /// From here on the answers of a burst may come in any order.
    pub fn take_any_order(&mut self) {
        self.shuffled = Some(Vec::new());
    }

    /// The burst of this connection's phase.
    pub fn burst<'a>(&self, pattern: &'a Pattern) -> &'a [u8] {
        pattern.burst(self.phase)
    }

    /// Begins the next burst.
    pub fn begin(&mut self, pattern: &Pattern) -> Result {
        let phase = self.next_phase();
        self.send(pattern.burst(phase))
    }

    /// The number of the burst that is to be sent now.
    pub fn next_phase(&mut self) -> usize {
        self.phase += 1;
        (self.sent, self.received, self.begun) = (0, 0, Instant::now());
        self.phase
    }

    /// The number of the burst under way.
    pub fn phase(&self) -> usize {
        self.phase
    }

    /// How many frames of the burst were answered.
    pub fn frames(&self, pattern: &Pattern) -> u64 {
        (self.received / pattern.frame()) as u64
    }

    /// Whether the whole burst was answered.
    pub fn is_done(&self, burst: &[u8]) -> bool {
        self.received == burst.len()
    }

    /// How long ago the burst began.
    pub fn elapsed(&self) -> Duration {
        self.begun.elapsed()
    }

    /// Sends `bytes` and waits for the answer.
    pub fn exchange(&mut self, bytes: &[u8]) -> Result {
        self.ask(bytes, bytes)
    }

    /// Sends `bytes` and waits for this answer.
    pub fn ask(&mut self, bytes: &[u8], answer: &[u8]) -> Result {
        self.put(bytes)?;
        self.expect(answer)
    }

    /// Sends bytes; the answer to more than fits the kernel's buffers has to be read at the same
    /// time.
    pub fn put(&mut self, bytes: &[u8]) -> Result {
        self.stream.tcp().set_nonblocking(false)?;
        self.stream.write_all(bytes)?;
        self.stream.flush()?;
        Ok(self.stream.tcp().set_nonblocking(true)?)
    }

    /// Waits for this answer.
    pub fn expect(&mut self, bytes: &[u8]) -> Result {
        self.stream.tcp().set_nonblocking(false)?;
        let mut answer = vec![0; bytes.len()];
        self.stream.read_exact(&mut answer)?;
        self.stream.tcp().set_nonblocking(true)?;
        if answer == bytes { Ok(()) } else { Err("the answer is not what was sent".into()) }
    }
}

/// Compares answers that may come in any order.
fn same_lines(sent: &[u8], received: &[u8]) -> Result {
    let sorted = |bytes: &[u8]| {
        let mut lines: Vec<_> = bytes.split(|&byte| byte == b'\n').map(<[u8]>::to_vec).collect();
        lines.sort_unstable();
        lines
    };
    if sorted(sent) == sorted(received) { Ok(()) } else { Err("the answers are not what was sent".into()) }
}

/// Opens connections and has a frame answered on each.
pub fn open_all(target: &Target, count: usize, frame: &[u8]) -> Result<Vec<Connection>> {
    let mut connections: Vec<Connection> = Vec::new();
    while connections.len() < count {
        let opened = connections.len();
        for n in opened..count.min(opened + AT_ONCE) {
            connections.push(Connection::open(target, n).map_err(|error| format!("connection {n}: {error}"))?);
        }
        exchange_all(&mut connections[opened..], frame)?;
    }
    Ok(connections)
}

/// Has a frame answered on each.
pub fn exchange_all(connections: &mut [Connection], frame: &[u8]) -> Result {
    for connections in connections.chunks_mut(AT_ONCE) {
        connections.iter_mut().try_for_each(|connection| connection.put(frame))?;
        connections.iter_mut().try_for_each(|connection| connection.expect(frame))?;
    }
    Ok(())
}

/// What to do when the kernel reports a connection.
pub struct Poller {
    epoll: OwnedFd,
    events: Vec<Event>,
}

impl Poller {
    pub fn new() -> Result<Self> {
        Ok(Self { epoll: epoll::create(CreateFlags::CLOEXEC)?, events: Vec::with_capacity(1024) })
    }

    pub fn add(&self, at: usize, connection: &Connection) -> Result {
        let flags = EventFlags::IN | EventFlags::OUT | EventFlags::ET;
        Ok(epoll::add(&self.epoll, connection.stream.tcp(), EventData::new_u64(at as u64), flags)?)
    }

    /// Waits for connections; `ready` is then each one's number and whether there is something to
    /// read.
    pub fn wait(&mut self, ready: &mut Vec<(usize, bool)>) -> Result {
        self.events.clear();
        ready.clear();
        let patience = Timespec { tv_sec: PATIENCE.as_secs() as i64, tv_nsec: 0 };
        epoll::wait(&self.epoll, spare_capacity(&mut self.events), Some(&patience))?;
        if self.events.is_empty() {
            return Err(format!("the server answered nothing for {} s", PATIENCE.as_secs()).into());
        }
        ready.extend(self.events.iter().map(|event| (event.data.u64() as usize, { event.flags } != EventFlags::OUT)));
        Ok(())
    }
}

/// What is counted between the begin and the end of a measurement.
pub struct Meter {
    server: Option<u32>,
    begun: Instant,
    server_ns: u64,
    client_ns: u64,
    requests: u64,
    latency: Histogram<u64>,
}

impl Meter {
    pub fn begin(server: Option<u32>) -> Result<Self> {
        Ok(Self {
            server,
            server_ns: server.map_or(Ok(0), cpu_ns)?,
            client_ns: cpu_ns(std::process::id())?,
            requests: 0,
            // From 100 ns to 60 s, in steps of under 1 %.
            latency: Histogram::new_with_bounds(100, 60_000_000_000, 2)?,
            begun: Instant::now(),
        })
    }

    /// Records that this many requests were answered, this long after they were sent.
    pub fn answered(&mut self, requests: u64, after: Duration) {
        self.requests += requests;
        self.latency.saturating_record_n(after.as_nanos() as u64, requests);
    }

    pub fn elapsed(&self) -> Duration {
        self.begun.elapsed()
    }

    pub fn end(self) -> Result<Report> {
        let seconds = self.elapsed().as_secs_f64();
        let server_ns = self.server.map(cpu_ns).transpose()?.map(|ns| (ns - self.server_ns) as f64);
        let client_ns = (cpu_ns(std::process::id())? - self.client_ns) as f64;
        if self.requests == 0 {
            return Err("nothing was answered in the time".into());
        }
        let at = |quantile| self.latency.value_at_quantile(quantile) as f64 / 1000.0;
        Ok(Report {
            requests: self.requests,
            seconds,
            per_second: self.requests as f64 / seconds,
            p50_us: at(0.5),
            p99_us: at(0.99),
            p999_us: at(0.999),
            server_us: server_ns.map(|ns| ns / 1000.0 / self.requests as f64),
            server_busy: server_ns.map(|ns| ns / 1e9 / seconds),
            client_busy: client_ns / 1e9 / seconds,
        })
    }
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;
    use std::thread;

    use ropewalk_peers::Mode;

    use super::*;

    /// A server that answers one connection with what `spoil` makes of what it reads, then closes.
    fn server(read: usize, spoil: impl FnOnce(&mut Vec<u8>) + Send + 'static) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let addr = listener.local_addr().unwrap();
        thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut bytes = vec![0; read];
            stream.read_exact(&mut bytes).unwrap();
            spoil(&mut bytes);
            stream.write_all(&bytes).unwrap();
        });
        addr
    }

    /// What comes of a burst of four frames.
    fn outcome(spoil: impl FnOnce(&mut Vec<u8>, usize) + Send + 'static) -> Result {
        let pattern = Pattern::new(Mode::Line, 64, 4);
        let (length, frame) = (pattern.burst(0).len(), pattern.frame());
        let addr = server(length, move |bytes| spoil(bytes, frame));
        let mut connection = Connection::open(&Target { addr, net: 1, tls: None }, 0)?;
        connection.begin(&pattern)?;
        let burst = connection.burst(&pattern);
        let mut scratch = vec![0; length + 1];
        connection.stream.tcp().set_nonblocking(false)?;
        while !connection.is_done(burst) {
            connection.receive(burst, &mut scratch)?;
        }
        assert_eq!(connection.frames(&pattern), 4);
        Ok(())
    }

    #[test]
    fn an_answer_equal_to_the_request_is_counted() {
        outcome(|_, _| {}).unwrap();
    }

    #[test]
    fn an_answer_of_which_a_byte_differs_is_an_error() {
        assert!(outcome(|bytes, _| bytes[100] ^= 1).is_err());
    }

    #[test]
    fn answers_out_of_order_lost_or_doubled_are_errors() {
        assert!(outcome(|bytes, frame| bytes.rotate_left(frame)).is_err());
        assert!(outcome(|bytes, frame| drop(bytes.drain(..frame))).is_err());
        assert!(outcome(|bytes, frame| bytes.extend_from_within(..frame)).is_err());
    }

    #[test]
    fn an_answer_that_is_cut_is_an_error() {
        assert!(outcome(|bytes, _| bytes.truncate(70)).is_err());
    }
}
