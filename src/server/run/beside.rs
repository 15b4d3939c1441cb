//! A server beside another one: it begins with that one, and its sockets go with those of that one.

use std::sync::Arc;

use super::control;
use super::options::Options;
use crate::endpoint::Endpoint;
use crate::server::accept::front::Front;
use crate::server::books::shared::{Phase, Shared};
use crate::server::restart::{ListedEndpoint, Registered};

/// If the server is beside another one, waits until that one serves, or until this one is told to
/// end. From then on its sockets are handed over and its resources reloaded with those of the other
/// one, as long as what is returned lives.
pub(super) async fn begin(
    shared: &Arc<Shared>,
    options: &Options,
    endpoints: &[Endpoint],
    front: &mut Front,
) -> Option<Registered> {
    let beside = options.beside.as_ref()?;
    let mut phase = shared.phase.subscribe();
    tokio::select! {
        biased;
        () = beside.settled() => {}
        // Then the paths that it was handed are not its own.
        _ = phase.wait_for(|phase| *phase != Phase::Running) => return None,
    }
    // From here on they are.
    front.give_up(&[]);
    // A handle has not added any yet.
    let place = |(number, endpoint)| ListedEndpoint {
        added: None,
        beside: true,
        ..control::place(shared, number, endpoint)
    };
    let places: Vec<_> = endpoints.iter().enumerate().map(place).collect();
    let own = Arc::clone(shared);
    let drain = options.drain;
    Some(beside.register(front.hand_over(&places), &shared.reloads, move |taken| {
        // It is told once: after that its sockets are not handed over any more.
        drop(own.given_up.set(taken));
        own.succeed();
        own.begin_drain(drain);
    }))
}
