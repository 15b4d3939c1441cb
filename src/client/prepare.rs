//! The preparation of a new connection before calls use it.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use ropewalk_middleware::{Connection, Result};

use crate::session::Session;

type Preparing<C> = Pin<Box<dyn Future<Output = Result<Session<C>>> + Send>>;

/// No preparation.
#[derive(Clone, Copy, Debug, Default)]
pub struct Unprepared(());

/// Prepares a session of this codec: see [`Client::prepare`](super::Client::prepare).
#[allow(missing_debug_implementations)] // it holds a function
pub struct Prepared<C>(Arc<dyn Fn(Session<C>) -> Preparing<C> + Send + Sync>);

impl<C> Clone for Prepared<C> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<C> Prepared<C> {
    pub(super) fn new<F, Fut>(f: F) -> Self
    where
        F: Fn(Session<C>) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<Session<C>>> + Send + 'static,
    {
        Self(Arc::new(move |session| Box::pin(f(session))))
    }
}

/// Prepares the session of a new connection. Sealed.
#[allow(unreachable_pub)] // sealed
pub trait Prepare<C>: Clone + Send + Sync + 'static {
    fn prepare(&self, session: Session<C>) -> impl Future<Output = Result<Session<C>>> + Send;

    fn begin(
        &self,
        connection: Connection,
        codec: C,
    ) -> impl Future<Output = Result<Session<C>>> + Send {
        self.prepare(Session::over(connection, codec))
    }
}

impl<C: Send + 'static> Prepare<C> for Unprepared {
    fn prepare(&self, session: Session<C>) -> impl Future<Output = Result<Session<C>>> + Send {
        std::future::ready(Ok(session))
    }
}

impl<C: 'static> Prepare<C> for Prepared<C> {
    fn prepare(&self, session: Session<C>) -> impl Future<Output = Result<Session<C>>> + Send {
        (self.0)(session)
    }
}
