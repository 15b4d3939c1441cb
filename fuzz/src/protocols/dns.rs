//! The example dns, with the zone that comes with it.

use std::sync::Arc;

use ropewalk::server::Serve;
use ropewalk::{Endpoint, LengthPrefixed, Server, framed, service_fn};

#[rustfmt::skip]
#[path = "../../../examples/dns/master.rs"]
mod master;
#[rustfmt::skip]
#[path = "../../../examples/dns/service.rs"]
mod service;
#[rustfmt::skip]
#[path = "../../../examples/dns/zone.rs"]
mod zone;

use self::service::{Answers, IN_FLIGHT};
use self::zone::Zone;

const ZONE: &[u8] = include_bytes!("../../../examples/dns/example.zone");

pub struct Dns(Arc<Answers>);

impl super::Protocol for Dns {
    fn new() -> Self {
        let Ok(zone) = Zone::parse(ZONE) else { panic!("the example's zone is one") };
        Self(Arc::new(Answers { zone, idle: None, slow: None }))
    }

    fn serve(&self, endpoint: Endpoint) -> Serve {
        let answers = Arc::clone(&self.0);
        let answer = service_fn(move |query| Arc::clone(&answers).answer(query));
        Server::new()
            .listen(endpoint)
            .serve(framed(LengthPrefixed::u16(), answer).unordered(IN_FLIGHT))
    }
}
