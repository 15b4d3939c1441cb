//! What holds for each layer, and layers of one's own.

mod checked_layers;
mod clones;
mod own_layers;
mod printed;
mod readiness;
mod state;
