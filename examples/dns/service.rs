//! Messages to messages: what may be asked, and how it is answered.

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

/// Queries of one connection that are answered at once; their answers come as they are ready, and are told apart by
/// their ids (RFC 7766, section 6.2.1.1).
pub(crate) const IN_FLIGHT: usize = 64;

const SLOW: Duration = Duration::from_millis(500);

/// The longest message, less an OPT record: that one has to fit in any case.
const MAX_RECORDS: usize = 65_535 - 32;

/// An answer to a query that was padded, so that nobody can tell by its size what it is, is padded as well (RFC 7830),
/// to a multiple of this (RFC 8467, section 4.1).
const BLOCK: usize = 468;

/// The bytes of an OPT record with an empty padding, and of a keepalive in it.
const OPT: usize = 11 + 4;
const KEEPALIVE: usize = 4 + 2;

pub(crate) struct Answers {
    pub(crate) zone: Zone,
    /// Told to clients that ask how long they may stay.
    pub(crate) idle: Option<Duration>,
    pub(crate) slow: Option<Owner>,
}

impl Answers {
    pub(crate) async fn answer(self: Arc<Self>, message: Bytes) -> Result<Reply<Vec<u8>>> {
        let Ok(message) = Message::from_octets(message) else {
            // No header, so no id to answer to.
            return Ok(Reply::none().then_close());
        };
        if message.header().qr() {
            // To answer answers is how loops begin.
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
        // What is left out here can be asked for.
        let _ = found.additional.iter().try_for_each(|record| section.push(record));
        section.as_builder_mut().clear_push_limit();
        if let Some(edns) = to.opt() {
            let before = section.as_builder().as_slice().len();
            let keepalive = edns.opt().first::<TcpKeepalive>();
            section.opt(|opt| {
                opt.set_rcode(found.rcode);
                opt.set_dnssec_ok(edns.dnssec_ok());
                // What may be sent to us by UDP, if we had that.
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

/// How much fills an answer of so many bytes, its OPT record with an empty padding included, up to a whole block.
fn padding(length: usize) -> u16 {
    let whole = length.next_multiple_of(BLOCK).min(u16::MAX.into());
    u16::try_from(whole.saturating_sub(length)).unwrap_or(0)
}

/// What is asked; or why it is not answered.
fn asked(message: &Message<Bytes>) -> Result<(Owner, Rtype), OptRcode> {
    let opts: Result<usize, ParseError> =
        message.iter().map(|record| Ok(usize::from(record?.0.rtype() == Rtype::OPT))).sum();
    let question = match message.sole_question() {
        _ if message.header().opcode() != Opcode::QUERY => return Err(OptRcode::NOTIMP),
        // At most one OPT record, and that among the additional ones.
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
