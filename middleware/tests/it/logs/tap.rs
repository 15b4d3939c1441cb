//! Connections that are recorded in a file.

use std::fs;
use std::io::{self, ErrorKind};
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use ropewalk_middleware::tap::{TapEnd, TapFormat, TapRules, TapStatus};
use ropewalk_middleware::{Connection, Peer, Stream, TapLayer};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};
use tokio::task::JoinHandle;
use tower::{Layer, Service, service_fn};

use crate::common::{connection_on, settle};

/// A folder that goes with the test.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("ropewalk-{}-{name}", std::process::id()));
        fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    fn file(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        fs::remove_dir_all(&self.0).unwrap();
    }
}

fn hex() -> TapRules {
    TapRules::new().format(TapFormat::Hex)
}

/// Sends everything back, and closes.
async fn echo(mut connection: Connection) -> io::Result<()> {
    let mut buf = [0; 100];
    loop {
        let read = connection.read(&mut buf).await?;
        if read == 0 {
            return connection.shutdown().await;
        }
        connection.write_all(&buf[..read]).await?;
    }
}

type Served = (DuplexStream, JoinHandle<io::Result<()>>);

fn serve(layer: &TapLayer, (ours, theirs): (Connection, DuplexStream)) -> Served {
    (theirs, tokio::spawn(layer.layer(service_fn(echo)).call(ours)))
}

/// Sends a text on a connection of its own, and reads it again.
async fn exchange(layer: &TapLayer, ends: (Connection, DuplexStream), text: &str) {
    let (theirs, task) = serve(layer, ends);
    let (mut read, mut write) = tokio::io::split(theirs);
    let mut answer = String::new();
    let sending = async {
        write.write_all(text.as_bytes()).await.unwrap();
        write.shutdown().await.unwrap();
    };
    let (_, heard) = tokio::join!(sending, read.read_to_string(&mut answer));
    heard.unwrap();
    assert_eq!(answer, text);
    task.await.unwrap().unwrap();
}

fn from(addr: &str, listener: usize) -> (Connection, DuplexStream) {
    let (ours, theirs) = duplex(1024);
    let peer = Peer::new(addr.parse::<SocketAddr>().unwrap());
    (Connection::accepted(Stream::from_io(ours), peer, listener), theirs)
}

/// Waits until the file of the tap is complete. Only a hang makes it fail.
async fn ended(layer: &TapLayer) -> TapStatus {
    let status = layer.status().unwrap();
    let begun = Instant::now();
    while status.end().is_none() {
        assert!(begun.elapsed() < Duration::from_secs(30), "the tap does not end");
        std::thread::yield_now();
    }
    status
}

/// Ends the tap, and returns its text without the times.
async fn text(layer: &TapLayer) -> String {
    layer.stop();
    let status = ended(layer).await;
    let text = fs::read_to_string(status.path()).unwrap();
    assert_eq!(text.len() as u64, status.bytes());
    text.lines().map(|line| line.split_once(' ').unwrap().1.to_owned() + "\n").collect()
}

#[tokio::test]
async fn a_connection_is_recorded_in_both_directions_to_its_end() {
    let folder = Folder::new("both");
    let layer = TapLayer::new();
    layer.start(hex(), folder.file("tap")).unwrap();
    let (ours, theirs) = from("192.0.2.1:5000", 0);
    let id = ours.id();
    exchange(&layer, (ours, theirs), "a line of more than 16 bytes\n").await;
    let dump = |arrow: char| {
        format!(
            "{id} {arrow} 00000000  61 20 6c 69 6e 65 20 6f  66 20 6d 6f 72 65 20 74  a line of more t\n\
             {id} {arrow} 00000010  68 61 6e 20 31 36 20 62  79 74 65 73 0a           han 16 bytes.\n"
        )
    };
    let expected = format!(
        "{id} open, tcp:192.0.2.1:5000 to memory:\n{}{}{id} > end\n{id} < end\n",
        dump('>'),
        dump('<'),
    );
    assert_eq!(text(&layer).await, expected);
    let status = layer.status().unwrap();
    assert_eq!((status.connections(), status.lost(), status.end()), (1, 0, Some(TapEnd::Stopped)));
}

#[tokio::test]
async fn a_file_is_made_anew_and_for_its_owner_only() {
    let folder = Folder::new("mode");
    let layer = TapLayer::new();
    layer.start(hex(), folder.file("tap")).unwrap();
    let mode = fs::metadata(folder.file("tap")).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    layer.stop();
    ended(&layer).await;
    fs::write(folder.file("other"), "precious").unwrap();
    let error = layer.start(hex(), folder.file("other")).unwrap_err();
    assert_eq!((error.kind(), layer.is_running()), (ErrorKind::AlreadyExists, false));
    assert_eq!(fs::read_to_string(folder.file("other")).unwrap(), "precious");
    assert!(layer.start(hex(), folder.file("no/such/folder")).is_err());
}

