//! A zone, read from a master file, and its answers to questions (RFC 1034, section 4.3.2).

use std::collections::HashMap;

use domain::base::iana::{Class, OptRcode};
use domain::base::name::FlattenInto;
use domain::base::{Name, Record, RelativeName, Rtype, ToName, ToRelativeName, Ttl};
use domain::rdata::ZoneRecordData;
use domain::zonefile::inplace::{Entry, Zonefile};
use ropewalk::{Bytes, Error, Result};

use super::master::plain;

/// The longest chain of aliases that is followed.
const MAX_ALIASES: usize = 32;

pub(crate) type Owner = Name<Bytes>;
pub(crate) type Data = ZoneRecordData<Bytes, Owner>;
type Records = Vec<Record<Owner, Data>>;

pub(crate) struct Zone {
    soa: Record<Owner, Data>,
    /// How long a resolver may remember that a name doesn't exist (RFC 2308, section 5).
    negative: Ttl,
    /// Names compare and hash without regard to case. Empty names between others are included, without records.
    names: HashMap<Owner, Records>,
}

/// An answer: its code, and three sections of records.
pub(crate) struct Found<'a> {
    pub(crate) rcode: OptRcode,
    pub(crate) authoritative: bool,
    pub(crate) answer: Vec<Item<'a>>,
    pub(crate) authority: Vec<Item<'a>>,
    pub(crate) additional: Vec<Item<'a>>,
}

/// A record in an answer, with the name as it was asked; that name may differ in case, or match a wildcard.
pub(crate) type Item<'a> = (Owner, Ttl, &'a Data);

