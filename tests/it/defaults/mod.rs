//! The defaults of `docs/src/limits.md`.

mod clients;
mod connections;
mod layers;
mod listeners;
mod running;
mod server;
