//! The protocols of the examples: the same bytes are answered the same, however they are cut. A few
//! hundred streams each, made of what their clients say, well and not.

use crate::targets::protocols::{self, Heard};

/// How many streams.
const SEEDS: u64 = 300;

/// Random numbers, the same in every run (splitmix64).
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        usize::try_from((mixed ^ (mixed >> 31)) % sides as u64).unwrap()
    }

    fn byte(&mut self) -> u8 {
        u8::try_from(self.roll(256)).unwrap()
    }
}

/// Streams of up to twelve of these phrases. Every fourth has a byte changed, and every eighth
/// lacks its end.
fn compare(protocol: fn(&[u8]) -> Option<Heard>, phrases: &[Vec<u8>]) -> Vec<u8> {
    let mut heard = Vec::new();
    for seed in 0..SEEDS {
        let mut dice = Dice(seed);
        let mut data = vec![dice.byte(), dice.byte(), dice.byte()];
        let phrase = |_| phrases[dice.roll(phrases.len())].clone();
        let n = 1 + usize::try_from(seed).unwrap() % 12;
        data.extend((0..n).flat_map(phrase));
        if dice.roll(4) == 0 {
            let at = dice.roll(data.len());
            data[at] = dice.byte();
        }
        if dice.roll(8) == 0 {
            data.truncate(3 + dice.roll(data.len() - 3));
        }
        heard.extend(protocol(&data).unwrap().bytes);
    }
    heard
}

/// Phrases with line ends as the network has them.
fn lines(phrases: &[&str]) -> Vec<Vec<u8>> {
    phrases.iter().map(|phrase| phrase.replace('\n', "\r\n").into_bytes()).collect()
}

fn assert_heard(heard: &[u8], answers: &[&str]) {
    let text = String::from_utf8_lossy(heard);
    for answer in answers {
        assert!(
            text.contains(answer),
            "nothing was answered with {answer:?}, so these streams show little"
        );
    }
}

#[test]
fn commands_of_memcached_are_answered_the_same_however_they_are_cut() {
    let (long, wide) =
        (format!("set l 0 0 700\n{}\n", "v".repeat(700)), format!("get {}\n", "key ".repeat(540)));
    let too_long = format!("delete {}\n", "k".repeat(2100));
    let phrases = [
        "get a\n",
        "gets a b\n",
        "set a 1 0 3\nabc\n",
        "set b 0 0 1\n7\n",
        "incr b 5\n",
        "decr b 9\n",
        "add a 0 0 2\n\n\n",
        "append a 0 0 2\nxy\n",
        "prepend b 0 0 1 noreply\n1\n",
        "cas a 0 0 1 1\nz\n",
        "delete a\n",
        "delete b 0\n",
        "touch a 100\n",
        "gat 50 a b\n",
        "set a 0 0 2\nabcdef\n",
        "set c 0 0 2147483648\n",
        "ms a 4\nget \n",
        "stats items\n",
        "stats reset\n",
        "version\n",
        "flush_all\n",
        "verbosity 1\n",
        "nonsense\n",
        "\n",
        "quit\n",
        "GET / HTTP/1.1\n",
        &long,
        &wide,
        &too_long,
    ];
    let heard = compare(protocols::memcached, &lines(&phrases));
    assert_heard(
        &heard,
        &["STORED", "VALUE a 1 3", "NOT_FOUND", "CLIENT_ERROR bad data chunk", "line too long"],
    );
}

