//! A plot of times against sizes, both logarithmic, as an SVG file.

use std::fmt::{self, Write as _};

const LEFT: f64 = 64.0;
const TOP: f64 = 48.0;
const WIDTH: f64 = 460.0;
const HEIGHT: f64 = 300.0;
const COLOURS: [&str; 5] = ["#0b6e4f", "#2fbf71", "#c1440e", "#e8a33d", "#8a8a8a"];

/// A line of the plot: its name, and its points as size and nanoseconds.
#[derive(Debug)]
pub struct Series {
    pub name: String,
    pub points: Vec<(f64, f64)>,
}

/// Draws the series, at most five of them.
pub fn draw(title: &str, series: &[Series]) -> Result<String, fmt::Error> {
    let all = || series.iter().flat_map(|series| &series.points);
    let (low, high) =
        all().fold((f64::MAX, 1.0_f64), |(low, high), point| (low.min(point.0), high.max(point.0)));
    let (fast, slow) = all()
        .fold((f64::MAX, 1.0_f64), |(fast, slow), point| (fast.min(point.1), slow.max(point.1)));
    let (fast, slow) = (fast.log10().floor(), slow.log10().ceil());
    let x = |size: f64| LEFT + WIDTH * (size / low).ln() / (high / low).ln();
    let y = |ns: f64| TOP + HEIGHT * (1.0 - (ns.log10() - fast) / (slow - fast));

    let mut svg = String::new();
    let (width, height) = (LEFT + WIDTH + 190.0, TOP + HEIGHT + 52.0);
    write!(
        svg,
        r#"<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" font-family="sans-serif" "#
    )?;
    writeln!(svg, r#"font-size="12"><rect width="100%" height="100%" fill="white"/>"#)?;
    writeln!(svg, r#"<text x="{LEFT}" y="26" font-size="15">{title}</text>"#)?;
    let mut power = fast;
    while power <= slow {
        let (at, ns) = (y(10_f64.powf(power)), 10_f64.powf(power));
        let end = LEFT + WIDTH;
        writeln!(svg, r##"<path d="M{LEFT} {at:.1}H{end}" stroke="#ddd"/>"##)?;
        writeln!(
            svg,
            r#"<text x="{:.1}" y="{:.1}" text-anchor="end">{ns} ns</text>"#,
            LEFT - 8.0,
            at + 4.0
        )?;
        power += 1.0;
    }
    for (size, _) in series.first().map_or(&[][..], |series| &series.points) {
        let (at, below) = (x(*size), TOP + HEIGHT + 18.0);
        writeln!(svg, r#"<text x="{at:.1}" y="{below}" text-anchor="middle">{size}</text>"#)?;
    }
    let (middle, below) = (LEFT + WIDTH / 2.0, TOP + HEIGHT + 40.0);
    writeln!(
        svg,
        r#"<text x="{middle}" y="{below}" text-anchor="middle">bytes in a frame</text>"#
    )?;
    for (series, colour) in series.iter().zip(COLOURS) {
        line(&mut svg, series, colour, x, y)?;
    }
    names(&mut svg, series, y)?;
    svg.push_str("</svg>\n");
    Ok(svg)
}

fn line(
    svg: &mut String,
    series: &Series,
    colour: &str,
    x: impl Fn(f64) -> f64,
    y: impl Fn(f64) -> f64,
) -> fmt::Result {
    write!(svg, r#"<polyline fill="none" stroke="{colour}" stroke-width="2" points=""#)?;
    for (size, ns) in &series.points {
        write!(svg, "{:.1},{:.1} ", x(*size), y(*ns))?;
    }
    writeln!(svg, r#""/>"#)?;
    for (size, ns) in &series.points {
        writeln!(
            svg,
            r#"<circle cx="{:.1}" cy="{:.1}" r="3" fill="{colour}"/>"#,
            x(*size),
            y(*ns)
        )?;
    }
    Ok(())
}

/// The names beside the ends of the lines, far enough from each other to be read.
fn names(svg: &mut String, series: &[Series], y: impl Fn(f64) -> f64) -> fmt::Result {
    let mut ends: Vec<_> = series
        .iter()
        .zip(COLOURS)
        .filter_map(|(series, colour)| {
            series.points.last().map(|point| (y(point.1), &series.name, colour))
        })
        .collect();
    ends.sort_by(|a, b| a.0.total_cmp(&b.0));
    let mut above = 0.0_f64;
    for (at, name, colour) in ends {
        let at = at.max(above + 15.0);
        above = at;
        let (x, y) = (LEFT + WIDTH + 10.0, at + 4.0);
        writeln!(svg, r#"<text x="{x}" y="{y:.1}" fill="{colour}">{name}</text>"#)?;
    }
    Ok(())
}
