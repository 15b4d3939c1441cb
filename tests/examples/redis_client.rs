//! The redis_client example: against a server of the test's own, and against redis-server where it
//! is installed.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::thread;

use crate::support::{TempDir, command, program, until};

/// What the example says to these words.
fn says(to: &str, words: &[&str]) -> String {
    let output = command("redis_client").args(["--to", to]).args(words).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// Reads one command.
fn read_command(stream: &mut BufReader<TcpStream>) -> Option<Vec<String>> {
    let mut line = String::new();
    let mut number = |stream: &mut BufReader<TcpStream>| {
        line.clear();
        stream.read_line(&mut line).ok()?;
        line.trim_end().get(1..)?.parse::<usize>().ok()
    };
    let words = number(stream)?;
    (0..words)
        .map(|_| {
            let mut word = vec![0; number(stream)? + 2];
            stream.read_exact(&mut word).ok()?;
            Some(String::from_utf8_lossy(&word[..word.len() - 2]).into_owned())
        })
        .collect()
}

#[test]
fn answers_of_every_kind_are_printed_and_messages_come_between() {
    let server = TcpListener::bind("127.0.0.1:0").unwrap();
    let to = format!("tcp:{}", server.local_addr().unwrap());
    let served = thread::spawn(move || {
        let (stream, _) = server.accept().unwrap();
        let (mut commands, mut answers) = (BufReader::new(stream.try_clone().unwrap()), stream);
        assert_eq!(read_command(&mut commands).unwrap(), ["HELLO", "3"]);
        answers.write_all(b"%1\r\n+proto\r\n:3\r\n").unwrap();
        assert_eq!(read_command(&mut commands).unwrap(), ["LRANGE", "a", "0", "1"]);
        let answer = b">3\r\n+message\r\n+news\r\n$5\r\nhello\r\n*4\r\n:1\r\n$3\r\na\r\n\r\n_\r\n*1\r\n-ERR no\r\n";
        for piece in answer.chunks(3) {
            answers.write_all(piece).unwrap();
        }
        drop(answers.shutdown(Shutdown::Write));
        while read_command(&mut commands).is_some() {}
    });
    assert_eq!(
        says(&to, &["LRANGE", "a", "0", "1"]),
        "message news hello\n1 a\\r\\n (nothing) (error) ERR no\n"
    );
    served.join().unwrap();
}

/// A redis-server on a Unix socket.
struct Redis {
    child: Child,
    to: String,
    _dir: TempDir,
}

impl Redis {
    fn start() -> Option<Self> {
        let server = program("redis-server")?;
        let dir = TempDir::new();
        let path = dir.join("redis.sock");
        let mut redis = Command::new(server);
        redis.args(["--port", "0", "--save", "", "--appendonly", "no", "--unixsocket"]).arg(&path);
        let child = redis.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        until("redis-server listens", || path.exists());
        Some(Self { child, to: format!("unix:{}", path.display()), _dir: dir })
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

#[test]
fn redis_server_stores_and_returns_values() {
    let Some(redis) = Redis::start() else { return };
    assert_eq!(says(&redis.to, &["set", "greeting", "hello world"]), "OK\n");
    assert_eq!(says(&redis.to, &["get", "greeting"]), "hello world\n");
    assert_eq!(says(&redis.to, &["get", "other"]), "(nothing)\n");
    assert_eq!(says(&redis.to, &["mget", "greeting", "other"]), "hello world (nothing)\n");
    assert!(says(&redis.to, &["nonsense"]).starts_with("(error) ERR unknown command"));
}

#[test]
fn messages_of_redis_server_are_printed_as_they_come() {
    let Some(redis) = Redis::start() else { return };
    let mut example = command("redis_client");
    example.args(["--to", &redis.to, "--subscribe", "news"]).stdout(Stdio::piped());
    let mut example = example.spawn().unwrap();
    let mut lines = BufReader::new(example.stdout.take().unwrap()).lines();
    assert_eq!(lines.next().unwrap().unwrap(), "subscribe news 1");
    assert_eq!(says(&redis.to, &["publish", "news", "hello"]), "1\n");
    assert_eq!(lines.next().unwrap().unwrap(), "message news hello");
    drop(example.kill());
    example.wait().unwrap();
}