#[tokio::test]
async fn a_link_is_not_followed_wherever_it_leads() {
    let folder = Folder::new("link");
    let layer = TapLayer::new();
    fs::write(folder.file("precious"), "precious").unwrap();
    for target in ["precious", "nothing there", "/dev/full"] {
        let (link, target) = (folder.file("link"), folder.file(target));
        std::os::unix::fs::symlink(&target, &link).unwrap();
        let error = layer.start(hex(), &link).unwrap_err();
        assert_eq!((error.kind(), layer.is_running()), (ErrorKind::AlreadyExists, false));
        fs::remove_file(link).unwrap();
    }
    assert_eq!(fs::read_to_string(folder.file("precious")).unwrap(), "precious");
    assert!(!folder.file("nothing there").exists());
}

#[tokio::test]
async fn a_file_that_has_no_room_for_its_head_is_empty() {
    let folder = Folder::new("tiny");
    let layer = TapLayer::new();
    for bytes in [0, 47] {
        let file = folder.file(&bytes.to_string());
        layer.start(TapRules::new().max_bytes(bytes), &file).unwrap();
        exchange(&layer, connection_on(0, 64), "x").await;
        let status = ended(&layer).await;
        assert_eq!((status.end(), status.bytes()), (Some(TapEnd::MaxBytes), 0));
        assert_eq!(fs::metadata(file).unwrap().len(), 0);
    }
    layer.start(TapRules::new().max_bytes(48), folder.file("head")).unwrap();
    exchange(&layer, connection_on(0, 64), "x").await;
    assert_eq!((ended(&layer).await.bytes(), layer.is_running()), (48, false));
}

#[tokio::test]
async fn one_tap_runs_at_a_time_for_a_thousand_clones() {
    let folder = Folder::new("clones");
    let layer = TapLayer::new();
    assert!(layer.status().is_none() && !layer.is_running());
    // Stopping what does not run does nothing.
    layer.stop();
    let clones: Vec<_> = (0..1000).map(|_| layer.clone()).collect();
    clones[7].start(hex(), folder.file("tap")).unwrap();
    let error = layer.start(hex(), folder.file("second")).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ResourceBusy);
    assert!(!folder.file("second").exists());
    for clone in &clones {
        exchange(clone, connection_on(0, 64), "x").await;
    }
    assert_eq!(text(&clones[9]).await.lines().count(), 5000);
    assert_eq!(layer.status().unwrap().connections(), 1000);
    // After its end the next one can begin.
    layer.start(hex(), folder.file("second")).unwrap();
    exchange(&layer, connection_on(0, 64), "y").await;
    assert_eq!(text(&layer).await.lines().count(), 5);
}

#[tokio::test]
async fn only_connections_that_fit_every_kind_of_rule_are_recorded() {
    let folder = Folder::new("rules");
    let layer = TapLayer::new();
    let recorded = async |name: &str, rules: TapRules, ends: (Connection, DuplexStream)| {
        layer.start(rules.format(TapFormat::Hex), folder.file(name)).unwrap();
        exchange(&layer, ends, "x").await;
        !text(&layer).await.is_empty()
    };
    let office = || {
        TapRules::new()
            .peer("192.0.2.0/24".parse::<ipnet::IpNet>().unwrap())
            .peer("2001:db8::/64".parse::<ipnet::IpNet>().unwrap())
            .peer("::ffff:203.0.113.0/120".parse::<ipnet::IpNet>().unwrap())
            .listener(1)
            .listener(3)
    };
    for (n, (peer, listener, is_chosen)) in [
        ("192.0.2.1:1", 1, true),
        ("[::ffff:192.0.2.1]:1", 3, true),
        ("[2001:db8::1]:1", 1, true),
        ("203.0.113.9:1", 1, true),
        ("192.0.2.1:1", 2, false),
        ("198.51.100.1:1", 1, false),
        ("[2001:db8:0:1::1]:1", 1, false),
    ]
    .into_iter()
    .enumerate()
    {
        let is_recorded = recorded(&format!("peer {n}"), office(), from(peer, listener)).await;
        assert_eq!(is_recorded, is_chosen, "{peer} on {listener}");
    }
    assert!(!recorded("memory", office(), connection_on(1, 64)).await);
    layer.start(TapRules::new().sample(3), folder.file("sample")).unwrap();
    for _ in 0..1200 {
        exchange(&layer, connection_on(0, 64), "x").await;
    }
    layer.stop();
    let recorded = ended(&layer).await.connections();
    // 400, but other tests of this process take some of the numbers.
    assert!((300..=500).contains(&recorded), "{recorded}");
}

