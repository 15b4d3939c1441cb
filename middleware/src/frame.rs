//! What tells a frame from a connection.

/// A frame: any type that is [`Sync`], as about every type is that holds data. A [`Connection`](crate::Connection) is
/// not.
///
/// It is there for the layers around frames, which fit no connection by it. There is nothing to implement.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is no frame",
    label = "this layer goes around a service of frames",
    note = "put it around the service inside `framed(codec, service)`; around connections go `ReadDeadlineLayer`, \
            `ConnectionLimitLayer`, `PeerLimitLayer` and `LogLayer`",
    note = "a frame type of your own has to be `Sync`"
)]
pub trait Frame {}

// A connection may hold a transport that is `Send` and no more, so it is not `Sync`; `tests/ui/` watches over that.
#[diagnostic::do_not_recommend]
impl<T: ?Sized + Sync> Frame for T {}
