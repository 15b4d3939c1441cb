//! The limit: one epoll loop, edge-triggered, with a read buffer for all connections. `raw` (the
//! default) sends back what it reads; `frames` finds the frames and writes each of them anew.

use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;

use clap::Parser;
use ropewalk_peers::{Mode, Result, ServerArgs, listener, raise_descriptor_limit};
use rustix::buffer::spare_capacity;
use rustix::event::epoll::{self, CreateFlags, EventData, EventFlags};
use rustix::io::Errno;

const LISTENER: u64 = u64::MAX;
/// What one read may bring.
const READ: usize = 64 * 1024;

struct Connection {
    stream: TcpStream,
    /// Half a frame.
    input: Vec<u8>,
    /// What the kernel did not take yet.
    output: Vec<u8>,
}

fn main() -> Result {
    let args = ServerArgs::parse();
    raise_descriptor_limit();
    let mode = (args.variant == "frames").then_some(args.mode);
    let listener = listener()?;
    let epoll = epoll::create(CreateFlags::CLOEXEC)?;
    epoll::add(&epoll, &listener, EventData::new_u64(LISTENER), EventFlags::IN)?;
    let mut connections: Vec<Option<Connection>> = Vec::new();
    let mut free = Vec::new();
    let mut events = Vec::with_capacity(1024);
    let (mut scratch, mut out) = (vec![0; 4 * READ], Vec::new());
    loop {
        events.clear();
        match epoll::wait(&epoll, spare_capacity(&mut events), None) {
            // As when a tracer attaches.
            Err(Errno::INTR) => continue,
            result => drop(result?),
        }
        for event in &events {
            if event.data.u64() == LISTENER {
                let Ok((stream, _)) = listener.accept() else { continue };
                stream.set_nonblocking(true)?;
                stream.set_nodelay(true)?;
                let at = free.pop().unwrap_or(connections.len());
                let flags = EventFlags::IN | EventFlags::OUT | EventFlags::RDHUP | EventFlags::ET;
                epoll::add(&epoll, &stream, EventData::new_u64(at as u64), flags)?;
                let connection = Some(Connection { stream, input: Vec::new(), output: Vec::new() });
                match connections.get_mut(at) {
                    Some(place) => *place = connection,
                    None => connections.push(connection),
                }
                continue;
            }
            let at = event.data.u64() as usize;
            let Some(connection) = &mut connections[at] else { continue };
            if !serve(connection, event.flags, mode, &mut scratch, &mut out) {
                connections[at] = None;
                free.push(at);
            }
        }
    }
}

/// False when the connection is over.
fn serve(c: &mut Connection, flags: EventFlags, mode: Option<Mode>, scratch: &mut [u8], out: &mut Vec<u8>) -> bool {
    if !c.output.is_empty() {
        let Ok(written) = send(&mut c.stream, &c.output) else { return false };
        c.output.drain(..written);
    }
    let mut readable = flags.intersects(EventFlags::IN | EventFlags::RDHUP | EventFlags::HUP | EventFlags::ERR);
    while readable {
        let held = c.input.len();
        scratch[..held].copy_from_slice(&c.input);
        let read = match c.stream.read(&mut scratch[held..held + READ]) {
            Ok(0) => return false,
            Ok(read) => read,
            Err(error) => return error.kind() == ErrorKind::WouldBlock,
        };
        // A short read has emptied the socket; what comes next is an event.
        readable = read == READ || flags.contains(EventFlags::RDHUP);
        let got = &scratch[..held + read];
        let answer = match mode {
            None => got,
            Some(mode) => {
                out.clear();
                let Some(used) = echo(mode, got, out) else { return false };
                // An idle connection holds nothing.
                c.input = got[used..].to_vec();
                &out[..]
            }
        };
        if answer.is_empty() {
            continue;
        }
        let written = if c.output.is_empty() { send(&mut c.stream, answer) } else { Ok(0) };
        let Ok(written) = written else { return false };
        c.output.extend_from_slice(&answer[written..]);
    }
    true
}

fn send(stream: &mut TcpStream, bytes: &[u8]) -> std::io::Result<usize> {
    match stream.write(bytes) {
        Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(0),
        result => result,
    }
}

/// Encodes each whole frame again; how many bytes were used, `None` if they are not frames.
fn echo(mode: Mode, bytes: &[u8], out: &mut Vec<u8>) -> Option<usize> {
    let mut used = 0;
    loop {
        let rest = &bytes[used..];
        match mode {
            Mode::Line => {
                let Some(end) = memchr::memchr(b'\n', rest) else { return Some(used) };
                out.extend_from_slice(&rest[..end]);
                out.push(b'\n');
                used += end + 1;
            }
            Mode::Int32 => {
                let Some((&prefix, content)) = rest.split_first_chunk::<4>() else { return Some(used) };
                let Some(content) = content.get(..u32::from_be_bytes(prefix) as usize) else { return Some(used) };
                out.extend_from_slice(&prefix);
                out.extend_from_slice(content);
                used += 4 + content.len();
            }
            Mode::Netstring => {
                let digits = rest.iter().take_while(|byte| byte.is_ascii_digit()).count();
                let length = rest[..digits].iter().fold(0, |sum, digit| sum * 10 + usize::from(digit - b'0'));
                let Some(frame) = rest.get(..digits + length + 2) else { return Some(used) };
                if frame[digits] != b':' || !frame.ends_with(b",") {
                    return None;
                }
                write!(out, "{length}:").ok()?;
                out.extend_from_slice(&frame[digits + 1..]);
                used += frame.len();
            }
        }
    }
}
