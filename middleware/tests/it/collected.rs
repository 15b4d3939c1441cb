//! A subscriber that collects what is logged on its thread.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::sync::{Arc, LazyLock, Mutex};

use tracing::field::{Field, Visit};
use tracing::level_filters::LevelFilter;
use tracing::span::{Attributes, Id};
use tracing::subscriber::{DefaultGuard, NoSubscriber};
use tracing::{Dispatch, Event, Level, Subscriber};
use tracing_subscriber::layer::{Context, SubscriberExt};
use tracing_subscriber::registry::LookupSpan;

/// The subscriber of this thread, until the guard is dropped.
///
/// While there is only one in the process, tracing asks the thread that first reaches a line whether
/// anybody wants it, and a test without a subscriber says no for all threads. With two others, which
/// want nothing, it asks all there are.
pub(crate) fn log_to(subscriber: impl Subscriber + Send + Sync + 'static) -> DefaultGuard {
    static OTHERS: LazyLock<[Dispatch; 2]> =
        LazyLock::new(|| [(); 2].map(|()| Dispatch::new(NoSubscriber::new())));
    LazyLock::force(&OTHERS);
    tracing::subscriber::set_default(subscriber)
}

#[derive(Clone, Debug, Default)]
pub(crate) struct Fields(BTreeMap<String, String>);

impl Visit for Fields {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        self.0.insert(field.name().to_owned(), format!("{value:?}"));
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.0.insert(field.name().to_owned(), value.to_owned());
    }
}

impl Fields {
    pub(crate) fn get(&self, name: &str) -> &str {
        self.0.get(name).map_or("-", String::as_str)
    }
}

/// One event: where and how it was written, and the fields of the span it was written in.
#[derive(Clone, Debug)]
pub(crate) struct Line {
    pub(crate) level: Level,
    pub(crate) target: String,
    pub(crate) fields: Fields,
    pub(crate) span: Fields,
}

/// Collects what is logged on this thread.
#[derive(Clone, Debug, Default)]
pub(crate) struct Collector {
    pub(crate) lines: Arc<Mutex<Vec<Line>>>,
    pub(crate) spans: Arc<Mutex<usize>>,
    pub(crate) entered: Arc<Mutex<usize>>,
}

impl Collector {
    pub(crate) fn start(level: LevelFilter) -> (Self, DefaultGuard) {
        let this = Self::default();
        let subscriber = tracing_subscriber::registry().with(level).with(this.clone());
        (this, log_to(subscriber))
    }

    pub(crate) fn lines(&self, message: &str) -> Vec<Line> {
        let lines = self.lines.lock().unwrap();
        lines.iter().filter(|line| line.fields.get("message") == message).cloned().collect()
    }

    /// The one closing line there is to be.
    pub(crate) fn closed(&self) -> Line {
        let lines = self.lines("closed");
        assert_eq!(lines.len(), 1, "{lines:?}");
        lines.into_iter().next().unwrap()
    }
}

impl<S: Subscriber + for<'a> LookupSpan<'a>> tracing_subscriber::Layer<S> for Collector {
    fn on_new_span(&self, attributes: &Attributes<'_>, id: &Id, cx: Context<'_, S>) {
        *self.spans.lock().unwrap() += 1;
        let mut fields = Fields::default();
        attributes.record(&mut fields);
        cx.span(id).unwrap().extensions_mut().insert(fields);
    }

    fn on_enter(&self, _: &Id, _: Context<'_, S>) {
        *self.entered.lock().unwrap() += 1;
    }

    fn on_event(&self, event: &Event<'_>, cx: Context<'_, S>) {
        let mut fields = Fields::default();
        event.record(&mut fields);
        let span = cx.event_span(event).and_then(|span| span.extensions().get::<Fields>().cloned());
        let line = Line {
            level: *event.metadata().level(),
            target: event.metadata().target().to_owned(),
            fields,
            span: span.unwrap_or_default(),
        };
        self.lines.lock().unwrap().push(line);
    }
}
