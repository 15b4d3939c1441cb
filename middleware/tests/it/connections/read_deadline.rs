//! The deadlines of a connection's frames reach the service; what it makes of them is its own
//! affair.

use std::io;
use std::time::Duration;

use ropewalk_middleware::{Connection, ReadDeadlineLayer, ReadDeadlines};
use tower::{ServiceBuilder, ServiceExt, service_fn};

use crate::common::connection;

const SECOND: Duration = Duration::from_secs(1);

async fn seen(layer: Option<ReadDeadlineLayer>) -> ReadDeadlines {
    let told = service_fn(async |connection: Connection| {
        // A layer that changes the stream leaves the deadlines as they are.
        Ok::<_, io::Error>(connection.map_stream(|stream| stream).read_deadlines())
    });
    ServiceBuilder::new().option_layer(layer).service(told).oneshot(connection().0).await.unwrap()
}

#[tokio::test]
async fn without_the_layer_there_are_no_deadlines() {
    assert_eq!(seen(None).await, ReadDeadlines::OFF);
}

#[tokio::test]
async fn each_has_its_default_and_can_be_changed_or_turned_off() {
    let deadlines = seen(Some(ReadDeadlineLayer::new())).await;
    let expected = [10, 30, 60].map(|seconds| Some(seconds * SECOND));
    assert_eq!([deadlines.first_frame, deadlines.frame, deadlines.idle], expected);
    let deadlines =
        seen(Some(ReadDeadlineLayer::new().first_frame(SECOND).frame(2 * SECOND).idle(None))).await;
    assert_eq!(
        [deadlines.first_frame, deadlines.frame, deadlines.idle],
        [Some(SECOND), Some(2 * SECOND), None]
    );
}

#[tokio::test]
async fn the_innermost_layer_has_the_last_word() {
    let told = service_fn(async |connection: Connection| {
        Ok::<_, io::Error>(connection.read_deadlines().idle)
    });
    let service = ServiceBuilder::new()
        .layer(ReadDeadlineLayer::new().idle(SECOND))
        .layer(ReadDeadlineLayer::new().idle(7 * SECOND))
        .service(told);
    assert_eq!(service.oneshot(connection().0).await.unwrap(), Some(7 * SECOND));
}
