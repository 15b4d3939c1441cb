//! The balance example before three memcached, where that is installed: one of them is killed under
//! load, and started again.

#[rustfmt::skip]
#[path = "../../examples/balance/ring.rs"]
mod ring;

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use ring::Ring;

use crate::support::{Example, TempDir, command, program, until};

/// A memcached on a Unix socket.
struct Memcached(Child, PathBuf);

impl Memcached {
    fn start(server: &Path, path: PathBuf) -> Self {
        // A socket that a killed one has left would be taken for this one's.
        drop(std::fs::remove_file(&path));
        // It does not run as root unless a user is named.
        let mut command = Command::new(server);
        command.args(["-u", "root", "-s"]).arg(&path).stderr(Stdio::null());
        let this = Self(command.spawn().unwrap(), path);
        until("memcached listens", || this.1.exists());
        this
    }

    fn kill(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }

    fn remote(&self) -> String {
        format!("unix:{}", self.1.display())
    }
}

impl Drop for Memcached {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

/// A client of the proxy.
struct Client(BufReader<TcpStream>);

impl Client {
    fn connect(to: SocketAddr) -> Self {
        let stream = TcpStream::connect(to).unwrap();
        stream.set_nodelay(true).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        Self(BufReader::new(stream))
    }

    fn line(&mut self) -> String {
        let mut line = String::new();
        self.0.read_line(&mut line).unwrap();
        line.trim_end_matches("\r\n").to_owned()
    }

    /// The line that a command is answered with.
    fn says(&mut self, command: &str) -> String {
        self.0.get_mut().write_all(format!("{command}\r\n").as_bytes()).unwrap();
        self.line()
    }

    fn set(&mut self, key: &str, value: &str) -> String {
        self.says(&format!("set {key} 7 0 {}\r\n{value}", value.len()))
    }

