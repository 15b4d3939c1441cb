//! A flood of connections does not cause a flood of lines.

use std::fmt::Debug;
use std::io;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use ropewalk_middleware::event::{Limit, event};
use ropewalk_middleware::{Connection, ConnectionLimitLayer, LogLayer};
use tokio::time::{Instant, advance, sleep};
use tower::{Layer, Service, ServiceBuilder, ServiceExt, service_fn};
use tracing::field::{Field, Visit};
use tracing::subscriber::DefaultGuard;
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::layer::{Context, SubscriberExt};

use crate::collected::log_to;
use crate::common::connection;

/// When a line was written, its message and its count.
#[derive(Clone, Debug)]
struct Line {
    at: Instant,
    message: String,
    suppressed: u64,
}

impl Visit for Line {
    fn record_u64(&mut self, field: &Field, value: u64) {
        if field.name() == "suppressed" {
            self.suppressed = value;
        }
    }

    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        if field.name() == "message" {
            self.message = format!("{value:?}");
        }
    }
}

#[derive(Clone, Default)]
struct Collector(Arc<Mutex<Vec<Line>>>);

impl Collector {
    fn start() -> (Self, DefaultGuard) {
        let this = Self::default();
        let guard = log_to(tracing_subscriber::registry().with(this.clone()));
        (this, guard)
    }

    fn lines(&self) -> Vec<Line> {
        self.0.lock().unwrap().clone()
    }

    fn count(&self, message: &str) -> u64 {
        self.lines().iter().filter(|line| line.message == message).count() as u64
    }

    fn suppressed(&self) -> u64 {
        self.lines().iter().map(|line| line.suppressed).sum()
    }

    #[track_caller]
    fn assert_at_most_in_any_second(&self, max: usize) {
        let lines = self.lines();
        for (i, first) in lines.iter().enumerate() {
            let second = lines[i..]
                .iter()
                .take_while(|line| line.at - first.at < Duration::from_secs(1))
                .count();
            assert!(second <= max, "{second} lines in a second: {lines:?}");
        }
    }
}

impl<S: Subscriber> tracing_subscriber::Layer<S> for Collector {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let mut line = Line { at: Instant::now(), message: String::new(), suppressed: 0 };
        event.record(&mut line);
        self.0.lock().unwrap().push(line);
    }
}

#[tokio::test(start_paused = true)]
async fn a_flood_of_refusals_writes_ten_lines_a_second_and_every_refusal_is_counted() {
    let (log, _guard) = Collector::start();
    let mut service = ServiceBuilder::new()
        .layer(LogLayer::new())
        .layer(ConnectionLimitLayer::new(0).refuse_with("full"))
        .service(service_fn(async |_: Connection| Ok::<_, io::Error>(())));
    for _ in 0..5000 {
        let (ours, theirs) = connection();
        drop(theirs);
        service.ready().await.unwrap().call(ours).await.unwrap();
        advance(Duration::from_millis(1)).await;
    }
    sleep(Duration::from_secs(2)).await;
    log.assert_at_most_in_any_second(10);
    assert_eq!(log.count("open"), 0, "a refused connection was never open");
    assert!((40..=50).contains(&log.count("closed")), "{}", log.count("closed"));
    assert_eq!(log.count("closed") + log.suppressed(), 5000);
    let last = log.lines().last().unwrap().clone();
    assert!(last.suppressed > 0, "the end of the flood is reported: {last:?}");
}

#[tokio::test(start_paused = true)]
async fn connections_that_are_served_have_both_lines_however_many_there_are_unless_a_limit_is_set()
{
    for (layer, lines, suppressed) in [
        (LogLayer::new(), 1000, 0),
        (LogLayer::new().max_per_second(3), 3, 997),
        (LogLayer::new().max_per_second(0), 0, 1000),
    ] {
        let (log, _guard) = Collector::start();
        let mut service = layer.layer(service_fn(async |_: Connection| Ok::<_, io::Error>(())));
        for _ in 0..1000 {
            service.ready().await.unwrap().call(connection().0).await.unwrap();
        }
        sleep(Duration::from_secs(2)).await;
        assert_eq!(
            (log.count("open"), log.count("closed"), log.suppressed()),
            (lines, lines, suppressed)
        );
    }
}

#[tokio::test(start_paused = true)]
async fn connections_that_are_not_slow_do_not_count_for_the_limit() {
    let (log, _guard) = Collector::start();
    let layer = LogLayer::new().max_per_second(3).slower_than(Duration::from_secs(5));
    let lasts = |time: Duration| {
        layer.layer(service_fn(move |_: Connection| async move {
            sleep(time).await;
            Ok::<_, io::Error>(())
        }))
    };
    let (mut quick, mut slow) = (lasts(Duration::ZERO), lasts(Duration::from_secs(5)));
    for _ in 0..1000 {
        quick.ready().await.unwrap().call(connection().0).await.unwrap();
    }
    sleep(Duration::from_secs(2)).await;
    assert_eq!((log.count("closed"), log.suppressed()), (0, 0));
    let calls: Vec<_> = (0..5).map(|_| tokio::spawn(slow.call(connection().0))).collect();
    for call in calls {
        call.await.unwrap().unwrap();
    }
    sleep(Duration::from_secs(2)).await;
    assert_eq!((log.count("closed"), log.suppressed()), (3, 2));
}

#[tokio::test(start_paused = true)]
async fn suppressed_lines_are_reported_when_the_limit_is_dropped_or_its_runtime_ends() {
    let (log, _guard) = Collector::start();
    let limit = || Limit::new(Level::WARN, |suppressed| event!(WARN, suppressed, "others"));
    let flood = |limit: &Limit| assert_eq!((0..100).filter(|_| limit.pass()).count(), 9);
    // Without a runtime nobody can report in between.
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let _here = log_to(tracing_subscriber::registry().with(log.clone()));
            flood(&limit());
        });
    });
    assert_eq!(log.suppressed(), 91);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let _here = log_to(tracing_subscriber::registry().with(log.clone()));
            let runtime =
                tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
            let limit = limit();
            runtime.block_on(async { flood(&limit) });
            drop(runtime);
            assert_eq!(log.suppressed(), 2 * 91);
        });
    });
}
