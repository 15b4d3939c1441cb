//! The book's table of the tasks that tokio-console shows.

use std::collections::BTreeSet;

use crate::{read, sources};

/// The beginnings of the calls that start a task.
const STARTS: [&str; 3] = ["tokio::spawn(", "runtime.spawn(", "running.spawn("];

#[test]
fn every_place_that_starts_a_task_is_in_the_table_of_tasks() {
    let mut starts = BTreeSet::new();
    for (path, text) in sources(&["src", "middleware/src"]) {
        let code = text.split("#[cfg(test)]\nmod tests {").next().unwrap_or_default();
        let is_start = |line: &str| {
            let line = line.trim_start();
            !line.starts_with("//") && STARTS.iter().any(|start| line.contains(start))
        };
        if !path.contains("tests") && code.lines().any(is_start) {
            let (_, inside) = path.split_once("src/").unwrap();
            starts.insert(inside.to_owned());
        }
    }
    let book = read("docs/src/watching.md");
    let section = book.split("## Tasks in tokio-console").nth(1).unwrap();
    let named: BTreeSet<_> = section
        .lines()
        .filter_map(|line| line.strip_prefix("| `")?.split_once('`'))
        .map(|(path, _)| path.to_owned())
        .collect();
    assert_eq!(named, starts);
}
