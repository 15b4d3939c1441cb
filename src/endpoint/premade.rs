//! Listeners made in code, and in memory.

use std::fmt;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};

use ropewalk_middleware::Addr;

use super::options::SocketOptions;
use super::scheme::{Identified, Opening, Scheme};
use super::{Endpoint, Kind};
use crate::listener::Listener;

/// A listener that exists already, until the first bind takes it.
#[derive(Clone)]
pub(super) struct Premade {
    addr: Addr,
    listener: Arc<Mutex<Option<Box<dyn Listener>>>>,
}

impl Endpoint {
    /// An existing listener, for example of a transport of your own. It can be bound once, by the
    /// first clone of the endpoint that is bound.
    pub fn from_listener(listener: impl Listener) -> Self {
        let addr = listener.local_addr();
        Kind::Bound(Premade { addr, listener: Arc::new(Mutex::new(Some(Box::new(listener)))) })
            .into()
    }
}

impl Premade {
    pub(super) fn take(&self) -> io::Result<Box<dyn Listener>> {
        let mut listener = self.listener.lock().unwrap_or_else(PoisonError::into_inner);
        listener.take().ok_or_else(|| {
            let text = "it was bound before: a listener made in code can be bound once";
            io::Error::new(io::ErrorKind::AddrInUse, text)
        })
    }
}

impl Scheme for Premade {
    fn options(&self) -> &'static [&'static str] {
        &[]
    }

    fn peers(&self) -> Option<Identified> {
        None
    }

    fn open<'a>(&'a self, _: &'a SocketOptions, _: usize) -> Opening<'a> {
        let text = "a listener made in code, or in memory, can't be shared by workers: serve it without them";
        Box::pin(async move { Err(io::Error::new(io::ErrorKind::InvalidInput, text)) })
    }
}

impl fmt::Display for Premade {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.addr {
            Addr::Memory => f.write_str("memory:"),
            addr => write!(f, "listener:{addr}"),
        }
    }
}

impl PartialEq for Premade {
    /// Clones of one value are equal.
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.listener, &other.listener)
    }
}

impl Eq for Premade {}

impl fmt::Debug for Premade {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.addr.fmt(f)
    }
}
