//! A connection that is recorded.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::{SystemTime, UNIX_EPOCH};

use super::packets::{self, ACK, FIN, MOST, PUSH, Packet, RST, SYN};
use super::recording::{Recording, TapEnd};
use super::rules::TapFormat;
use super::{TapShared, hex};
use crate::connection::{ByteObserver, Moved};
use crate::{Addr, Connection, Escaped};

/// The number of ports that connections without an address have.
const PORTS: u64 = 60_000;

/// Records what it sees. It keeps no tap alive.
pub(super) struct TappedConnection {
    shared: Weak<TapShared>,
    recording: Weak<Recording>,
    flow: Mutex<Flow>,
}

/// The stream so far.
#[derive(Default)]
struct Flow {
    /// The peer's and the server's end; `None` until the first record.
    ends: Option<[SocketAddr; 2]>,
    /// How many bytes each end has sent.
    sent: [u64; 2],
    /// Which ends have sent their end.
    ended: [bool; 2],
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Sender {
    Peer = 0,
    Server = 1,
}

impl TappedConnection {
    pub(super) fn new(shared: &Arc<TapShared>, recording: &Arc<Recording>) -> Self {
        Self {
            shared: Arc::downgrade(shared),
            recording: Arc::downgrade(recording),
            flow: Mutex::default(),
        }
    }
}

impl ByteObserver for TappedConnection {
    fn saw(&self, connection: &Connection, moved: Moved<'_>) {
        let Some(recording) = self.recording.upgrade() else {
            return connection.end_observation(self);
        };
        // The flow is consistent even after a panic.
        let mut flow = self.flow.lock().unwrap_or_else(PoisonError::into_inner);
        let mut record = FlowRecord { recording: &recording, connection, flow: &mut flow };
        if let Err(end) = record.moved(moved) {
            if let Some(shared) = self.shared.upgrade() {
                shared.end(recording.status(), end);
            }
            connection.end_observation(self);
        }
    }
}

/// What is needed for a record.
struct FlowRecord<'a> {
    recording: &'a Recording,
    connection: &'a Connection,
    flow: &'a mut Flow,
}