/// Where a name is.
enum Place<'a> {
    Outside,
    /// In a subzone with these name servers.
    Delegated(&'a Records),
    /// In this zone, by itself or by a wildcard.
    Here(&'a Records),
    Nowhere,
}

impl Zone {
    pub(crate) fn parse(file: &[u8]) -> Result<Self> {
        let mut records = Records::new();
        let mut file = Zonefile::from(&plain(file)[..]);
        file.set_default_class(Class::IN);
        for entry in file {
            match entry? {
                Entry::Record(record) => records.push(record.flatten_into()),
                Entry::Include { path, .. } => {
                    return Err(Error::other(format!("$INCLUDE {path}: put all records in one file")));
                }
            }
        }
        let mut soas = records.iter().filter_map(|record| match record.data() {
            ZoneRecordData::Soa(soa) => Some((record.clone(), record.ttl().min(soa.minimum()))),
            _ => None,
        });
        let (Some((soa, negative)), None) = (soas.next(), soas.next()) else {
            return Err(Error::other("a zone has one SOA record"));
        };
        let mut zone = Self { soa, negative, names: HashMap::new() };
        records.into_iter().try_for_each(|record| zone.add(record))?;
        Ok(zone)
    }

    fn add(&mut self, record: Record<Owner, Data>) -> Result {
        let (owner, rtype, apex) = (record.owner().clone(), record.rtype(), self.soa.owner());
        if !owner.ends_with(apex) {
            return Err(Error::other(format!("{owner} is not in the zone {apex}")));
        }
        if record.class() != Class::IN || rtype == Rtype::DNAME {
            return Err(Error::other(format!("{owner}: {} {rtype} is not served here", record.class())));
        }
        for ancestor in owner.iter_suffixes().take_while(|name| name.label_count() > apex.label_count()) {
            self.names.entry(ancestor).or_default();
        }
        let records = self.names.entry(owner).or_default();
        records.push(record);
        if records.len() > 1 && records.iter().any(|record| record.rtype() == Rtype::CNAME) {
            return Err(Error::other(format!("{}: an alias has no other records", records[0].owner())));
        }
        Ok(())
    }

    pub(crate) fn find(&self, name: Owner, rtype: Rtype) -> Found<'_> {
        let mut found = Found::new(OptRcode::NOERROR);
        let mut next = Some(name);
        while let Some(name) = next.take() {
            match self.place(&name, rtype) {
                Place::Outside if found.answer.is_empty() => found.rcode = OptRcode::REFUSED,
                // The rest of the chain is outside this zone.
                Place::Outside => {}
                Place::Delegated(records) => {
                    let servers = records.iter().filter(|record| record.rtype() == Rtype::NS);
                    found.authority.extend(servers.map(|record| item(record.owner(), record)));
                }
                Place::Nowhere => {
                    found.rcode = OptRcode::NXDOMAIN;
                    self.deny(&mut found);
                }
                Place::Here(records) => next = self.tell(&mut found, &name, records, rtype),
            }
        }
        self.add_addresses(&mut found);
        found
    }

    /// Adds the records of a name. If it is an alias, returns the name to look up next.
    fn tell<'a>(&'a self, found: &mut Found<'a>, name: &Owner, records: &'a Records, rtype: Rtype) -> Option<Owner> {
        found.authoritative = true;
        let before = found.answer.len();
        let asked = records.iter().filter(|record| rtype == Rtype::ANY || record.rtype() == rtype);
        found.answer.extend(asked.map(|record| item(name, record)));
        if found.answer.len() > before {
            return None;
        }
        let Some(ZoneRecordData::Cname(alias)) = records.first().map(Record::data) else {
            self.deny(found);
            return None;
        };
        // All names before the last one are aliases. The client follows a longer chain itself.
        if found.answer.len() == MAX_ALIASES {
            return None;
        }
        found.answer.push(item(name, &records[0]));
        // A chain may be a loop.
        found.answer.iter().all(|(owner, ..)| owner != alias.cname()).then(|| alias.cname().clone())
    }

    fn place(&self, name: &Owner, rtype: Rtype) -> Place<'_> {
        let apex = self.soa.owner();
        if !name.ends_with(apex) {
            return Place::Outside;
        }
        let (mut closest, mut delegated) = (None, None);
        for ancestor in name.iter_suffixes().take_while(|name| name.label_count() > apex.label_count()) {
            let Some(records) = self.names.get(&ancestor) else { continue };
            // DS records belong to the parent zone (RFC 4035, section 3.1.4.1).
            let asks_parent = rtype == Rtype::DS && ancestor == *name;
            if !asks_parent && records.iter().any(|record| record.rtype() == Rtype::NS) {
                // The last one found is nearest to the apex: the names below it are in the subzone.
                delegated = Some(records);
            }
            closest.get_or_insert(ancestor);
        }
        if let Some(records) = delegated {
            return Place::Delegated(records);
        }
        // A name that doesn't exist matches a wildcard below its closest existing ancestor (RFC 4592).
        let wildcard = || RelativeName::wildcard_slice().chain(closest.as_ref().unwrap_or(apex)).ok();
        let records = self.names.get(name).or_else(|| self.names.get(&wildcard()?.to_name::<Bytes>()));
        records.map_or(Place::Nowhere, Place::Here)
    }

    /// Adds the SOA record, which means that there are no records.
    fn deny<'a>(&'a self, found: &mut Found<'a>) {
        found.authoritative = true;
        found.authority.push((self.soa.owner().clone(), self.negative, self.soa.data()));
    }

    /// The addresses of the named servers, if they are in this zone.
    fn add_addresses<'a>(&'a self, found: &mut Found<'a>) {
        for (.., data) in found.answer.iter().chain(&found.authority) {
            let host = match data {
                ZoneRecordData::Ns(ns) => ns.nsdname(),
                ZoneRecordData::Mx(mx) => mx.exchange(),
                ZoneRecordData::Srv(srv) => srv.target(),
                _ => continue,
            };
            let records = self.names.get(host).into_iter().flatten();
            let told = found.additional.iter().any(|(owner, ..)| owner == host);
            let addresses = records.filter(|record| !told && matches!(record.rtype(), Rtype::A | Rtype::AAAA));
            found.additional.extend(addresses.map(|record| item(host, record)));
        }
    }
}

impl Found<'_> {
    /// An answer without records.
    pub(crate) const fn new(rcode: OptRcode) -> Self {
        Self { rcode, authoritative: false, answer: Vec::new(), authority: Vec::new(), additional: Vec::new() }
    }
}

fn item<'a>(name: &Owner, record: &'a Record<Owner, Data>) -> Item<'a> {
    (name.clone(), record.ttl(), record.data())
}
