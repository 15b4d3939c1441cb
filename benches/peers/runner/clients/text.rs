//! What came out, as markdown.

use std::fmt::Write;

use super::{CLIENTS, Cell, MUSTS, Must, SHAPES};
use crate::stats::{median, ratio, spread};

/// One write and one read for a burst, but for the first ones.
const ONE: f64 = 1.02;

fn cpu(cell: &Cell) -> Vec<f64> {
    cell.rounds.iter().map(|cost| cost.cpu_ns).collect()
}

pub fn markdown(cells: &[Cell]) -> String {
    let mut text = String::from(
        "# Clients: what a call costs the client\n\nLines of 64 bytes, sent back by a bare epoll loop; `ECHO` of 64 bytes to a \
         redis-server. 64 calls in flight, but for `single`: one.\n",
    );
    let is_measured =
        |(shape, threads): &(&str, usize)| cells.iter().any(|cell| (cell.shape, cell.threads) == (*shape, *threads));
    for (shape, threads) in SHAPES.into_iter().filter(is_measured) {
        let of = |client: &str| {
            cells.iter().find(|cell| cell.client == client && (cell.shape, cell.threads) == (shape, threads))
        };
        let _ = write!(text, "\n## `{shape}`, {}\n\n", if threads == 1 { "one thread" } else { "two threads" });
        text.push_str("| client | CPU ns/call | spread | instructions | writes, reads, waits a burst |\n");
        text.push_str("|---|---:|---:|---:|---|\n");
        for (name, words, ..) in CLIENTS {
            let Some(cell) = of(name) else { continue };
            let cost = cpu(cell);
            let instructions = cell.instructions.map(|n| format!("{n:.0}")).unwrap_or_default();
            let calls = cell.syscalls.map(|[w, r, e]| format!("{w:.2}, {r:.2}, {e:.2}")).unwrap_or_default();
            let (cost, spread) = (median(cost.iter().copied()), 100.0 * spread(&cost));
            let _ = writeln!(text, "| {words} (`{name}`) | {cost:.0} | {spread:.0} % | {instructions} | {calls} |");
        }
        text.push('\n');
        for must in MUSTS.iter().filter(|must| must.single == (shape == "single")) {
            if let Some((ours, against)) = of(must.ours).zip(of(must.against)) {
                compare(&mut text, must, ours, against);
            }
        }
        for ours in ["tower", "ask"].into_iter().filter_map(of) {
            if let Some([writes, reads, _]) = ours.syscalls {
                let met = mark(writes.max(reads), ONE);
                let _ = writeln!(text, "* `{}`: one write and one read a burst on one thread: {met}", ours.client);
            }
        }
    }
    text
}

fn compare(text: &mut String, must: &Must, ours: &Cell, against: &Cell) {
    let value = ratio(&cpu(ours), &cpu(against));
    let Must { cpu, .. } = must;
    let met = mark(value, *cpu);
    let _ =
        writeln!(text, "* `{}`: {value:.2} of the CPU time of `{}` (must {cpu:.2}): {met}", must.ours, must.against);
    let counted = ours.instructions.zip(against.instructions).zip(must.instructions);
    if let Some(((ours, against), bound)) = counted {
        let (value, met) = (ours / against, mark(ours / against, bound));
        let _ = writeln!(text, "* `{}`: {value:.2} of its instructions (must {bound:.2}): {met}", must.ours);
    }
}

fn mark(value: f64, bound: f64) -> &'static str {
    if value <= bound { "met" } else { "**missed**" }
}
