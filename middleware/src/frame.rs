//! The trait that distinguishes a frame from a connection.

/// A frame: any type that is [`Sync`], as nearly every type that holds data is. A
/// [`Connection`](crate::Connection) is not.
///
/// Layers around frames require it, so that they can't go around connections by mistake. There is
/// nothing to implement.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not a frame",
    label = "this layer goes around a service of frames",
    note = "put it around the service inside `framed(codec, service)`; around connections go `ReadDeadlineLayer`, \
            `ConnectionLimitLayer`, `PeerLimitLayer` and `LogLayer`",
    note = "a frame type of your own has to be `Sync`"
)]
pub trait Frame {}

// A connection may hold a transport that is only `Send`, so it is not `Sync`; a test in `tests/ui/`
// checks that.
#[diagnostic::do_not_recommend]
impl<T: ?Sized + Sync> Frame for T {}
