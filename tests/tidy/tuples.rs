//! Several values aren't assigned at once by a tuple made for that: each has a line, so a diff
//! shows which one has changed.

use super::{assert_none, sources};

fn is_a_trick(line: &str) -> bool {
    let line = line.trim();
    let assigns = line.starts_with("let (") || line.starts_with('(');
    assigns && line.contains(") = (") && line.ends_with(");")
}

#[test]
fn no_values_are_assigned_by_a_tuple_made_for_that() {
    let shipped = sources(&["src", "codecs/src", "laws/src", "middleware/src"]);
    assert_none(shipped.iter().flat_map(|s| {
        let lines = s.code.lines().enumerate().filter(|(_, line)| is_a_trick(line));
        lines
            .map(|(at, line)| format!("{}:{}: {}", s.path, at + 1, line.trim()))
            .collect::<Vec<_>>()
    }));
}

#[test]
fn a_tuple_that_is_taken_apart_is_not_one() {
    assert!(
        is_a_trick("    let (a, mut b) = (f(1), Vec::new());")
            && is_a_trick("(self.a, self.b) = (1, 2);")
    );
    assert!(
        !is_a_trick("let (a, b) = f(1);")
            && !is_a_trick("let (a, b): (Vec<_>, Vec<_>) = v.partition(f);")
    );
    assert!(!is_a_trick("let (Some(a), Some(b)) = (f(), g()) else { return };"));
}
