//! The counts of a server in the recorder of the `metrics` crate.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use metrics::{
    Counter, Gauge, Histogram, Key, KeyName, Metadata, Recorder, SharedString, Unit,
    set_default_local_recorder,
};
use ropewalk::memory;
use ropewalk::metrics::{Metrics, export};
use ropewalk::{ConnectionLimitLayer, Server};
use tokio::time::sleep;

use crate::harness::{Running, ask, on_memory, on_tcp, rest, settle, shouter};

/// Keeps the values of all metrics by their names and labels.
#[derive(Default)]
struct Kept {
    values: Mutex<BTreeMap<String, Arc<AtomicU64>>>,
    described: Mutex<Vec<String>>,
    looked_up: AtomicU64,
}

impl Kept {
    fn slot(&self, key: &Key) -> Arc<AtomicU64> {
        self.looked_up.fetch_add(1, Ordering::Relaxed);
        let labels: Vec<_> =
            key.labels().map(|label| format!(" {}={}", label.key(), label.value())).collect();
        Arc::clone(
            self.values
                .lock()
                .unwrap()
                .entry(key.name().to_owned() + &labels.concat())
                .or_default(),
        )
    }

    fn raw(&self, name: &str) -> u64 {
        let values = self.values.lock().unwrap();
        let value = values.get(name).unwrap_or_else(|| panic!("no {name} in {:?}", values.keys()));
        value.load(Ordering::Relaxed)
    }

    fn gauge(&self, name: &str) -> f64 {
        f64::from_bits(self.raw(name))
    }
}

impl Recorder for Kept {
    fn describe_counter(&self, key: KeyName, _: Option<Unit>, _: SharedString) {
        self.described.lock().unwrap().push(key.as_str().to_owned());
    }

    fn describe_gauge(&self, key: KeyName, _: Option<Unit>, _: SharedString) {
        self.described.lock().unwrap().push(key.as_str().to_owned());
    }

    fn describe_histogram(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}

    fn register_counter(&self, key: &Key, _: &Metadata<'_>) -> Counter {
        Counter::from_arc(self.slot(key))
    }

    fn register_gauge(&self, key: &Key, _: &Metadata<'_>) -> Gauge {
        Gauge::from_arc(self.slot(key))
    }

    fn register_histogram(&self, _: &Key, _: &Metadata<'_>) -> Histogram {
        Histogram::noop()
    }
}

#[tokio::test(start_paused = true)]
async fn the_counts_of_each_endpoint_and_reason_are_exported_and_each_name_is_looked_up_once() {
    let kept = Kept::default();
    let _recording = set_default_local_recorder(&kept);
    let layers = Server::new().layer(ConnectionLimitLayer::new(1).refuse_with("full\n"));
    let (other, elsewhere) = memory::endpoint();
    let layers = layers.serve_on("other", [other], shouter());
    let (server, connector) = on_memory(layers, shouter()).await;
    let mut client = connector.connect().await.unwrap();
    ask(&mut client, "a\nbc\n", "A\nBC\n").await;
    assert_eq!(rest(&mut elsewhere.connect().await.unwrap()).await, "full\n");
    settle().await;
    let mut metrics = Metrics::new();
    metrics.update(server.handle());
    let looked_up = kept.looked_up.load(Ordering::Relaxed);
    metrics.update(server.handle());
    assert_eq!(kept.looked_up.load(Ordering::Relaxed), looked_up);

    let infos = server.handle().endpoints();
    let labels = |service: &str| {
        let info = infos.iter().find(|info| info.service() == service).unwrap();
        format!(" listener={} service={service}", info.address())
    };
    let (main, other) = (labels("main"), labels("other"));
    assert_eq!(kept.raw(&format!("ropewalk_connections_accepted_total{main}")), 1);
    assert_eq!(kept.gauge(&format!("ropewalk_connections_active{main}")), 1.0);
    assert_eq!(kept.raw(&format!("ropewalk_bytes_total{main} direction=in")), 5);
    assert_eq!(kept.raw(&format!("ropewalk_bytes_total{main} direction=out")), 5);
    assert_eq!(kept.raw(&format!("ropewalk_frames_total{main} direction=in")), 2);
    assert_eq!(kept.raw(&format!("ropewalk_frames_total{main} direction=out")), 2);
    assert_eq!(kept.raw(&format!("ropewalk_connections_closed_total{other} reason=refused")), 1);
    assert_eq!(kept.raw(&format!("ropewalk_connections_closed_total{main} reason=refused")), 0);
    assert_eq!(kept.gauge(&format!("ropewalk_connections_active{other}")), 0.0);
    assert_eq!(kept.gauge("ropewalk_connections_max"), server.handle().max_connections() as f64);
    assert_eq!(kept.gauge("ropewalk_draining"), 0.0);
    assert_eq!(kept.raw("ropewalk_preambles_total outcome=passed"), 0);
    drop(client);
    server.end().await;
}

