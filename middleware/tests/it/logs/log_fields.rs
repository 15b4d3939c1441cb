//! What else a log says of connections on request, and which connections it leaves out.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use ropewalk_middleware::access::{AccessLayer, AccessRules};
use ropewalk_middleware::proxy::Header;
use ropewalk_middleware::{Addr, Connection, LogLayer, Peer, Stream, TlsInfo, TlsVersion};
use tokio::io::duplex;
use tokio::time::sleep;
use tower::{Layer, Service, service_fn};
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id};
use tracing::subscriber::DefaultGuard;
use tracing::{Event, Subscriber};
use tracing_subscriber::layer::{Context, SubscriberExt};
use tracing_subscriber::registry::LookupSpan;

use crate::collected::log_to;
use crate::common::{Hold, connection};

type Fields = BTreeMap<String, String>;

struct Into<'a>(&'a mut Fields);

impl Visit for Into<'_> {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        self.0.insert(field.name().to_owned(), format!("{value:?}"));
    }
}

/// The spans and the lines of this thread.
#[derive(Clone, Default)]
struct Collector(Arc<Mutex<(Vec<Fields>, Vec<Fields>)>>);

impl Collector {
    fn start() -> (Self, DefaultGuard) {
        let this = Self::default();
        let guard = log_to(tracing_subscriber::registry().with(this.clone()));
        (this, guard)
    }

    fn span(&self) -> Fields {
        let mut span = self.0.lock().unwrap().0.pop().unwrap();
        assert!(span.remove("id").is_some());
        span
    }

    /// The values of a field in all lines of this message.
    fn lines(&self, message: &str, field: &str) -> Vec<String> {
        let lines = &self.0.lock().unwrap().1;
        let of = |line: &Fields| line.get(field).cloned().unwrap_or_default();
        lines.iter().filter(|line| line["message"] == message).map(of).collect()
    }
}

impl<S: Subscriber + for<'a> LookupSpan<'a>> tracing_subscriber::Layer<S> for Collector {
    fn on_new_span(&self, attributes: &Attributes<'_>, _: &Id, _: Context<'_, S>) {
        let mut fields = Fields::new();
        attributes.record(&mut Into(&mut fields));
        self.0.lock().unwrap().0.push(fields);
    }

    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let mut fields = Fields::new();
        event.record(&mut Into(&mut fields));
        self.0.lock().unwrap().1.push(fields);
    }
}

