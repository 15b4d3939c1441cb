//! Limits on the bytes a second: [`BandwidthLayer`].

mod bucket;
mod limited;

use std::fmt;
use std::sync::Arc;
use std::task::{Context, Poll};

use tower_layer::Layer;
use tower_service::Service;

use self::bucket::{ByteRate, SharedBucket};
use self::limited::{Direction, Limited};
use crate::{Connection, Stream};

/// Limits how many bytes a second each connection, and all connections together, may read and
/// write.
///
/// Bytes above the rate wait: they are neither refused nor lost. A peer that sends faster has to
/// wait because its socket is full, and a service that writes faster waits in `send` or `flush`, or
/// for room in the write buffer, as with a slow peer. Reads and writes are cut into small pieces,
/// so the bytes flow evenly: over 10 s the rate is exact to 1 %, and at most the bytes of 50 ms
/// pass at once. Connections that share a rate take turns, in the order in which they have
/// something to read or write; a connection that waits for its own rate uses nothing of the shared
/// rate.
///
/// The bytes counted are those of the protocol: with TLS the plaintext, and no PROXY header. The
/// deadlines for frames and for writing don't take the rate into account. With less than some 2 KiB
/// a second for each connection choose longer deadlines
/// ([`ReadDeadlineLayer::frame`](crate::ReadDeadlineLayer::frame)).
///
/// Put it inside of layers that refuse connections, so that the text of a refusal has no rate. When
/// the writing side is shut down, reading has no rate any more: a connection that closes has 2 s to
/// discard what its peer still sends.
///
/// The layer and its clones share the shared rates; each connection has its own rates. A connection
/// costs a box; each read and write costs one reading of the clock and, under a shared rate, a lock
/// and (for a read) a check whether bytes have arrived. Without any rate the layer does nothing.
///
/// It goes around connections only.
///
/// ```
/// use ropewalk_middleware::BandwidthLayer;
///
/// const KIB: u64 = 1024;
/// // Each peer may send 64 KiB a second; answers take at most 1 MiB a second each, and 10 MiB together.
/// let bandwidth = BandwidthLayer::new()
///     .read(64 * KIB)
///     .write(1024 * KIB)
///     .write_of_all(10 * 1024 * KIB);
/// ```
#[derive(Clone, Debug, Default)]
#[must_use = "a layer does nothing until it is put around a service"]
pub struct BandwidthLayer {
    read: Rates,
    write: Rates,
}

/// The rates of one direction.
#[derive(Clone, Debug, Default)]
struct Rates {
    each: Option<ByteRate>,
    all: Option<Arc<SharedBucket>>,
}

impl Rates {
    fn is_set(&self) -> bool {
        self.each.is_some() || self.all.is_some()
    }

    fn direction(&self) -> Direction {
        Direction::new(self.each, self.all.clone())
    }
}

impl BandwidthLayer {
    /// A layer without a rate.
    pub fn new() -> Self {
        Self::default()
    }

    /// Limits the bytes a second that are read from each connection.
    ///
    /// # Panics
    ///
    /// Panics if it is zero.
    pub fn read(mut self, bytes: u64) -> Self {
        self.read.each = Some(ByteRate::new(bytes));
        self
    }

    /// Limits the bytes a second that are written to each connection.
    ///
    /// # Panics
    ///
    /// Panics if it is zero.
    pub fn write(mut self, bytes: u64) -> Self {
        self.write.each = Some(ByteRate::new(bytes));
        self
    }

    /// Limits the bytes a second that are read from all connections together. Earlier clones don't
    /// share this rate.
    ///
    /// # Panics
    ///
    /// Panics if it is zero.
    pub fn read_of_all(mut self, bytes: u64) -> Self {
        self.read.all = Some(SharedBucket::new(ByteRate::new(bytes)));
        self
    }

    /// Limits the bytes a second that are written to all connections together. Earlier clones don't
    /// share this rate.
    ///
    /// # Panics
    ///
    /// Panics if it is zero.
    pub fn write_of_all(mut self, bytes: u64) -> Self {
        self.write.all = Some(SharedBucket::new(ByteRate::new(bytes)));
        self
    }
}

impl<S> Layer<S> for BandwidthLayer {
    type Service = Bandwidth<S>;

    fn layer(&self, inner: S) -> Self::Service {
        Bandwidth { inner, layer: self.clone() }
    }
}

/// A service whose connections read and write at a limited rate; made by [`BandwidthLayer`].
#[derive(Clone)]
pub struct Bandwidth<S> {
    inner: S,
    layer: BandwidthLayer,
}

impl<S> Bandwidth<S> {
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

impl<S: Service<Connection>> Service<Connection> for Bandwidth<S> {
    type Response = S::Response;
    type Error = S::Error;
    type Future = S::Future;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, connection: Connection) -> Self::Future {
        let BandwidthLayer { read, write } = &self.layer;
        if !read.is_set() && !write.is_set() {
            return self.inner.call(connection);
        }
        let limited =
            |stream| Stream::boxed(Limited::new(stream, read.direction(), write.direction()));
        self.inner.call(connection.map_stream(limited))
    }
}

impl<S: fmt::Debug> fmt::Debug for Bandwidth<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Bandwidth").field("inner", &self.inner).field("layer", &self.layer).finish()
    }
}