    /// The values of these keys.
    fn get(&mut self, keys: &str) -> HashMap<String, String> {
        let mut line = self.says(&format!("get {keys}"));
        let mut all = HashMap::new();
        while line != "END" {
            let words: Vec<&str> = line.split(' ').collect();
            assert_eq!((words[0], words[2]), ("VALUE", "7"), "{line}");
            let mut data = vec![0; words[3].parse::<usize>().unwrap() + 2];
            self.0.read_exact(&mut data).unwrap();
            all.insert(words[1].to_owned(), String::from_utf8(data).unwrap().trim_end().to_owned());
            line = self.line();
        }
        all
    }
}

fn start(servers: &[Memcached]) -> Example {
    let mut proxy = command("balance");
    for server in servers {
        proxy.args(["--to", &server.remote()]);
    }
    Example::spawn(proxy, TempDir::new())
}

/// Gets and sets keys of its own until it is told to stop; each answer must be its command's.
/// Returns how many were answered with an error or a miss, and the longest any took.
fn load(to: SocketAddr, me: usize, stop: &AtomicBool, answered: &AtomicU64) -> (u64, Duration) {
    let mut client = Client::connect(to);
    let (mut lost, mut longest) = (0, Duration::ZERO);
    let mut known: HashMap<String, String> = HashMap::new();
    for round in 0_u64.. {
        if stop.load(Ordering::Relaxed) {
            break;
        }
        let (key, value) = (format!("load-{me}-{}", round % 50), format!("{me}-{round}"));
        let began = Instant::now();
        match client.set(&key, &value) {
            stored if stored == "STORED" => {
                known.insert(key.clone(), value);
            }
            error => {
                assert!(error.starts_with("SERVER_ERROR "), "{error}");
                // The server may have it or not.
                known.remove(&key);
                lost += 1;
            }
        }
        for (key, value) in client.get(&key) {
            assert!(
                known.get(&key).is_none_or(|wanted| *wanted == value),
                "{key} has {value}: the answer of another call"
            );
        }
        longest = longest.max(began.elapsed());
        answered.fetch_add(1, Ordering::Relaxed);
    }
    (lost, longest)
}

#[test]
fn a_server_that_is_lost_under_load_fails_its_own_keys_alone_and_no_answer_is_wrong() {
    let Some(memcached) = program("memcached") else { return };
    let dir = TempDir::new();
    let start_one = |i: usize| Memcached::start(&memcached, dir.join(&format!("{i}.sock")));
    let mut servers: Vec<Memcached> = (0..3).map(start_one).collect();
    let proxy = start(&servers);
    let ring = Ring::new(&servers.iter().map(Memcached::remote).collect::<Vec<_>>());
    let keys: Vec<String> = (0..300).map(|i| format!("key-{i}")).collect();
    let mut client = Client::connect(proxy.tcp);
    for key in &keys {
        assert_eq!(client.set(key, &format!("value of {key}")), "STORED");
    }
    // A `get` of keys on all servers is one answer.
    assert_eq!(client.get(&keys[..100].join(" ")).len(), 100);

    let (stop, answered) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let threads: Vec<_> = (0..8)
        .map(|me| {
            let (to, stop, answered) = (proxy.tcp, Arc::clone(&stop), Arc::clone(&answered));
            thread::spawn(move || load(to, me, &stop, &answered))
        })
        .collect();
    let goes_on = |n| {
        let before = answered.load(Ordering::Relaxed);
        until("the load goes on", || answered.load(Ordering::Relaxed) >= before + n);
    };
    goes_on(500);
    servers[1].kill();
    goes_on(500);
    for key in &keys {
        let got = client.get(key);
        if ring.pick(key.as_bytes()) == 1 {
            assert!(got.is_empty(), "{key} is on a server that is gone");
        } else {
            assert_eq!(got[key], format!("value of {key}"));
        }
    }
    let lost = keys.iter().find(|key| ring.pick(key.as_bytes()) == 1).unwrap();
    assert!(client.set(lost, "x").starts_with("SERVER_ERROR "));

    servers[1] = start_one(1);
    until("the server is back", || client.set(lost, "back") == "STORED");
    assert_eq!(client.get(lost)[lost], "back");
    goes_on(500);
    stop.store(true, Ordering::Relaxed);
    for thread in threads {
        let (_, longest) = thread.join().unwrap();
        // Two commands, of which each has 2 s.
        assert!(longest < Duration::from_secs(10), "{longest:?}");
    }
}

#[test]
fn commands_that_a_memcached_could_read_otherwise_are_not_passed_on() {
    let Some(memcached) = program("memcached") else { return };
    let dir = TempDir::new();
    let servers = [Memcached::start(&memcached, dir.join("0.sock"))];
    let proxy = start(&servers);
    let mut good = Client::connect(proxy.tcp);
    assert_eq!(good.set("a", "hello"), "STORED");
    let long = "k".repeat(251);
    for command in [
        &*format!("set {long} 0 0 5\r\nhello"),
        "set a 0 0 5 6\r\nhello",
        "set a 0 99999999999 5\r\nhello",
        "set a 0 0 2\r\nhello",
        "set a 0 0 2000000",
        "delete",
        &*format!("get a {long}"),
    ] {
        let mut client = Client::connect(proxy.tcp);
        let said = client.says(command);
        assert!(said.starts_with("CLIENT_ERROR "), "{command}: {said}");
        assert_eq!(client.0.read_to_end(&mut Vec::new()).unwrap(), 0, "{command}: it goes on");
        assert_eq!(good.get("a")["a"], "hello", "after {command}");
    }
    // A line ends with LF here as there.
    assert_eq!(good.says("touch a 0\ntouch b 0"), "TOUCHED");
    assert_eq!(good.line(), "NOT_FOUND");
    assert_eq!(good.says("version"), "ERROR");
    // A request without an answer gets no answer.
    assert_eq!(
        good.says("set a 7 0 3 noreply\r\nbye\r\ndelete b noreply\r\nincr a 1"),
        "CLIENT_ERROR cannot increment or decrement non-numeric value"
    );
    assert_eq!(good.get("a")["a"], "bye");
}

#[test]
fn a_server_less_moves_its_own_keys_and_no_others() {
    let names = ["a:11211", "b:11211", "c:11211", "d:11211"];
    let (all, fewer) = (Ring::new(&names), Ring::new(&names[..3]));
    let mut shares = [0; 4];
    for key in (0..10_000).map(|i| format!("key-{i}")) {
        let (before, after) = (all.pick(key.as_bytes()), fewer.pick(key.as_bytes()));
        shares[before] += 1;
        assert!(before == after || before == 3, "{key} moved from {before} to {after}");
    }
    // With 160 points each a share is within a fifth or so of a quarter.
    assert!(shares.iter().all(|share| (1500..=3500).contains(share)), "{shares:?}");
}
