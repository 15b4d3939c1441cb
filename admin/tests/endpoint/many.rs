//! A refresh of the page with ten thousand connections.

use std::time::Instant;

use ropewalk::Server;
use ropewalk_admin::Admin;

use crate::common::{Asked, Watched};

/// How long it takes is printed and not checked: other work on the machine would fail it.
#[tokio::test]
async fn a_refresh_with_ten_thousand_connections_has_a_hundred_rows() {
    let watched = Watched::with(Server::new().max_connections(10_000)).await;
    let mut streams = Vec::with_capacity(10_000);
    for _ in 0..10_000 {
        streams.push(watched.connect().await);
    }
    let asked = Asked::with(
        &watched,
        Admin::new().names(|connection| Some(format!("user {}", connection.id()))),
    )
    .await;
    for query in ["/connections", "/connections?q=user+9&sort=bytes_in", "/status"] {
        let began = Instant::now();
        let answer = asked.get(query).await;
        let took = began.elapsed();
        let (length, answer) = (answer.body.len(), answer.json());
        if query == "/status" {
            assert_eq!(answer["active"], 10_000);
        } else {
            assert_eq!(
                (answer["open"].as_u64(), answer["connections"].as_array().map(Vec::len)),
                (Some(10_000), Some(100))
            );
        }
        println!("{query}: {} ms, {length} bytes", took.as_millis());
    }
}