#[test]
fn mails_are_answered_and_kept_the_same_however_they_are_cut() {
    let long = format!("{}\n", "x".repeat(300));
    let phrases = [
        "EHLO y\n",
        "HELO y\n",
        "MAIL FROM:<a@x>\n",
        "RCPT TO:<b@x.example>\n",
        "RCPT TO:<c@elsewhere>\n",
        "DATA\n",
        ".\n",
        "..\n",
        "MAIL FROM:<a@x>\nRCPT TO:<b@x.example>\nDATA\nSubject: s\n\nbody\n.\n",
        "EHLO y\nMAIL FROM:<> SIZE=10\nRCPT TO:<postmaster>\nDATA\n..dot\n.\n",
        "MAIL FROM:<a@x> SIZE=5000\n",
        "RSET\n",
        "NOOP\n",
        "HELP\n",
        "STARTTLS\n",
        "QUIT\n",
        "\n",
        "Subject: s\n",
        &long,
    ];
    let mut phrases = lines(&phrases);
    phrases.push(b"MAIL FROM:<a@x>\r\nRCPT TO:<b@x.example>\r\nDATA\r\na\n.\nMAIL FROM:<smuggled@x>\r\n.\r\n".to_vec());
    let heard = compare(protocols::smtp, &phrases);
    assert_heard(
        &heard,
        &["250 2.0.0 kept as ", "554 5.6.0 a CR or LF by itself", "552 5.3.4", "221 2.0.0 bye"],
    );
}

/// A query behind its length.
fn query(name: &str, rtype: u16, flags: u16, opt: &[u8]) -> Vec<u8> {
    let id = u16::try_from(name.len()).unwrap() << 8 | rtype;
    let counts = [1, 0, 0, u16::from(!opt.is_empty())];
    let header: Vec<u8> = [id, flags].iter().chain(&counts).flat_map(|n| n.to_be_bytes()).collect();
    let labels = name
        .split('.')
        .flat_map(|label| [&[u8::try_from(label.len()).unwrap()], label.as_bytes()].concat());
    let name: Vec<u8> = labels.chain([0]).collect();
    let message = [&header[..], &name, &rtype.to_be_bytes(), &1_u16.to_be_bytes(), opt].concat();
    [&u16::try_from(message.len()).unwrap().to_be_bytes()[..], &message].concat()
}

#[test]
fn dns_messages_are_answered_the_same_however_they_are_cut() {
    let padded = [0, 0, 41, 4, 208, 0, 0, 128, 0, 0, 4, 0, 12, 0, 0];
    let names = [
        "www.example.org",
        "example.org",
        "nothing.example.org",
        "web.example.org",
        "a.sub.example.org",
        "example.com",
    ];
    let types = [1, 2, 6, 15, 16, 28, 255];
    let mut phrases: Vec<_> = names
        .iter()
        .flat_map(|name| {
            types.map(|rtype| query(name, rtype, 0x100, if rtype == 1 { &padded } else { &[] }))
        })
        .collect();
    phrases.extend([
        query(names[0], 1, 0x8100, &[]),
        query(names[0], 1, 0x2900, &[]),
        query(names[0], 252, 0, &[]),
    ]);
    phrases.push(b"\0\x05short".to_vec());
    let heard = compare(protocols::dns, &phrases);
    assert!(heard.len() > 10_000, "{} bytes of answers", heard.len());
}

#[test]
fn a_request_by_scgi_is_answered_the_same_however_it_is_cut() {
    let request = |variables: &str, body: &str| {
        let header = variables.replace(['=', '&'], "\0") + "\0";
        format!("{}:{header},{body}", header.len()).into_bytes()
    };
    let body = "b".repeat(300);
    let phrases = [
        request("CONTENT_LENGTH=2&SCGI=1", "hi"),
        request("CONTENT_LENGTH=0&SCGI=1&REQUEST_METHOD=GET", ""),
        request("CONTENT_LENGTH=300&SCGI=1", &body),
        request("CONTENT_LENGTH=9&SCGI=1", "hi"),
        request("SCGI=1&CONTENT_LENGTH=2", "hi"),
        request("CONTENT_LENGTH=99999999&SCGI=1", "hi"),
        request("CONTENT_LENGTH=2&CONTENT_LENGTH=2&SCGI=1", "hi"),
        b"nonsense".to_vec(),
        b"3:abc,".to_vec(),
    ];
    let heard = compare(protocols::scgi, &phrases);
    assert_heard(
        &heard,
        &["Status: 200 OK", "REQUEST_METHOD: GET", "Status: 400", "Status: 413", &body],
    );
}
