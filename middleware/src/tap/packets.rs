//! Packet captures (pcap-ng), with packets made from the bytes of a stream.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

/// Packets without a header of a link: IPv4 or IPv6, by their first byte.
const RAW: u16 = 101;

/// The option of a block that is a comment.
const COMMENT: u16 = 1;

/// The most bytes of a stream in a packet: with its headers it has to fit into 64 KiB.
pub(super) const MOST: usize = 32 * 1024;

pub(super) const FIN: u8 = 1;
pub(super) const SYN: u8 = 2;
pub(super) const RST: u8 = 4;
pub(super) const PUSH: u8 = 8;
pub(super) const ACK: u8 = 16;

/// A packet of a TCP stream.
#[derive(Clone, Copy, Debug)]
pub(super) struct Packet<'a> {
    pub(super) from: SocketAddr,
    pub(super) to: SocketAddr,
    pub(super) flags: u8,
    pub(super) sequence: u32,
    pub(super) acknowledged: u32,
    /// At most [`MOST`].
    pub(super) bytes: &'a [u8],
}

/// The blocks at the beginning of a file: a section, and its one interface.
pub(super) fn head() -> Vec<u8> {
    let mut file = Vec::new();
    block(&mut file, 0x0a0d_0d0a, |body| {
        body.extend(0x1a2b_3c4d_u32.to_le_bytes());
        body.extend(1_u16.to_le_bytes());
        body.extend(0_u16.to_le_bytes());
        // The length of the section is not known.
        body.extend(u64::MAX.to_le_bytes());
    });
    block(&mut file, 1, |body| {
        body.extend(RAW.to_le_bytes());
        body.extend([0; 2]);
        // Packets are not cut.
        body.extend(0_u32.to_le_bytes());
    });
    file
}

/// A packet at a time in microseconds since 1970, perhaps with a comment.
pub(super) fn record(micros: u64, packet: Packet<'_>, comment: Option<&str>) -> Vec<u8> {
    let ip = packet.ip();
    let mut file = Vec::with_capacity(ip.len() + 64);
    block(&mut file, 6, |body| {
        body.extend(0_u32.to_le_bytes());
        let time = micros.to_le_bytes();
        body.extend(&time[4..]);
        body.extend(&time[..4]);
        let size = u32::try_from(ip.len()).unwrap_or(u32::MAX);
        body.extend(size.to_le_bytes());
        body.extend(size.to_le_bytes());
        body.extend(&ip);
        pad(body);
        if let Some(comment) = comment {
            let comment = &comment.as_bytes()[..comment.len().min(usize::from(u16::MAX))];
            body.extend(COMMENT.to_le_bytes());
            body.extend(u16::try_from(comment.len()).unwrap_or(u16::MAX).to_le_bytes());
            body.extend(comment);
            pad(body);
            // The end of the options.
            body.extend([0; 4]);
        }
    });
    file
}

/// A block: its type and length, its body, and its length again. The body is a multiple of four
/// bytes.
fn block(file: &mut Vec<u8>, kind: u32, body: impl FnOnce(&mut Vec<u8>)) {
    let begin = file.len();
    file.extend(kind.to_le_bytes());
    file.extend([0; 4]);
    body(file);
    let length = u32::try_from(file.len() - begin + 4).unwrap_or(u32::MAX).to_le_bytes();
    file[begin + 4..begin + 8].copy_from_slice(&length);
    file.extend(length);
}

fn pad(body: &mut Vec<u8>) {
    while !body.len().is_multiple_of(4) {
        body.push(0);
    }
}

impl Packet<'_> {
    /// The packet with its headers. Both addresses are of the same family.
    fn ip(&self) -> Vec<u8> {
        let tcp = self.tcp();
        let size = u16::try_from(tcp.len()).unwrap_or(u16::MAX);
        let mut packet = Vec::with_capacity(tcp.len() + 40);
        match (self.from.ip(), self.to.ip()) {
            (IpAddr::V4(from), IpAddr::V4(to)) => packet.extend(ipv4(from, to, size)),
            (from, to) => {
                packet.extend([0x60, 0, 0, 0]);
                packet.extend(size.to_be_bytes());
                packet.extend([6, 64]);
                packet.extend(octets(from));
                packet.extend(octets(to));
            }
        }
        packet.extend(tcp);
        packet
    }

    fn tcp(&self) -> Vec<u8> {
        let mut tcp = Vec::with_capacity(self.bytes.len() + 20);
        tcp.extend(self.from.port().to_be_bytes());
        tcp.extend(self.to.port().to_be_bytes());
        tcp.extend(self.sequence.to_be_bytes());
        tcp.extend(self.acknowledged.to_be_bytes());
        // A header of five words, and a window that is never full.
        tcp.extend([5 << 4, self.flags, 0xff, 0xff, 0, 0, 0, 0]);
        tcp.extend(self.bytes);
        // A part of the checksum is a header with addresses, protocol and length.
        let size = u32::try_from(tcp.len()).unwrap_or(u32::MAX);
        let mut pseudo = [octets(self.from.ip()), octets(self.to.ip())].concat();
        pseudo.extend(size.to_be_bytes());
        pseudo.extend([0, 0, 0, 6]);
        let sum = checksum(pseudo.chunks(2).chain(tcp.chunks(2)));
        tcp[16..18].copy_from_slice(&sum);
        tcp
    }
}

fn octets(ip: IpAddr) -> Vec<u8> {
    match ip {
        IpAddr::V4(v4) => v4.octets().to_vec(),
        IpAddr::V6(v6) => v6.octets().to_vec(),
    }
}

fn ipv4(from: Ipv4Addr, to: Ipv4Addr, size: u16) -> Vec<u8> {
    let mut header = vec![0x45, 0];
    header.extend(size.saturating_add(20).to_be_bytes());
    // No fragments; 64 hops; TCP.
    header.extend([0, 0, 0x40, 0, 64, 6, 0, 0]);
    header.extend(from.octets());
    header.extend(to.octets());
    let sum = checksum(header.chunks(2));
    header[10..12].copy_from_slice(&sum);
    header
}

/// The checksum of the Internet's protocols: the complement of the sum of all pairs of bytes, in
/// which a carry is added again.
fn checksum<'a>(pairs: impl Iterator<Item = &'a [u8]>) -> [u8; 2] {
    let word = |pair: &[u8]| u64::from(pair[0]) << 8 | u64::from(pair.get(1).copied().unwrap_or(0));
    let mut sum: u64 = pairs.map(word).sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    (!u16::try_from(sum).unwrap_or(0)).to_be_bytes()
}