#[tokio::test(start_paused = true)]
async fn counts_are_exported_until_the_server_has_ended_and_the_last_ones_as_well() {
    let kept = Kept::default();
    let _recording = set_default_local_recorder(&kept);
    let (server, connector): (Running, _) = on_memory(Server::new(), shouter()).await;
    let handle = server.handle().clone();
    let exporting = tokio::spawn(export(handle.clone(), Duration::from_secs(5)));
    let mut client = connector.connect().await.unwrap();
    ask(&mut client, "a\n", "A\n").await;
    sleep(Duration::from_secs(6)).await;
    let labels = format!(" listener={} service=main", handle.addresses()[0]);
    assert_eq!(kept.gauge(&format!("ropewalk_connections_active{labels}")), 1.0);
    drop(client);
    server.end().await;
    exporting.await.unwrap();
    assert_eq!(kept.gauge(&format!("ropewalk_connections_active{labels}")), 0.0);
    assert_eq!(kept.raw(&format!("ropewalk_connections_closed_total{labels} reason=done")), 1);
    assert_eq!(kept.gauge("ropewalk_draining"), 1.0);
}

#[test]
fn every_exported_metric_is_described_and_in_the_table_of_the_module() {
    let kept = Kept::default();
    metrics::with_local_recorder(&kept, Metrics::new);
    let described = kept.described.lock().unwrap();
    let source = std::fs::read_to_string("src/metrics.rs").unwrap();
    let table: Vec<_> =
        source.lines().filter_map(|line| line.strip_prefix("//! | `")?.split('`').next()).collect();
    let mut wanted: Vec<_> = described.iter().map(String::as_str).collect();
    let mut table = table.clone();
    wanted.sort_unstable();
    table.sort_unstable();
    assert_eq!(wanted, table);
    for name in kept.values.lock().unwrap().keys() {
        assert!(described.contains(&name.split(' ').next().unwrap().to_owned()), "{name}");
    }
}

#[tokio::test]
async fn an_endpoint_that_is_removed_and_added_again_goes_on_with_its_counts() {
    let kept = Kept::default();
    let _recording = set_default_local_recorder(&kept);
    let server = on_tcp(Server::new(), shouter()).await;
    ask(&mut server.connect().await, "a\n", "A\n").await;
    let (handle, address) = (server.handle(), server.handle().addresses()[0].clone());
    let mut metrics = Metrics::new();
    metrics.update(handle);
    let accepted = format!("ropewalk_connections_accepted_total listener={address} service=main");
    assert_eq!(kept.raw(&accepted), 1);
    handle.remove_endpoint(0).await.unwrap();
    handle.add_endpoint("main", address.to_string()).await.unwrap();
    ask(&mut server.connect().await, "b\n", "B\n").await;
    metrics.update(handle);
    assert_eq!(kept.raw(&accepted), 2);
    server.until("all have gone", |counts| counts.active() == 0).await;
    metrics.update(handle);
    let active = format!("ropewalk_connections_active listener={address} service=main");
    assert_eq!((kept.gauge(&active), kept.raw(&accepted)), (0.0, 2));
    server.end().await;
}
