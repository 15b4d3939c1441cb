//! Frames pushed from outside.

mod full;
mod pushes;
mod pushing;
mod rooms;
mod rooms_in_order;
mod threads;
mod turns;
