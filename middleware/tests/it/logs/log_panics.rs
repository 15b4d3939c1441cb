//! A log whose subscriber panics costs its lines, and nothing else.

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Once};

use ropewalk_middleware::{CloseReason, Connection, FrameLogLayer, LogLayer};
use tokio::task::yield_now;
use tower::{Layer, Service, ServiceExt, service_fn};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Metadata, Subscriber};

use crate::collected::log_to;
use crate::common::connection;

/// The methods of a subscriber that panic in a test, alone or together.
const CALLS: [&str; 7] =
    ["enabled", "new_span", "event", "enter", "exit", "try_close", "event enter exit try_close"];

/// Panics when it is asked one of these.
#[derive(Clone, Debug, Default)]
struct Panics {
    at: &'static str,
    times: Arc<AtomicUsize>,
}

impl Panics {
    fn at(at: &'static str) -> Self {
        Self { at, times: Arc::default() }
    }

    fn may_panic(&self, call: &str) {
        if self.at.split(' ').any(|at| at == call) {
            self.times.fetch_add(1, Ordering::Relaxed);
            // Without the hook, whose text would fill the output.
            resume_unwind(Box::new(Bomb));
        }
    }
}

/// The payload of the panic panics as well, when it is dropped.
struct Bomb;

impl Drop for Bomb {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            resume_unwind(Box::new("the payload's destructor"));
        }
    }
}

impl Subscriber for Panics {
    fn enabled(&self, _: &Metadata<'_>) -> bool {
        self.may_panic("enabled");
        true
    }

    fn register_callsite(&self, _: &'static Metadata<'static>) -> tracing::subscriber::Interest {
        // Asked each time: with `always` nobody would ask `enabled`.
        tracing::subscriber::Interest::sometimes()
    }

    fn new_span(&self, _: &Attributes<'_>) -> Id {
        self.may_panic("new_span");
        Id::from_u64(1)
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}

    fn record_follows_from(&self, _: &Id, _: &Id) {}

    fn event(&self, _: &Event<'_>) {
        self.may_panic("event");
    }

    fn enter(&self, _: &Id) {
        self.may_panic("enter");
    }

    fn exit(&self, _: &Id) {
        self.may_panic("exit");
    }

    fn try_close(&self, _: Id) -> bool {
        self.may_panic("try_close");
        true
    }
}

#[tokio::test]
async fn a_connection_is_served_though_each_call_to_the_log_panics() {
    for at in CALLS {
        let log = Panics::at(at);
        let _guard = log_to(log.clone());
        let mut service = LogLayer::new().layer(service_fn(async |_: Connection| {
            yield_now().await;
            Ok::<_, io::Error>(())
        }));
        let (ours, _theirs) = connection();
        let closing = ours.closing();
        service.ready().await.unwrap().call(ours).await.unwrap();
        assert_eq!(closing.reason(), Some(CloseReason::Done), "{at}");
        assert!(log.times.load(Ordering::Relaxed) > 0, "{at} was never called");
    }
}

#[tokio::test]
async fn a_panic_of_the_service_is_caught_by_the_task_though_the_log_panics_in_its_destructors() {
    for at in CALLS {
        let _guard = log_to(Panics::at(at));
        let mut service = LogLayer::new().layer(service_fn(async |_: Connection| {
            yield_now().await;
            resume_unwind(Box::new("in the service")) as io::Result<()>
        }));
        let (ours, _theirs) = connection();
        let closing = ours.closing();
        let task = tokio::spawn(service.ready().await.unwrap().call(ours));
        assert!(task.await.unwrap_err().is_panic());
        assert_eq!(closing.reason(), Some(CloseReason::Panic), "{at}");
    }
}

#[tokio::test]
async fn a_connection_dropped_while_its_thread_panics_is_closed_though_the_log_panics() {
    for at in CALLS {
        let _guard = log_to(Panics::at(at));
        let mut service =
            LogLayer::new().layer(service_fn(async |_: Connection| Ok::<_, io::Error>(())));
        let (ours, _theirs) = connection();
        let closing = ours.closing();
        let call = service.ready().await.unwrap().call(ours);
        let unwound = catch_unwind(AssertUnwindSafe(|| {
            let _dropped_on_the_way = call;
            resume_unwind(Box::new("somewhere else"));
        }));
        assert!(unwound.is_err());
        assert_eq!(closing.reason(), Some(CloseReason::Panic), "{at}");
    }
}

#[tokio::test]
async fn a_frame_is_answered_though_each_call_to_the_log_panics() {
    for at in ["enabled", "event"] {
        let log = Panics::at(at);
        let _guard = log_to(log.clone());
        let mut service = FrameLogLayer::new()
            .layer(service_fn(async |frame: &'static [u8]| Ok::<_, io::Error>(frame)));
        assert_eq!(service.ready().await.unwrap().call(b"hi").await.unwrap(), b"hi");
        let mut failing = FrameLogLayer::new()
            .layer(service_fn(async |_: &'static [u8]| Err::<(), _>(io::Error::other("no"))));
        assert_eq!(failing.ready().await.unwrap().call(b"hi").await.unwrap_err().to_string(), "no");
        assert!(log.times.load(Ordering::Relaxed) > 0, "{at} was never called");
    }
}

#[test]
fn a_panic_in_a_line_within_a_panic_does_not_abort() {
    // The hook runs for a panic made by the macro, and would count it: this one is thrown by it.
    static QUIET: Once = Once::new();
    QUIET.call_once(|| std::panic::set_hook(Box::new(|_| {})));
    struct Logs;
    impl Drop for Logs {
        fn drop(&mut self) {
            ropewalk_middleware::event::contain(|| panic!("the log, while the thread panics"));
        }
    }
    let caught = catch_unwind(|| {
        let _logs = Logs;
        panic!("first");
    });
    assert_eq!(caught.unwrap_err().downcast_ref::<&str>(), Some(&"first"));
}
