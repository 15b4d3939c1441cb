//! The two pictures.

use crate::peers::{Kind, Peer};
use crate::rows::ROWS;
use crate::scaling::{CONNECTIONS, Point, SIZES};
use crate::svg::Svg;
use crate::table::{Cell, cost};

/// A bar that is longer than this many times the shortest is cut, because the differences between
/// the others could not be seen.
const CUT: f64 = 12.0;

/// A bar for each server: the first workload, linear, from nothing. None if nobody was measured in
/// it.
pub fn bars(cells: &[Cell], peers: &[Peer]) -> Option<String> {
    let row = &ROWS[0];
    let mut bars: Vec<(&Peer, f64)> = Vec::new();
    for cell in cells.iter().filter(|cell| cell.row == row.name) {
        bars.push((peers.iter().find(|peer| peer.name == cell.server)?, cost(cell)));
    }
    bars.sort_by(|(_, a), (_, b)| a.total_cmp(b));
    let least = bars.first()?.1;
    let most = bars.iter().map(|(_, cost)| *cost).filter(|cost| *cost <= CUT * least).fold(least, f64::max);
    let (left, width, height) = (330.0, 420.0, 26.0);
    let mut svg = Svg::new(left + width + 80.0, 70.0 + height * bars.len() as f64);
    svg.text(8.0, 20.0, "start", "", "CPU time of an echo server for a 64-byte line, in µs: less is better");
    let words = format!("{} at once; medians of one run on one core; a bar with a gap is cut", row.words);
    svg.text(8.0, 38.0, "start", "small", &words);
    for (i, (peer, cost)) in bars.iter().enumerate() {
        let y = 54.0 + height * i as f64;
        let class = match peer.kind {
            Kind::Ours | Kind::Layers | Kind::Codec => "ours",
            Kind::Limit => "limit",
            Kind::Peer | Kind::Reference => "other",
        };
        svg.text(left - 8.0, y + 14.0, "end", "", peer.words);
        let length = (cost / most * width).clamp(1.0, width);
        if *cost > most {
            svg.bar(left, y, length - 48.0, height - 8.0, class);
            svg.bar(left + length - 40.0, y, 40.0, height - 8.0, class);
        } else {
            svg.bar(left, y, length, height - 8.0, class);
        }
        svg.text(left + length + 6.0, y + 14.0, "start", "", &format!("{cost:.3}"));
    }
    Some(svg.finish("CPU time of each server for a line"))
}

/// Cost over connections, both axes logarithmic; a line for each size, ours and the limit.
pub fn scaling(points: &[Point]) -> String {
    let (left, top, width, height) = (70.0, 60.0, 520.0, 300.0);
    let costs = || points.iter().map(|point| point.cpu_us).filter(|cost| *cost > 0.0);
    let low = costs().fold(f64::MAX, f64::min).min(1.0).log10().floor();
    let high = costs().fold(0.01, f64::max).log10().ceil();
    let most = (CONNECTIONS[CONNECTIONS.len() - 1] as f64).log10();
    let x = |conns: u64| left + (conns as f64).log10() / most * width;
    let y = |cost: f64| top + (high - cost.log10()) / (high - low) * height;
    let mut svg = Svg::new(left + width + 170.0, top + height + 60.0);
    svg.text(8.0, 20.0, "start", "", "CPU time for a line in µs, over the number of connections");
    svg.text(
        8.0,
        38.0,
        "start",
        "small",
        "16 lines at once on each; server and client on one core; both axes logarithmic",
    );
    for conns in CONNECTIONS {
        svg.rule(x(conns), top, x(conns), top + height);
        svg.text(x(conns), top + height + 18.0, "middle", "small", &conns.to_string());
    }
    svg.text(left + width / 2.0, top + height + 42.0, "middle", "", "connections");
    for decade in (low as i32)..=(high as i32) {
        for step in if f64::from(decade) < high { 1..=9 } else { 1..=1 } {
            let cost = f64::from(step) * 10_f64.powi(decade);
            svg.rule(left, y(cost), left + width, y(cost));
            if matches!(step, 1 | 2 | 5) {
                svg.text(left - 8.0, y(cost) + 4.0, "end", "small", &format!("{}", (cost * 1e4).round() / 1e4));
            }
        }
    }
    let mut legend = top + 10.0;
    for (server, name, class) in [("framed", "ropewalk", "ours"), ("epoll", "bare epoll", "limit")] {
        for (size, dash) in SIZES.into_iter().zip(["2 2", "none", "6 3", "10 3 2 3"]) {
            let line = points.iter().filter(|p| p.server == server && p.size == size && p.cpu_us > 0.0);
            let at: Vec<(f64, f64)> = line.map(|point| (x(point.conns), y(point.cpu_us))).collect();
            if at.is_empty() {
                continue;
            }
            svg.line(&at, class, dash);
            svg.line(&[(left + width + 14.0, legend), (left + width + 46.0, legend)], class, dash);
            svg.text(left + width + 54.0, legend + 4.0, "start", "small", &format!("{name}, {size} B"));
            legend += 22.0;
        }
    }
    svg.finish("CPU time for a line over the number of connections and the size of lines")
}
