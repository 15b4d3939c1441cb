//! Messages to messages: what may be asked, and how it is answered.

use std::sync::Arc;
use std::time::Duration;

use domain::base::iana::{Class, Opcode, OptRcode};
use domain::base::message::Section;
use domain::base::message_builder::{AdditionalBuilder, StaticCompressor};
use domain::base::name::FlattenInto;
use domain::base::opt::{Opt, OptRecord, TcpKeepalive};
use domain::base::wire::ParseError;
use domain::base::{Message, MessageBuilder, Question, Rtype};
use ropewalk::{Bytes, Reply, Result};
use tokio::time::sleep;

use super::zone::{Found, Owner, Zone};

/// Queries of one connection that are answered at once; their answers come as they are ready, and are told apart by
/// their ids (RFC 7766, section 6.2.1.1).
pub(crate) const IN_FLIGHT: usize = 64;

const SLOW: Duration = Duration::from_millis(500);

/// The longest message, less an OPT record: that one has to fit in any case.
const MAX_RECORDS: usize = 65_535 - 32;

type Additional = AdditionalBuilder<StaticCompressor<Vec<u8>>>;

pub(crate) struct Answers {
    pub(crate) zone: Zone,
    /// Told to clients who ask how long they may stay.
    pub(crate) idle: Duration,
    pub(crate) slow: Option<Owner>,
}

/// A message, as far as it could be read.
#[derive(Default)]
struct Query {
    question: Option<Question<Owner>>,
    edns: Option<OptRecord<Bytes>>,
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
        let mut query = Query::default();
        let found = match query.read(&message) {
            Ok((name, rtype)) => {
                if self.slow.as_ref() == Some(&name) {
                    sleep(SLOW).await;
                }
                self.zone.find(name, rtype)
            }
            Err(rcode) => Found::new(rcode),
        };
        Ok(Reply::one(self.write(&message, &query, &found)?))
    }

    fn write(&self, to: &Message<Bytes>, query: &Query, found: &Found<'_>) -> Result<Vec<u8>> {
        let mut message = MessageBuilder::from_target(StaticCompressor::new(Vec::with_capacity(512)))?;
        message.set_push_limit(MAX_RECORDS);
        let header = message.header_mut();
        header.set_id(to.header().id());
        header.set_qr(true);
        header.set_opcode(to.header().opcode());
        header.set_rd(to.header().rd());
        header.set_aa(found.authoritative);
        header.set_rcode(found.rcode.rcode());
        let mut section = message.question();
        if let Some(question) = &query.question {
            section.push(question)?;
        }
        let mut section = section.answer();
        let mut is_whole = found.answer.iter().try_for_each(|record| section.push(record)).is_ok();
        let mut section = section.authority();
        is_whole = is_whole && found.authority.iter().try_for_each(|record| section.push(record)).is_ok();
        let mut section = section.additional();
        section.header_mut().set_tc(!is_whole);
        // What is left out here can be asked for.
        let _ = found.additional.iter().try_for_each(|record| section.push(record));
        section.as_builder_mut().clear_push_limit();
        if let Some(edns) = &query.edns {
            self.write_edns(&mut section, edns, found.rcode)?;
        }
        Ok(section.finish().into_target())
    }

    fn write_edns(&self, to: &mut Additional, asked: &OptRecord<Bytes>, rcode: OptRcode) -> Result {
        to.opt(|opt| {
            opt.set_rcode(rcode);
            opt.set_dnssec_ok(asked.dnssec_ok());
            // What may be sent to us by UDP, if we had that.
            opt.set_udp_payload_size(1232);
            match asked.opt().first::<TcpKeepalive>() {
                Some(_) => opt.tcp_keepalive(self.idle.try_into().ok()),
                None => Ok(()),
            }
        })?;
        Ok(())
    }
}

impl Query {
    /// What is asked; or why it is not answered.
    fn read(&mut self, message: &Message<Bytes>) -> Result<(Owner, Rtype), OptRcode> {
        let is_well_formed = self.parse(message).is_ok();
        let version = self.edns.as_ref().map_or(0, OptRecord::version);
        let question = match &self.question {
            _ if message.header().opcode() != Opcode::QUERY => return Err(OptRcode::NOTIMP),
            Some(question) if is_well_formed => question,
            _ => return Err(OptRcode::FORMERR),
        };
        match question.qtype() {
            _ if version > 0 => Err(OptRcode::BADVERS),
            _ if question.qclass() != Class::IN => Err(OptRcode::REFUSED),
            Rtype::AXFR | Rtype::IXFR => Err(OptRcode::REFUSED),
            Rtype::OPT => Err(OptRcode::FORMERR),
            // Questions of other kinds (RFC 6895, section 3.1).
            rtype if (128..255).contains(&rtype.to_int()) => Err(OptRcode::NOTIMP),
            rtype => Ok((question.qname().clone(), rtype)),
        }
    }

    fn parse(&mut self, message: &Message<Bytes>) -> Result<(), ParseError> {
        let question = message.sole_question()?;
        let (rtype, class) = (question.qtype(), question.qclass());
        self.question = Some(Question::new(question.into_qname().flatten_into(), rtype, class));
        for record in message.iter() {
            let (record, section) = record?;
            if record.rtype() != Rtype::OPT {
                continue;
            }
            let opt = record.to_record::<Opt<_>>()?.filter(|opt| opt.owner().is_root());
            let (Some(opt), Section::Additional, None) = (opt, section, &self.edns) else {
                return Err(ParseError::form_error("one OPT record, of the root, among the additional ones"));
            };
            self.edns = Some(opt.into());
        }
        Ok(())
    }
}
