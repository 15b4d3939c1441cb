//! Log lines for connections and for frames.
//!
//! Data of peers is never logged unescaped: see [`Escaped`](crate::Escaped).

mod background;
mod fields;
mod frame;
mod future;
mod layer;
mod limits;
mod record;
mod service;

pub use self::background::{BackgroundLog, LineWriter};
pub use self::frame::{AsBytes, AsDebug, FrameLog, FrameLogFuture, FrameLogLayer, FrameText};
pub use self::future::LogFuture;
pub use self::layer::LogLayer;
pub use self::service::Log;

/// Runs `$body` with `$at` as a constant, because tracing needs the level of a line at compile
/// time.
macro_rules! at_level {
    ($level:expr, $at:ident => $body:expr) => {{
        use tracing::Level;
        match $level {
            Level::ERROR => at_level!(@ ERROR, $at => $body),
            Level::WARN => at_level!(@ WARN, $at => $body),
            Level::INFO => at_level!(@ INFO, $at => $body),
            Level::DEBUG => at_level!(@ DEBUG, $at => $body),
            Level::TRACE => at_level!(@ TRACE, $at => $body),
        }
    }};
    (@ $name:ident, $at:ident => $body:expr) => {{
        const $at: Level = Level::$name;
        $body
    }};
}
use at_level;