fn map(pairs: &[(&str, &str)]) -> Fields {
    pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

/// A client behind a proxy, with TLS.
fn proxied() -> Connection {
    let tcp = |text: &str| text.parse::<SocketAddr>().unwrap();
    let header = Header::new(tcp("192.0.2.7:56324"), tcp("192.0.2.1:25"));
    let tls =
        TlsInfo::new(TlsVersion::Tls13).with_server_name("a\nb.example").with_alpn(&b"echo/1"[..]);
    let peer = Peer::via(Peer::new(tcp("10.0.0.1:40000")), header).with_tls(tls);
    let stream = Stream::from_io(duplex(64).0);
    Connection::new(stream, peer).with_local(Addr::Tcp(tcp("10.0.0.2:465")))
}

async fn run(layer: LogLayer, connection: Connection) {
    layer
        .layer(service_fn(async |_: Connection| Ok::<_, io::Error>(())))
        .call(connection)
        .await
        .unwrap();
}

#[tokio::test]
async fn the_span_has_the_local_address_tls_and_the_proxy_on_request_and_no_more_without() {
    let (log, _guard) = Collector::start();
    run(LogLayer::new(), proxied()).await;
    let short = [("peer", "tcp:192.0.2.7:56324"), ("listener", "0")];
    assert_eq!(log.span(), map(&short));
    run(LogLayer::new().details(), proxied()).await;
    let full = [
        ("local", "tcp:10.0.0.2:465"),
        ("proxy", "tcp:10.0.0.1:40000"),
        ("tls", "TLS 1.3"),
        ("server_name", r"a\nb.example"),
        ("alpn", "echo/1"),
    ];
    assert_eq!(log.span(), map(&[&short[..], &full].concat()));
    // As far as the connection has them.
    run(LogLayer::new().details(), connection().0).await;
    assert_eq!(log.span(), map(&[("peer", "memory:"), ("listener", "0"), ("local", "memory:")]));
}

#[tokio::test]
async fn the_names_are_those_of_open_telemetry_on_request() {
    let (log, _guard) = Collector::start();
    run(LogLayer::new().open_telemetry(), proxied()).await;
    let expected = [
        ("listener", "0"),
        ("network.transport", "\"tcp\""),
        ("network.peer.address", "10.0.0.1"),
        ("network.peer.port", "40000"),
        ("network.local.address", "10.0.0.2"),
        ("network.local.port", "465"),
        ("client.address", "192.0.2.7"),
        ("client.port", "56324"),
        ("tls.protocol.name", "\"tls\""),
        ("tls.protocol.version", "\"1.3\""),
        ("tls.client.server_name", r"a\nb.example"),
        ("network.protocol.name", "echo/1"),
    ];
    assert_eq!(log.span(), map(&expected));
    let unix = Connection::new(Stream::from_io(duplex(64).0), Peer::new(Addr::Unix(None)));
    run(LogLayer::new().open_telemetry(), unix).await;
    assert_eq!(log.span(), map(&[("listener", "0"), ("network.transport", "\"unix\"")]));
}

#[tokio::test]
async fn an_error_has_a_type_unless_the_connection_ended_well() {
    let (log, _guard) = Collector::start();
    run(LogLayer::new().open_telemetry(), connection().0).await;
    let fails = service_fn(async |_: Connection| Err::<(), _>(io::Error::other("as told")));
    let mut fails = LogLayer::new().open_telemetry().layer(fails);
    assert!(fails.call(connection().0).await.is_err());
    run(LogLayer::new(), connection().0).await;
    assert_eq!(log.lines("closed", "error.type"), ["", "\"service_error\"", ""]);
    assert_eq!(log.lines("closed", "reason"), ["\"done\"", "\"service_error\"", "\"done\""]);
}

#[tokio::test(start_paused = true)]
async fn of_connections_that_are_not_slow_there_is_no_line() {
    const LIMIT: Duration = Duration::from_secs(5);
    let (log, _guard) = Collector::start();
    for millis in [0, 4999, 5000, 9000] {
        let lasts = service_fn(move |_: Connection| async move {
            sleep(Duration::from_millis(millis)).await;
            Ok::<_, io::Error>(())
        });
        LogLayer::new().slower_than(LIMIT).layer(lasts).call(connection().0).await.unwrap();
    }
    assert_eq!(
        (log.lines("closed", "duration_ms"), log.lines("open", "message").len()),
        (vec!["5000".to_owned(), "9000".to_owned()], 0)
    );
}

#[tokio::test]
async fn one_of_so_many_connections_is_logged_and_all_have_a_span() {
    let (log, _guard) = Collector::start();
    let layer = LogLayer::new().sample(10);
    let mut service = layer.layer(service_fn(async |_: Connection| Ok::<_, io::Error>(())));
    for _ in 0..100 {
        service.call(connection().0).await.unwrap();
        log.span();
    }
    let closed = log.lines("closed", "message").len();
    // Other tests of this process use numbers too.
    assert!((1..100).contains(&closed), "{closed}");
    assert_eq!(log.lines("open", "message").len(), closed);
}

#[tokio::test]
async fn a_sample_is_one_of_so_many_also_if_each_connection_opens_another_one() {
    let (log, _guard) = Collector::start();
    let layer = LogLayer::new().sample(2);
    let mut service = layer.layer(service_fn(async |_: Connection| Ok::<_, io::Error>(())));
    for _ in 0..1000 {
        let ((ours, _theirs), _to_a_backend) = (connection(), connection());
        service.call(ours).await.unwrap();
    }
    let closed = log.lines("closed", "message").len();
    assert!((400..=600).contains(&closed), "{closed}");
}

#[tokio::test]
async fn a_connection_that_any_layer_refuses_has_only_its_closing_line_and_ten_are_written_a_second()
 {
    let (log, _guard) = Collector::start();
    let nobody =
        AccessRules::allow_all().without_address(ropewalk_middleware::access::Verdict::Deny);
    let mut service = LogLayer::new().layer(AccessLayer::new(nobody).layer(Hold::default()));
    for _ in 0..100 {
        let (ours, theirs) = connection();
        // Or the refusal would linger.
        drop(theirs);
        service.call(ours).await.unwrap();
    }
    assert_eq!((log.lines("open", "message").len(), log.lines("closed", "message").len()), (0, 9));
}

#[test]
#[should_panic(expected = "one of 0")]
fn a_sample_of_nothing_is_refused_where_it_is_made() {
    let _ = LogLayer::new().sample(0);
}