#[tokio::test]
async fn an_open_connection_joins_and_is_recorded_from_then_on() {
    let folder = Folder::new("join");
    let layer = TapLayer::new();
    let (ours, theirs) = connection_on(0, 64);
    let info = ours.info();
    assert!(!layer.join(&info), "no tap is running");
    let (mut theirs, task) = serve(&layer, (ours, theirs));
    let mut ask = async |text: &[u8]| {
        theirs.write_all(text).await.unwrap();
        theirs.read_exact(&mut vec![0; text.len()]).await.unwrap();
    };
    ask(b"before").await;
    layer.start(hex(), folder.file("tap")).unwrap();
    ask(b"not joined").await;
    assert!(layer.join(&info));
    ask(b"joined").await;
    let all = text(&layer).await;
    assert!(all.contains("joined") && !all.contains("before") && !all.contains("not"), "{all}");
    // After the end it goes on as before, and can be in the next tap.
    ask(b"after").await;
    layer.start(hex(), folder.file("next")).unwrap();
    assert!(layer.join(&info));
    ask(b"again").await;
    drop(theirs);
    task.await.unwrap().unwrap();
    let all = text(&layer).await;
    assert!(all.contains("again") && !all.contains("after"), "{all}");
}

#[tokio::test]
async fn a_tap_ends_with_the_last_record_that_fits_and_the_connection_goes_on() {
    let folder = Folder::new("bytes");
    let layer = TapLayer::new();
    layer.start(TapRules::new().max_bytes(10_000), folder.file("tap")).unwrap();
    exchange(&layer, connection_on(0, 1024), &"x".repeat(100_000)).await;
    assert!(!layer.is_running());
    let status = ended(&layer).await;
    assert_eq!(status.end(), Some(TapEnd::MaxBytes));
    let size = fs::metadata(status.path()).unwrap().len();
    assert!((9_800..=10_000).contains(&size), "{size}");
    assert_eq!(size, status.bytes());
    // The file has whole records: each block has its length at both ends.
    let file = fs::read(status.path()).unwrap();
    let mut rest = &file[..];
    while !rest.is_empty() {
        let length = u32::from_le_bytes(rest[4..8].try_into().unwrap()) as usize;
        assert_eq!(rest[length - 4..length], rest[4..8]);
        rest = &rest[length..];
    }
}

#[tokio::test]
async fn a_tap_ends_at_its_time_also_if_nothing_moves() {
    let folder = Folder::new("time");
    let layer = TapLayer::new();
    for (name, time) in [("zero", Duration::ZERO), ("short", Duration::from_millis(20))] {
        let begun = Instant::now();
        layer.start(hex().max_time(time), folder.file(name)).unwrap();
        assert_eq!(ended(&layer).await.end(), Some(TapEnd::MaxTime));
        assert!(begun.elapsed() >= time && !layer.is_running());
    }
    // One without an end has to be stopped.
    layer.start(hex().max_time(Duration::MAX), folder.file("forever")).unwrap();
    exchange(&layer, connection_on(0, 64), "x").await;
    assert_eq!(text(&layer).await.lines().count(), 5);
}

#[tokio::test]
async fn connections_that_are_dropped_or_aborted_or_panic_have_an_end() {
    let folder = Folder::new("ends");
    let layer = TapLayer::new();
    layer.start(hex(), folder.file("tap")).unwrap();
    let (ours, _theirs) = connection_on(0, 64);
    let dropped = ours.id();
    drop(layer.layer(service_fn(echo)).call(ours));
    let (ours, _theirs) = connection_on(0, 64);
    let (aborted, closing) = (ours.id(), ours.closing());
    let (_theirs, task) = serve(&layer, (ours, _theirs));
    settle().await;
    closing.abort();
    task.abort();
    assert!(task.await.is_err());
    let (ours, _theirs) = connection_on(0, 64);
    let panicked = ours.id();
    let mut panics =
        layer.layer(service_fn(async |_: Connection| -> io::Result<()> { panic!("as told") }));
    assert!(tokio::spawn(panics.call(ours)).await.is_err());
    let expected = format!(
        "{dropped} open, memory: to memory:\n{dropped} < end\n\
         {aborted} open, memory: to memory:\n{aborted} < reset\n\
         {panicked} open, memory: to memory:\n{panicked} < end\n"
    );
    assert_eq!(text(&layer).await, expected);
}

#[tokio::test]
async fn a_layer_that_goes_ends_its_tap() {
    let folder = Folder::new("gone");
    let layer = TapLayer::new();
    layer.start(hex(), folder.file("tap")).unwrap();
    let (mut theirs, task) = serve(&layer, connection_on(0, 64));
    theirs.write_all(b"x").await.unwrap();
    theirs.read_exact(&mut [0]).await.unwrap();
    let status = layer.status().unwrap();
    drop(layer);
    // Its service has gone with the call.
    let other = TapLayer::new();
    assert!(other.status().is_none());
    theirs.write_all(b"y").await.unwrap();
    theirs.read_exact(&mut [0]).await.unwrap();
    drop(theirs);
    task.await.unwrap().unwrap();
    let begun = Instant::now();
    while status.end().is_none() {
        assert!(begun.elapsed() < Duration::from_secs(30), "the tap does not end");
        std::thread::yield_now();
    }
    let text = fs::read_to_string(status.path()).unwrap();
    assert!(text.contains('x') && !text.contains("y\n"), "{text}");
}

#[test]
#[should_panic(expected = "one of 0")]
fn a_sample_of_nothing_is_refused_where_it_is_made() {
    let _ = TapRules::new().sample(0);
}
