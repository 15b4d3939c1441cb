use std::fmt::Display;
use std::sync::Arc;
use std::task::{Context, Poll};

use tower_service::Service;

use super::fields::Settings;
use super::future::LogFuture;
use super::limits::LineLimits;
use super::record::Record;
use crate::Connection;

/// A service whose connections are logged; made by [`LogLayer`](super::LogLayer).
#[derive(Clone, Debug)]
pub struct Log<S> {
    pub(super) inner: S,
    pub(super) settings: Settings,
    pub(super) limits: Arc<LineLimits>,
}

impl<S> Log<S> {
    /// The inner service.
    pub fn get_ref(&self) -> &S {
        &self.inner
    }

    /// The inner service, by value.
    #[must_use]
    pub fn into_inner(self) -> S {
        self.inner
    }
}

impl<S> Service<Connection> for Log<S>
where
    S: Service<Connection>,
    S::Error: Display,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = LogFuture<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, connection: Connection) -> Self::Future {
        // Made before the call, so that a service that panics in `call` is logged as well.
        let mut record = Record::new(self.settings, &connection);
        let future = self.inner.call(connection);
        record.limit(&self.limits);
        LogFuture::new(future, record)
    }
}
