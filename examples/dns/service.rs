//! Answers messages with messages: which queries are allowed, and their answers.

use std::sync::Arc;
use std::time::Duration;

use domain::base::iana::{Class, Opcode, OptRcode};
use domain::base::message_builder::StaticCompressor;
use domain::base::name::FlattenInto;
use domain::base::opt::keepalive::IdleTimeout;
use domain::base::opt::{Padding, TcpKeepalive};
use domain::base::wire::ParseError;
use domain::base::{Message, MessageBuilder, Rtype};
use ropewalk::{Bytes, Reply, Result};
use tokio::time::sleep;

use super::zone::{Found, Owner, Zone};

/// How many queries of one connection are answered at once. Each answer is sent when it is ready, and found by its id
/// (RFC 7766, section 6.2.1.1).
pub(crate) const IN_FLIGHT: usize = 64;

const SLOW: Duration = Duration::from_millis(500);

/// The longest message without an OPT record, which must always fit.
const MAX_RECORDS: usize = 65_535 - 32;

/// The answer to a padded query is padded as well (RFC 7830), to a multiple of this (RFC 8467, section 4.1), so that
/// its size tells nothing about its content.
const BLOCK: usize = 468;

/// The bytes of an OPT record with an empty padding, and of a keepalive in it.
const OPT: usize = 11 + 4;
const KEEPALIVE: usize = 4 + 2;

pub(crate) struct Answers {
    pub(crate) zone: Zone,
    /// The idle time that clients are told if they ask for it.
    pub(crate) idle: Option<Duration>,
    pub(crate) slow: Option<Owner>,
}

impl Answers {
    pub(crate) async fn answer(self: Arc<Self>, message: Bytes) -> Result<Reply<Vec<u8>>> {
        let Ok(message) = Message::from_octets(message) else {
            // Without a header it has no id, so it can't be answered.
            return Ok(Reply::none().then_close());
        };
        if message.header().qr() {
            // Answering an answer could cause a loop.
            return Ok(Reply::none());
        }
        let found = match asked(&message) {
            Ok((name, rtype)) => {
                if self.slow.as_ref() == Some(&name) {
                    sleep(SLOW).await;
                }
                self.zone.find(name, rtype)
            }
            Err(rcode) => Found::new(rcode),
        };
        Ok(Reply::one(self.write(&message, &found)?))
    }

    fn write(&self, to: &Message<Bytes>, found: &Found<'_>) -> Result<Vec<u8>> {
        let mut message = MessageBuilder::from_target(StaticCompressor::new(Vec::with_capacity(512)))?;
        message.set_push_limit(MAX_RECORDS);
        let mut section = message.start_answer(to, found.rcode.rcode())?;
        section.header_mut().set_aa(found.authoritative);
        section.header_mut().set_cd(to.header().cd());
        let mut is_whole = found.answer.iter().try_for_each(|record| section.push(record)).is_ok();
        let mut section = section.authority();
        is_whole = is_whole && found.authority.iter().try_for_each(|record| section.push(record)).is_ok();
        let mut section = section.additional();
        section.header_mut().set_tc(!is_whole);
        // Clients can query records that are left out here.
        let _ = found.additional.iter().try_for_each(|record| section.push(record));
        section.as_builder_mut().clear_push_limit();
        if let Some(edns) = to.opt() {
            let before = section.as_builder().as_slice().len();
            let keepalive = edns.opt().first::<TcpKeepalive>();
            section.opt(|opt| {
                opt.set_rcode(found.rcode);
                opt.set_dnssec_ok(edns.dnssec_ok());
                // The size that this server would accept over UDP.
                opt.set_udp_payload_size(1232);
                if keepalive.is_some() {
                    let idle = self.idle.and_then(|idle| idle.try_into().ok());
                    opt.tcp_keepalive(Some(idle.unwrap_or_else(|| IdleTimeout::from(u16::MAX))))?;
                }
                match edns.opt().first::<Padding<_>>() {
                    Some(_) => opt.padding(padding(before + if keepalive.is_some() { OPT + KEEPALIVE } else { OPT })),
                    None => Ok(()),
                }
            })?;
        }
        Ok(section.finish().into_target())
    }
}

/// How many bytes of padding fill an answer of `len` bytes, which include an OPT record with an empty padding, up to a
/// whole block.
fn padding(length: usize) -> u16 {
    let whole = length.next_multiple_of(BLOCK).min(u16::MAX.into());
    u16::try_from(whole.saturating_sub(length)).unwrap_or(0)
}

/// The question of a query, or the error code of its answer.
fn asked(message: &Message<Bytes>) -> Result<(Owner, Rtype), OptRcode> {
    let opts: Result<usize, ParseError> =
        message.iter().map(|record| Ok(usize::from(record?.0.rtype() == Rtype::OPT))).sum();
    let question = match message.sole_question() {
        _ if message.header().opcode() != Opcode::QUERY => return Err(OptRcode::NOTIMP),
        // There may be one OPT record, among the additional records.
        Ok(question) if opts == Ok(message.opt().is_some().into()) => question,
        _ => return Err(OptRcode::FORMERR),
    };
    match question.qtype() {
        _ if message.opt().is_some_and(|edns| edns.version() > 0) => Err(OptRcode::BADVERS),
        _ if question.qclass() != Class::IN => Err(OptRcode::REFUSED),
        Rtype::AXFR | Rtype::IXFR => Err(OptRcode::REFUSED),
        Rtype::OPT => Err(OptRcode::FORMERR),
        // Questions of other kinds (RFC 6895, section 3.1).
        rtype if (128..255).contains(&rtype.to_int()) => Err(OptRcode::NOTIMP),
        rtype => Ok((question.into_qname().flatten_into(), rtype)),
    }
}
