//! Connections whose bytes pass at a rate, under a server.

use std::time::Duration;

use ropewalk::Server;
use ropewalk::layer::BandwidthLayer;
use tokio::io::AsyncWriteExt;
use tokio::time::Instant;

use crate::harness::{expect, on_memory, rest, shouter};

const SECOND: Duration = Duration::from_secs(1);

/// A transport that can't tell how much has arrived, as TLS can't: the rate must not look like an
/// end.
#[tokio::test(start_paused = true)]
async fn a_drain_answers_all_that_had_arrived_though_it_is_read_slowly() {
    for layer in [BandwidthLayer::new().read(1000), BandwidthLayer::new().read_of_all(1000)] {
        let (server, connector) = on_memory(Server::new().layer(layer), shouter()).await;
        let mut client = connector.connect().await.unwrap();
        client.write_all("a line\n".repeat(1000).as_bytes()).await.unwrap();
        let start = Instant::now();
        expect(&mut client, "A LINE\n").await;
        server.handle().drain(60 * SECOND);
        assert_eq!(rest(&mut client).await.len(), 999 * "a line\n".len());
        assert!(
            start.elapsed() >= 6 * SECOND,
            "7000 bytes at 1000 a second: {:?}",
            start.elapsed()
        );
        server.over().await;
    }
}
