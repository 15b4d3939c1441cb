//! Measures through criterion, and prints or draws what was measured.

#![allow(clippy::print_stdout, dead_code, unreachable_pub)] // it prints what it measured; each bench uses a part of it

pub mod plot;

use std::fs;
use std::path::Path;

use criterion::{Bencher, Criterion};

/// One measurement: its subject, size and implementation, and the work of one iteration.
#[derive(Clone, Copy, Debug)]
pub struct Row<'a> {
    pub kind: &'a str,
    pub size: usize,
    pub who: &'a str,
    pub frames: usize,
    pub bytes: usize,
}

/// What one run measured.
#[derive(Debug, Default)]
pub struct Table(Vec<(String, usize, String, f64, f64)>);

impl Table {
    pub fn measure(
        &mut self,
        criterion: &mut Criterion,
        row: Row<'_>,
        routine: impl FnMut(&mut Bencher<'_>),
    ) {
        let Row { kind, size, who, frames, bytes } = row;
        let id = format!("{kind} {size} {who}").replace([',', ':', ' '], "_");
        criterion.bench_function(&id, routine);
        if let Some(nanoseconds) = median(&id) {
            self.0.push((
                kind.into(),
                size,
                who.into(),
                nanoseconds / frames as f64,
                bytes as f64 / nanoseconds,
            ));
        }
    }

    /// The table. A row's ratios are to the first of tokio-util's and to the limit among those of
    /// its kind and size.
    pub fn print(&self) {
        if self.0.is_empty() {
            return;
        }
        println!(
            "\n| what | bytes | who | ns a frame | GB/s | times as fast as tokio-util | times the limit's time |"
        );
        println!("|---|---:|---|---:|---:|---:|---:|");
        for (kind, size, who, ns, rate) in &self.0 {
            let against = |prefix: &str| self.time(kind, *size, prefix).map(|other| other / ns);
            let tokio =
                against("tokio-util").map_or_else(String::new, |ratio| format!("{ratio:.2}"));
            let limit =
                against("limit").map_or_else(String::new, |ratio| format!("{:.2}", ratio.recip()));
            println!("| {kind} | {size} | {who} | {ns:.1} | {rate:.2} | {tokio} | {limit} |");
        }
    }

    /// What was measured first for somebody whose name begins so, in nanoseconds a frame.
    pub fn time(&self, kind: &str, size: usize, who: &str) -> Option<f64> {
        self.0
            .iter()
            .find(|row| (&*row.0, row.1) == (kind, size) && row.2.starts_with(who))
            .map(|row| row.3)
    }
}

impl Table {
    /// The table without sizes: what each takes, and how much of it is beyond `none` of the same
    /// kind.
    pub fn print_beyond(&self, what: &str, none: &str) {
        if self.0.is_empty() {
            return;
        }
        println!("\n| case | who | ns {what} | beyond {none} |\n|---|---|---:|---:|");
        for (kind, _, who, ns, _) in &self.0 {
            let least = self
                .0
                .iter()
                .find(|row| (&row.0, &*row.2) == (kind, none))
                .map_or(0.0, |row| row.3);
            println!("| {kind} | {who} | {ns:.1} | {:.1} |", ns - least);
        }
    }
}

impl Table {
    /// The table with the ratios to what was measured of `other`.
    pub fn print_ratios(&self, what: &str, other: &str) {
        if self.0.is_empty() {
            return;
        }
        println!("\n| who | ns {what} | times that of {other} |\n|---|---:|---:|");
        for (kind, size, who, ns, _) in &self.0 {
            let ratio = self.time(kind, *size, other).map_or(f64::NAN, |other| ns / other);
            println!("| {who} | {ns:.1} | {ratio:.2} |");
        }
    }
}

/// The median of what criterion has just measured, in nanoseconds an iteration; none when it only
/// tested.
fn median(id: &str) -> Option<f64> {
    if std::env::args().any(|arg| arg == "--test") || !std::env::args().any(|arg| arg == "--bench")
    {
        return None;
    }
    let target = std::env::var("CARGO_TARGET_DIR")
        .unwrap_or_else(|_| concat!(env!("CARGO_MANIFEST_DIR"), "/../target").into());
    let file = Path::new(&target).join("criterion").join(id).join("new/estimates.json");
    let estimates: serde_json::Value =
        serde_json::from_str(&fs::read_to_string(file).ok()?).ok()?;
    estimates["median"]["point_estimate"].as_f64()
}
