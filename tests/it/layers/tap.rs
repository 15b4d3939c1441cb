//! Recorded connections under a server, as `tshark` reads them.

use std::fs;
use std::path::Path;
use std::process::Command;

use ropewalk::layer::tap::{TapEnd, TapRules};
use ropewalk::layer::{CallLimitLayer, TapLayer};
use ropewalk::{Bytes, CloseReason, Lines, Server, framed, memory, reply_fn};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpStream, UnixStream};
use tower::ServiceBuilder;

use crate::harness::{Running, ask, assert_reasons, rest, until};
use crate::support::{TempDir, program};

/// The output of tshark for a file.
fn tshark(program: &Path, file: &Path, args: &[&str]) -> String {
    let output = Command::new(program).arg("-r").arg(file).args(args).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// The bytes of one stream: those of the peer, and those of the server.
fn follow(program: &Path, file: &Path, stream: usize) -> [Vec<u8>; 2] {
    let text = tshark(program, file, &["-q", "-z", &format!("follow,tcp,raw,{stream}")]);
    let mut ends = [Vec::new(), Vec::new()];
    for line in text.lines() {
        let hex = line.trim_start();
        let is_hex = hex.len().is_multiple_of(2) && hex.bytes().all(|b| b.is_ascii_hexdigit());
        if is_hex && !hex.is_empty() {
            let byte = |at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap();
            ends[usize::from(line.starts_with('\t'))].extend((0..hex.len()).step_by(2).map(byte));
        }
    }
    ends
}

/// A line, one of 100 KiB, and the end.
async fn talk(mut client: impl AsyncRead + AsyncWrite + Unpin + Send + 'static) {
    ask(&mut client, "hello\n", "hello\n").await;
    let long = "x".repeat(100 * 1024) + "\n";
    let (mut read, mut write) = tokio::io::split(client);
    let sent = long.clone();
    let writing = tokio::spawn(async move {
        write.write_all(sent.as_bytes()).await.unwrap();
        write.shutdown().await.unwrap();
        write
    });
    assert!(rest(&mut read).await == long);
    writing.await.unwrap();
}

#[tokio::test]
async fn tshark_follows_what_was_recorded_on_tcp_of_both_families_unix_and_in_memory() {
    let (dir, tap) = (TempDir::new(), TapLayer::new());
    let (in_memory, connector) = memory::endpoint();
    let socket = dir.join("socket");
    let service =
        ServiceBuilder::new().layer(CallLimitLayer::new(10)).service(reply_fn(|line: Bytes| line));
    let server = Server::new()
        .listen("tcp:127.0.0.1:0")
        .listen("tcp:[::1]:0")
        .listen(format!("unix:{}", socket.display()).as_str())
        .listen(in_memory)
        .layer(tap.clone())
        .serve(framed(Lines::lf().max(1 << 20), service));
    let server = Running::start(server).await;
    let file = dir.join("all.pcapng");
    tap.start(TapRules::new(), &file).unwrap();
    let tcp = server.connect().await;
    let from = tcp.local_addr().unwrap();
    talk(tcp).await;
    talk(TcpStream::connect(server.tcp_addr(1)).await.unwrap()).await;
    talk(UnixStream::connect(&socket).await.unwrap()).await;
    talk(connector.connect().await.unwrap()).await;
    server.until("all have gone", |counts| counts.active() == 0).await;
    tap.stop();
    let status = tap.status().unwrap();
    until("the file is complete", || status.end().is_some()).await;
    assert_eq!((status.end(), status.connections(), status.lost()), (Some(TapEnd::Stopped), 4, 0));
    assert_eq!(fs::metadata(&file).unwrap().len(), status.bytes());
    let to = server.tcp_addr(0);
    assert_reasons(&server.end().await, &[(CloseReason::Done, 4)]);
    let Some(program) = program("tshark") else { return };
    let expected = format!("hello\n{}\n", "x".repeat(100 * 1024)).into_bytes();
    for stream in 0..4 {
        let [peer, ours] = follow(&program, &file, stream);
        assert!(peer == expected && ours == expected, "{stream}: {} {}", peer.len(), ours.len());
    }
    // Nothing is out of order, repeated, missing or malformed, and each checksum is right.
    let faults = "tcp.analysis.flags || _ws.malformed || tcp.checksum.status == 0 || ip.checksum.status == 0";
    let checks = ["-o", "tcp.check_checksum:TRUE", "-o", "ip.check_checksum:TRUE", "-Y", faults];
    assert_eq!(tshark(&program, &file, &checks), "");
    let fields = ["tcp.stream", "ip.src", "tcp.srcport", "ip.dst", "tcp.dstport"];
    let mut args = vec!["-Y", "tcp.flags.syn == 1 && tcp.flags.ack == 0", "-T", "fields"];
    args.extend(fields.iter().flat_map(|field| ["-e", field]));
    let begun = tshark(&program, &file, &args);
    let begun: Vec<&str> = begun.lines().collect();
    let first = ["0", "127.0.0.1", &from.port().to_string(), "127.0.0.1", &to.port().to_string()];
    assert_eq!(begun[0], first.join("\t"));
    // The third endpoint, a Unix socket, has a made-up address.
    assert!(begun[2].starts_with("2\t127.") && begun[2].ends_with("\t127.0.0.1\t3"));
    assert_eq!(begun.len(), 4);
}

/// What is missing is a gap in the numbers, and no shift of what follows.
#[tokio::test]
async fn a_connection_that_joins_in_the_middle_is_followed_from_there() {
    let (dir, tap) = (TempDir::new(), TapLayer::new());
    let (in_memory, connector) = memory::endpoint();
    let server = Server::new().listen(in_memory).layer(tap.clone());
    let server =
        Running::start(server.serve(framed(Lines::lf(), reply_fn(|line: Bytes| line)))).await;
    let mut client = connector.connect().await.unwrap();
    ask(&mut client, "before\n", "before\n").await;
    let file = dir.join("joined.pcapng");
    tap.start(TapRules::new(), &file).unwrap();
    for connection in server.handle().connections() {
        assert!(tap.join(&connection));
    }
    ask(&mut client, "after\n", "after\n").await;
    drop(client);
    server.until("it has gone", |counts| counts.active() == 0).await;
    tap.stop();
    let status = tap.status().unwrap();
    until("the file is complete", || status.end().is_some()).await;
    server.end().await;
    let Some(program) = program("tshark") else { return };
    assert_eq!(follow(&program, &file, 0), [b"after\n", b"after\n"]);
}
