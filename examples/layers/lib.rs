//! Two layers in a crate of their own: one around frames, one around connections.

mod local;
mod login;

pub use self::local::{Local, LocalLayer};
pub use self::login::{Login, LoginFuture, LoginLayer};
