//! When the certificates of a server expire, for those who have to renew them.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use metrics::{
    Counter, Gauge, Histogram, Key, KeyName, Metadata, Recorder, SharedString, Unit,
    with_local_recorder,
};
use rcgen::{CertificateParams, date_time_ymd};
use ropewalk::metrics::Metrics;
use ropewalk::{Bytes, Endpoint, Lines, Server, TlsConfig, framed, reply_fn};

use crate::encrypted::{Ca, Folder};

/// The gauges of certificates, by their files.
#[derive(Default)]
struct Gauges(Mutex<BTreeMap<String, Arc<AtomicU64>>>);

impl Gauges {
    fn value(&self, file: &str) -> f64 {
        f64::from_bits(self.0.lock().unwrap()[file].load(Ordering::Relaxed))
    }
}

impl Recorder for Gauges {
    fn describe_counter(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
    fn describe_gauge(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
    fn describe_histogram(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}

    fn register_counter(&self, _: &Key, _: &Metadata<'_>) -> Counter {
        Counter::noop()
    }

    fn register_gauge(&self, key: &Key, _: &Metadata<'_>) -> Gauge {
        if key.name() != "ropewalk_certificate_expiry_seconds" {
            return Gauge::noop();
        }
        let labels: Vec<_> = key.labels().collect();
        assert_eq!((labels.len(), labels[0].key()), (1, "file"));
        let mut gauges = self.0.lock().unwrap();
        Gauge::from_arc(Arc::clone(gauges.entry(labels[0].value().to_owned()).or_default()))
    }

    fn register_histogram(&self, _: &Key, _: &Metadata<'_>) -> Histogram {
        Histogram::noop()
    }
}

/// A certificate for this name that expires on the first of March of this year, in one file.
fn until(ca: &Ca, name: &str, year: i32) -> String {
    let mut params = CertificateParams::new(vec![name.to_owned()]).unwrap();
    (params.not_before, params.not_after) = (date_time_ymd(2001, 3, 1), date_time_ymd(year, 3, 1));
    let issued = ca.issue_params(&params);
    issued.cert + &issued.key
}

/// The first of March of the years 2002, 2100 and 9999, in UTC.
const IN_2002: u64 = 1_014_940_800;
const IN_2100: u64 = 4_107_542_400;
const IN_9999: u64 = 253_375_862_400;

#[tokio::test]
async fn the_expiry_of_each_certificate_in_use_is_told_and_exported_also_after_a_reload() {
    let (ca, folder, one) = (Ca::new(), Folder::new(), Folder::new());
    let first = folder.write("default.pem", until(&ca, "a.example", 2002));
    let second = folder.write("second.pem", until(&ca, "b.example", 2100));
    folder.write("dhparam.pem", "no certificate");
    let single = one.write("single.pem", until(&ca, "c.example", 9999));
    let tcp = || Endpoint::tcp(([127, 0, 0, 1], 0).into());
    let server = Server::new()
        .listen(tcp().tls(TlsConfig::folder(folder.path())))
        .listen(tcp().tls(TlsConfig::files(&single, &single)))
        .serve(framed(Lines::lf(), reply_fn(|line: Bytes| line)));
    let handle = server.handle();
    assert!(handle.certificate_expiries().is_empty(), "they are not read");
    let server = server.bind().await.unwrap();
    let at = Duration::from_secs;
    let expected =
        [(first.clone(), at(IN_2002)), (second.clone(), at(IN_2100)), (single, at(IN_9999))];
    assert_eq!(handle.certificate_expiries(), BTreeMap::from(expected.clone()));

    let gauges = Gauges::default();
    let mut exported = with_local_recorder(&gauges, Metrics::new);
    with_local_recorder(&gauges, || exported.update(&handle));
    let value = |file: &std::path::Path| gauges.value(file.to_str().unwrap());
    assert_eq!((value(&first), value(&second)), (1_014_940_800.0, 4_107_542_400.0));

    folder.write("default.pem", until(&ca, "a.example", 2100));
    std::fs::remove_file(&second).unwrap();
    handle.reload().await.unwrap();
    assert_eq!(handle.certificate_expiries()[&first], at(IN_2100));
    assert!(!handle.certificate_expiries().contains_key(&second));
    with_local_recorder(&gauges, || exported.update(&handle));
    assert!(value(&second).is_nan(), "it is not in use any more");
    assert_eq!((value(&first), gauges.0.lock().unwrap().len()), (4_107_542_400.0, 3));
    drop(server);
}
