//! Measured figures: each is one that a committed command has printed, into
//! `benches/peers/results`.

use super::{assert_none, read};

/// The numbers of a text; `1 000 000` is one.
fn numbers(text: &str) -> Vec<String> {
    let digit = |c: Option<char>| c.is_some_and(|c| c.is_ascii_digit());
    let chars: Vec<char> = text.chars().collect();
    let mut joined = String::new();
    for (i, &c) in chars.iter().enumerate() {
        let before = i.checked_sub(1).and_then(|i| chars.get(i).copied());
        let is_separator = c == ' '
            && digit(before)
            && chars[i + 1..].iter().take_while(|c| c.is_ascii_digit()).count() == 3;
        joined.extend((!is_separator).then_some(c));
    }
    let parts = joined.split(|c: char| !(c.is_ascii_digit() || c == '.'));
    let numbers = parts.map(|part| part.trim_matches('.')).filter(|part| !part.is_empty());
    numbers.map(str::to_owned).collect()
}

/// The figures that are not among those printed.
fn unprinted(figures: &str, printed: &str) -> Vec<String> {
    let printed = numbers(printed);
    numbers(figures).into_iter().filter(|figure| !printed.contains(figure)).collect()
}

#[test]
fn every_figure_of_the_readme_was_printed_by_the_command_beside_it() {
    const COMMAND: &str = "`benches/peers/run ";
    let readme = read("README.md");
    let rows: Vec<&str> =
        readme.lines().filter(|line| line.starts_with("| ") && line.contains(COMMAND)).collect();
    assert!(rows.len() >= 5, "{rows:?}");
    assert_none(rows.into_iter().flat_map(|row| {
        let cells: Vec<&str> = row.split(" | ").collect();
        let (_, part) = row.split_once(COMMAND).unwrap();
        let part = part.split('`').next().unwrap();
        let printed = read(&format!("benches/peers/results/{part}.md"));
        let figures = [cells[1], cells[2]].join("; ");
        unprinted(&figures, &printed)
            .into_iter()
            .map(move |figure| format!("{part}.md has no {figure}"))
    }));
}

#[test]
fn every_ratio_of_the_chapter_on_performance_was_printed() {
    let chapter = read("docs/src/performance.md");
    let printed =
        ["table", "accept"].map(|part| read(&format!("benches/peers/results/{part}.md"))).concat();
    let rows: Vec<&str> =
        chapter.lines().filter(|line| line.starts_with("| ") && line.contains('.')).collect();
    assert_eq!(rows.len(), 7);
    assert_none(rows.into_iter().flat_map(|row| {
        let (_, ratios) = row.split_once(" | ").unwrap();
        unprinted(ratios, &printed)
    }));
}

#[test]
fn a_figure_that_no_command_printed_is_found() {
    assert_eq!(numbers("1 000 000 of 1.04, 2 at 30."), ["1000000", "1.04", "2", "30"]);
    assert_eq!(unprinted("1.04 and 9 422", "| 11.04 | 9422 |"), ["1.04"]);
}
