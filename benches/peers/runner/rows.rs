//! The workloads, and the demand on each: issue 4's table.

use ropewalk_peers::Mode;

/// A bound that has to be kept, and one to aim for.
#[derive(Clone, Copy, Debug)]
pub struct Bound {
    pub must: f64,
    pub aim: f64,
}

/// A workload.
#[derive(Clone, Copy, Debug)]
pub struct Row {
    pub name: &'static str,
    pub words: &'static str,
    pub mode: Mode,
    pub conns: u64,
    pub depth: u64,
    pub size: u64,
    /// Server and client on one core: what two cores would measure is how long one takes to wake
    /// the other.
    pub same_core: bool,
    /// Ours under five layers is measured here.
    pub layers: bool,
    pub peer: Bound,
    pub limit: Bound,
}

/// Ours under five layers, against ours without.
pub const LAYERS: f64 = 1.3;
/// A codec whose frames share the buffer, against one that copies small frames.
pub const SHARES: f64 = 1.1;
/// Ours against the loop that every tutorial teaches, where requests are pipelined.
pub const NAIVE: f64 = 0.05;
/// How much worse than the best peer's a p99 may look: less means nothing on such machines.
pub const P99: f64 = 1.1;

const fn bound(must: f64, aim: f64) -> Bound {
    Bound { must, aim }
}

const LINES: Row = Row {
    name: "lines-50x64",
    words: "lines, 50 connections × 64",
    mode: Mode::Line,
    conns: 50,
    depth: 64,
    size: 64,
    same_core: false,
    layers: true,
    peer: bound(0.8, 0.65),
    limit: bound(1.5, 1.25),
};

const FLAT: Row = Row { depth: 1, layers: false, peer: bound(1.05, 1.0), limit: bound(1.25, 1.15), ..LINES };

const CODECS: Row = Row { layers: false, limit: bound(1.6, 1.3), ..LINES };

const LARGE: Row = Row {
    name: "int32-64k-8x1",
    words: "int32 frames of 64 KiB, 8 connections × 1",
    mode: Mode::Int32,
    conns: 8,
    depth: 1,
    size: 64 * 1024,
    layers: false,
    peer: bound(0.9, 0.8),
    limit: bound(1.6, 1.3),
    ..LINES
};

pub const ROWS: [Row; 11] = [
    LINES,
    Row {
        name: "lines-1000x64",
        words: "lines, 1000 connections × 64",
        conns: 1000,
        layers: false,
        limit: bound(1.7, 1.4),
        ..LINES
    },
    Row { name: "int32-50x64", words: "int32, 50 connections × 64", mode: Mode::Int32, ..CODECS },
    Row { name: "netstring-50x64", words: "netstrings, 50 connections × 64", mode: Mode::Netstring, ..CODECS },
    Row { name: "lines-1x1", words: "lines, one connection × 1, one core", conns: 1, same_core: true, ..FLAT },
    Row { name: "lines-50x1", words: "lines, 50 connections × 1", ..FLAT },
    Row { name: "lines-1000x1", words: "lines, 1000 connections × 1", conns: 1000, ..FLAT },
    Row {
        name: "int32-16k-50x8",
        words: "int32 frames of 16 KiB, 50 connections × 8",
        mode: Mode::Int32,
        depth: 8,
        size: 16 * 1024,
        layers: false,
        peer: bound(1.0, 0.9),
        limit: bound(1.25, 1.15),
        ..LINES
    },
    LARGE,
    Row { name: "int32-256k-8x1", words: "int32 frames of 256 KiB, 8 connections × 1", size: 256 * 1024, ..LARGE },
    Row {
        name: "int32-1m-8x1",
        words: "int32 frames of 1 MiB, 8 connections × 1",
        size: 1024 * 1024,
        peer: bound(1.0, 0.9),
        ..LARGE
    },
];
