//! The spans, without a collector.
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod spans;

use opentelemetry::Value;
use opentelemetry_sdk::trace::{InMemorySpanExporter, SdkTracerProvider, SpanData};
use ropewalk::{Lines, Server, framed, memory, service_fn};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

fn field<'a>(span: &'a SpanData, name: &str) -> Option<&'a Value> {
    span.attributes.iter().find(|field| field.key.as_str() == name).map(|field| &field.value)
}

/// One thread, so that the subscriber of this test sees all of it.
#[tokio::test]
async fn a_connection_is_a_span_and_each_of_its_lines_a_span_below_it() {
    let exporter = InMemorySpanExporter::default();
    let provider = SdkTracerProvider::builder().with_simple_exporter(exporter.clone()).build();
    let _default = tracing::subscriber::set_default(spans::subscriber(&provider));
    let (endpoint, connector) = memory::endpoint();
    let server = Server::new().listen(endpoint).layer(spans::log());
    let serve = server.serve(framed(Lines::any(), service_fn(spans::answer))).bind().await.unwrap();
    let handle = serve.handle();
    let running = tokio::spawn(serve);
    let mut client = connector.connect().await.unwrap();
    client.write_all(b"hello\nyou\n").await.unwrap();
    client.shutdown().await.unwrap();
    let mut answers = String::new();
    client.read_to_string(&mut answers).await.unwrap();
    assert_eq!(answers, "hello\nyou\n");
    handle.stop();
    running.await.unwrap().unwrap();
    let spans = exporter.get_finished_spans().unwrap();
    let names: Vec<&str> = spans.iter().map(|span| &*span.name).collect();
    assert_eq!(names, ["line", "line", "connection"], "a connection ends after its lines");
    let connection = &spans[2];
    for (line, bytes) in spans.iter().zip(["5", "3"]) {
        assert_eq!(line.parent_span_id, connection.span_context.span_id());
        assert_eq!(line.span_context.trace_id(), connection.span_context.trace_id());
        assert_eq!(field(line, "bytes").map(Value::as_str).as_deref(), Some(bytes));
    }
    assert!(field(connection, "id").is_some(), "{:?}", connection.attributes);
    // Its closing line is an event of the span.
    let closing = connection.events.iter().last().unwrap();
    let reason = closing.attributes.iter().find(|field| field.key.as_str() == "reason").unwrap();
    assert_eq!(reason.value.as_str(), "done");
}
