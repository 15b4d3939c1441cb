//! The example `telemetry`. Its spans are tested in its own package.

use crate::support::Example;

#[test]
fn it_answers_and_ends_with_its_last_spans_exported() {
    let mut example = Example::start("telemetry");
    for mut client in example.both() {
        client.ask("hello\n", "hello\n");
    }
    example.terminate();
    assert!(example.wait().success());
}
