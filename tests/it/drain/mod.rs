//! The orderly end of a server.

mod arrived;
mod backlog;
mod deadline;
mod endless;
mod grace;
mod midway;
mod order;
mod signals;
mod successor;
mod unserved;
