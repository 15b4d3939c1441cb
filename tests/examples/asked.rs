//! Questions to the DNS example, and what is in its answers.
#![allow(dead_code, unreachable_pub, clippy::unwrap_used)] // each test file uses its part of it

use domain::base::iana::Class;
use domain::base::message::Section;
use domain::base::opt::TcpKeepalive;
use domain::base::{Message, MessageBuilder, Name, Rtype};
use domain::rdata::AllRecordData;

use crate::support::Client;

/// A message as it goes over TCP: behind its length.
pub fn framed(message: &[u8]) -> Vec<u8> {
    [&u16::try_from(message.len()).unwrap().to_be_bytes(), message].concat()
}

/// A query with that many OPT records of this version, each with a wish to keep the connection.
pub fn query(id: u16, name: &str, rtype: Rtype, class: Class, opts: u8, version: u8) -> Vec<u8> {
    let mut message = MessageBuilder::new_vec();
    message.header_mut().set_id(id);
    message.header_mut().set_rd(true);
    let mut question = message.question();
    question.push((Name::vec_from_str(name).unwrap(), rtype, class)).unwrap();
    let mut additional = question.additional();
    for _ in 0..opts {
        additional
            .opt(|opt| {
                opt.set_version(version);
                opt.set_dnssec_ok(true);
                opt.push(&TcpKeepalive::new(None))
            })
            .unwrap();
    }
    additional.finish()
}

pub fn plain(id: u16, name: &str, rtype: Rtype) -> Vec<u8> {
    query(id, name, rtype, Class::IN, 0, 0)
}

pub type Answer = Message<Vec<u8>>;

pub fn receive(client: &mut Client) -> Answer {
    let length = client.read(2);
    let message = client.read(u16::from_be_bytes([length[0], length[1]]).into());
    Message::from_octets(message).unwrap()
}

pub fn ask(client: &mut Client, message: &[u8]) -> Answer {
    client.send(framed(message));
    let answer = receive(client);
    assert_eq!(answer.header().id(), u16::from_be_bytes([message[0], message[1]]));
    assert!(answer.header().qr() && !answer.header().ra());
    answer
}

/// The records of a section as `type data`, in order; without OPT, which is not a record.
pub fn told(answer: &Answer, of: Section) -> Vec<String> {
    let records = answer
        .iter()
        .map(Result::unwrap)
        .filter(|(record, section)| *section == of && record.rtype() != Rtype::OPT);
    let mut texts: Vec<_> = records
        .map(|(record, _)| {
            let record = record.to_any_record::<AllRecordData<_, _>>().unwrap();
            format!("{} {} {}", record.owner(), record.rtype(), record.data())
        })
        .collect();
    texts.sort();
    texts
}

/// The code, whether it is authoritative, and the three sections.
pub fn shown(answer: &Answer) -> String {
    let sections = [Section::Answer, Section::Authority, Section::Additional]
        .map(|of| told(answer, of).join(", "));
    let aa = if answer.header().aa() { " aa" } else { "" };
    format!("{}{aa} | {}", answer.header().rcode(), sections.join(" | "))
}