impl FlowRecord<'_> {
    fn moved(&mut self, moved: Moved<'_>) -> Result<(), TapEnd> {
        if self.flow.ends.is_none() {
            self.open()?;
        }
        match moved {
            Moved::Read([]) => self.fin(Sender::Peer),
            Moved::Read(bytes) => self.bytes(Sender::Peer, bytes),
            Moved::Written(bytes) => self.bytes(Sender::Server, bytes),
            Moved::Ended { is_reset: true } => self.reset(Sender::Server),
            Moved::Ended { .. } if self.connection.closing().is_lost() => self.reset(Sender::Peer),
            Moved::Shut | Moved::Ended { .. } => self.fin(Sender::Server),
        }
    }

    /// The time in microseconds since 1970.
    fn now() -> u64 {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        u64::try_from(since.as_micros()).unwrap_or(u64::MAX)
    }

    fn open(&mut self) -> Result<(), TapEnd> {
        let peer = self.connection.peer().addr();
        let local = self.connection.local();
        self.flow.ends = Some(ends(self.connection, peer, &local));
        self.recording.status().note_connection();
        let id = self.connection.id();
        match self.recording.rules().format {
            TapFormat::PcapNg => {
                let comment = format!("connection {id} from {}", Escaped::display(peer));
                self.handshake(&comment)
            }
            TapFormat::Hex => {
                let peer = Escaped::display(peer);
                let local = Escaped::display(&local);
                self.text(&format!("open, {peer} to {local}"))
            }
        }
    }

    fn handshake(&mut self, comment: &str) -> Result<(), TapEnd> {
        let Some([peer, server]) = self.flow.ends else { return Ok(()) };
        let now = Self::now();
        let packet = |from, to, flags, sequence, acknowledged| Packet {
            from,
            to,
            flags,
            sequence,
            acknowledged,
            bytes: &[],
        };
        let write = |packet, comment| self.recording.write(packets::record(now, packet, comment));
        write(packet(peer, server, SYN, 0, 0), Some(comment))?;
        write(packet(server, peer, SYN | ACK, 0, 1), None)?;
        write(packet(peer, server, ACK, 1, 1), None)
    }

    fn bytes(&mut self, sender: Sender, bytes: &[u8]) -> Result<(), TapEnd> {
        for part in bytes.chunks(MOST) {
            let before = self.flow.sent[sender as usize];
            let written = match self.recording.rules().format {
                TapFormat::PcapNg => self.packet(sender, PUSH | ACK, part),
                TapFormat::Hex => {
                    let arrow = if sender == Sender::Peer { '>' } else { '<' };
                    let id = self.connection.id();
                    self.recording.write(hex::dump(Self::now(), id, arrow, before, part).into())
                }
            };
            // Also of bytes that are missing from the file.
            self.flow.sent[sender as usize] = before.wrapping_add(part.len() as u64);
            written?;
        }
        Ok(())
    }

    fn fin(&mut self, sender: Sender) -> Result<(), TapEnd> {
        if std::mem::replace(&mut self.flow.ended[sender as usize], true) {
            return Ok(());
        }
        match self.recording.rules().format {
            TapFormat::PcapNg => self.packet(sender, FIN | ACK, &[]),
            TapFormat::Hex if sender == Sender::Peer => self.text("> end"),
            TapFormat::Hex => self.text("< end"),
        }
    }

    fn reset(&mut self, sender: Sender) -> Result<(), TapEnd> {
        match self.recording.rules().format {
            TapFormat::PcapNg => self.packet(sender, RST | ACK, &[]),
            TapFormat::Hex if sender == Sender::Peer => self.text("> reset"),
            TapFormat::Hex => self.text("< reset"),
        }
    }

    fn text(&self, text: &str) -> Result<(), TapEnd> {
        self.recording.write(hex::line(Self::now(), self.connection.id(), text).into())
    }

    fn packet(&self, sender: Sender, flags: u8, bytes: &[u8]) -> Result<(), TapEnd> {
        let Some([peer, server]) = self.flow.ends else { return Ok(()) };
        let [of_peer, of_server] =
            [Sender::Peer, Sender::Server].map(|end| self.flow.position(end));
        let packet = match sender {
            Sender::Peer => Packet {
                from: peer,
                to: server,
                flags,
                sequence: of_peer,
                acknowledged: of_server,
                bytes,
            },
            Sender::Server => Packet {
                from: server,
                to: peer,
                flags,
                sequence: of_server,
                acknowledged: of_peer,
                bytes,
            },
        };
        self.recording.write(packets::record(Self::now(), packet, None))
    }
}

impl Flow {
    /// The sequence number of the next byte of an end: the beginning of the stream has number 0.
    fn position(&self, end: Sender) -> u32 {
        let low = u32::try_from(self.sent[end as usize] & u64::from(u32::MAX)).unwrap_or_default();
        low.wrapping_add(1)
    }
}

/// The peer's and the server's address, of the same family.
fn ends(connection: &Connection, peer: &Addr, local: &Addr) -> [SocketAddr; 2] {
    let id = connection.id();
    let synthetic = || {
        let address = u32::from(Ipv4Addr::LOCALHOST)
            .saturating_add(u32::try_from(id / PORTS).unwrap_or(u32::MAX) % 0x00ff_0000);
        let port = u16::try_from(1024 + id % PORTS).unwrap_or(u16::MAX);
        SocketAddr::from((Ipv4Addr::from(address), port))
    };
    let port = || u16::try_from(connection.listener()).unwrap_or(u16::MAX).saturating_add(1);
    let ends = match (peer, local) {
        (Addr::Tcp(peer), Addr::Tcp(local)) => [*peer, *local],
        (Addr::Tcp(peer), _) => [*peer, SocketAddr::from((Ipv4Addr::LOCALHOST, port()))],
        _ => [synthetic(), SocketAddr::from((Ipv4Addr::LOCALHOST, port()))],
    };
    let mapped = |end: SocketAddr| match end {
        SocketAddr::V4(v4) => SocketAddr::from((v4.ip().to_ipv6_mapped(), v4.port())),
        SocketAddr::V6(_) => end,
    };
    if ends[0].is_ipv4() == ends[1].is_ipv4() { ends } else { ends.map(mapped) }
}
