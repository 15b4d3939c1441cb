//! Text and lines as SVG, readable on light and dark pages.

use std::fmt::Write;

/// A picture in the making.
pub struct Svg {
    body: String,
    width: f64,
    height: f64,
}

const STYLE: &str = "text{font:13px system-ui,sans-serif;fill:#24292f}.small{font-size:11px;fill:#57606a}\
.ours{fill:#0969da;stroke:#0969da}.other{fill:#8c959f;stroke:#8c959f}.limit{fill:#2da44e;stroke:#2da44e}\
.grid{stroke:#d0d7de;stroke-width:1}.line{fill:none;stroke-width:2}\
@media(prefers-color-scheme:dark){text{fill:#e6edf3}.small{fill:#8d96a0}.grid{stroke:#30363d}}";

impl Svg {
    pub fn new(width: f64, height: f64) -> Self {
        Self { body: String::new(), width, height }
    }

    pub fn text(&mut self, x: f64, y: f64, anchor: &str, class: &str, text: &str) {
        let text = text.replace('&', "&amp;").replace('<', "&lt;").replace('`', "");
        let _ =
            writeln!(self.body, r#"<text x="{x:.1}" y="{y:.1}" text-anchor="{anchor}" class="{class}">{text}</text>"#);
    }

    pub fn bar(&mut self, x: f64, y: f64, width: f64, height: f64, class: &str) {
        let shape = format!(r#"width="{width:.1}" height="{height:.1}" rx="2" stroke="none" class="{class}""#);
        let _ = writeln!(self.body, r#"<rect x="{x:.1}" y="{y:.1}" {shape} style="stroke:none"/>"#);
    }

    pub fn rule(&mut self, x1: f64, y1: f64, x2: f64, y2: f64) {
        let _ = writeln!(self.body, r#"<path d="M{x1:.1} {y1:.1}L{x2:.1} {y2:.1}" class="grid"/>"#);
    }

    /// A line through points, with a dot on each.
    pub fn line(&mut self, points: &[(f64, f64)], class: &str, dash: &str) {
        let path: Vec<String> = points.iter().map(|(x, y)| format!("{x:.1} {y:.1}")).collect();
        let style = format!("fill:none;stroke-dasharray:{dash}");
        let _ = writeln!(self.body, r#"<path d="M{}" class="line {class}" style="{style}"/>"#, path.join("L"));
        for (x, y) in points {
            let _ = writeln!(self.body, r#"<circle cx="{x:.1}" cy="{y:.1}" r="3" class="{class}"/>"#);
        }
    }

    pub fn finish(self, title: &str) -> String {
        let Self { body, width, height } = self;
        let head = format!(
            r#"<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:.0} {height:.0}" width="{width:.0}""#
        );
        format!(
            "{head} role=\"img\" aria-label=\"{title}\">\n<title>{title}</title>\n<style>{STYLE}</style>\n{body}</svg>\n"
        )
    }
}
