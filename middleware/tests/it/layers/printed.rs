//! The `Debug` output of each type begins with its name.

use std::fmt::Debug;
use std::time::Duration;

use bytes::Bytes;
use ropewalk_middleware::accept_rate::Rate;
use ropewalk_middleware::{
    AcceptRateLayer, AccessLayer, AccessRules, BackgroundLog, BanLayer, BanRules, BandwidthLayer,
    CallDeadlineLayer, CallLatencyLayer, CallLimitLayer, CatchPanicLayer, ConnectionLimitLayer,
    FrameLogLayer, FrameRateLayer, Histogram, KeyLimitLayer, KeyRateLayer, LifetimeLayer, LogLayer,
    LoginLayer, OverloadLayer, PeerLimitLayer, ReadDeadlineLayer, StateLayer, TapLayer,
};
use tower::{Layer, Service, service_fn};

use crate::common::{Hold, connection};

const SECOND: Duration = Duration::from_secs(1);

#[track_caller]
fn names(what: &impl Debug, name: &str) {
    let printed = format!("{what:?}");
    assert!(printed.starts_with(name), "{printed:?} instead of {name}");
}

#[test]
fn every_layer_and_its_service_print_their_names() {
    macro_rules! named {
        ($($name:literal: $layer:expr;)*) => {
            $(
                names(&$layer, concat!($name, "Layer"));
                names(&$layer.layer(Hold::default()), concat!($name, " {"));
            )*
        };
    }
    named! {
        "AcceptRate": AcceptRateLayer::new().per_peer(Rate::new(1, SECOND));
        "Access": AccessLayer::new(AccessRules::allow_all());
        "AnswerRate": KeyRateLayer::new(1, SECOND).answers();
        "Ban": BanLayer::new(BanRules::new(1, SECOND, SECOND));
        "Bandwidth": BandwidthLayer::new();
        "CallDeadline": CallDeadlineLayer::new(SECOND);
        "CallLatency": CallLatencyLayer::new();
        "CallLimit": CallLimitLayer::new(1);
        "CallRefuse": CallLimitLayer::new(1).refuse();
        "CatchPanic": CatchPanicLayer::new();
        "ConnectionLimit": ConnectionLimitLayer::new(1);
        "FrameLog": FrameLogLayer::new();
        "FrameRate": FrameRateLayer::new(1, SECOND);
        "KeyLimit": KeyLimitLayer::<u8>::new(1);
        "KeyRate": KeyRateLayer::new(1, SECOND);
        "KeyRateRefuse": KeyRateLayer::new(1, SECOND).refuse();
        "Lifetime": LifetimeLayer::new(SECOND);
        "Log": LogLayer::new();
        "Login": LoginLayer::new();
        "Overload": OverloadLayer::new();
        "PeerLimit": PeerLimitLayer::new(1);
        "ReadDeadline": ReadDeadlineLayer::new();
        "State": StateLayer::new("state");
        "Tap": TapLayer::new();
    }
}

#[tokio::test]
async fn the_types_of_a_layer_print_their_names() {
    // How many took how long.
    names(&Histogram::default(), "{");
    names(&BackgroundLog::to(std::io::sink()), "BackgroundLog");
    names(&connection().0, "Connection");
    let mut caught =
        CatchPanicLayer::new().layer(service_fn(async |_: Bytes| Ok::<_, std::io::Error>(())));
    names(&caught.call(Bytes::new()), "CatchPanicFuture");
    names(
        &ConnectionLimitLayer::new(1).layer(Hold::default()).call(connection().0),
        "ResponseFuture",
    );
}
