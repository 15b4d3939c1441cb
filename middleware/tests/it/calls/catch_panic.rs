//! Panics of calls as errors.

use std::future::ready;
use std::io;
use std::panic::panic_any;

use ropewalk_middleware::{CallPanicked, CatchPanicLayer};
use tower::{Layer, Service, ServiceExt};

#[derive(Debug)]
struct Bomb;

impl Drop for Bomb {
    fn drop(&mut self) {
        panic!("as it is dropped");
    }
}

async fn call(frame: &'static str) -> Result<&'static str, io::Error> {
    match frame {
        "text" => panic!("on purpose"),
        "string" => panic!("on {}", "purpose"),
        "number" => panic_any(7),
        "bomb" => panic_any(Bomb),
        "error" => Err(io::Error::other("an error")),
        frame => Ok(frame),
    }
}

fn panicked<'a>(error: &'a (dyn std::error::Error + Send + Sync + 'static)) -> Option<&'a str> {
    error.downcast_ref::<CallPanicked>().expect("it has panicked").text()
}

#[tokio::test]
async fn a_panic_is_an_error_with_its_text_and_the_service_is_called_again() {
    let mut service = CatchPanicLayer::new().layer(tower::service_fn(call));
    for (frame, text) in [
        ("text", Some("on purpose")),
        ("string", Some("on purpose")),
        ("number", None),
        ("bomb", None),
    ] {
        let error = service.ready().await.unwrap().call(frame).await.unwrap_err();
        assert_eq!((panicked(&*error), error.to_string().as_str()), (text, "the call panicked"));
    }
    assert_eq!(service.ready().await.unwrap().call("hello").await.unwrap(), "hello");
    let error = service.ready().await.unwrap().call("error").await.unwrap_err();
    assert!(error.is::<io::Error>());
}

#[tokio::test]
async fn a_panic_as_the_call_is_made_is_one_of_the_call() {
    let made = |frame: &'static str| {
        assert!(frame != "now", "on purpose");
        ready(Ok::<_, io::Error>(frame))
    };
    let mut service = CatchPanicLayer::new().layer(tower::service_fn(made));
    let error = service.ready().await.unwrap().call("now").await.unwrap_err();
    assert_eq!(panicked(&*error), Some("on purpose"));
    assert_eq!(service.ready().await.unwrap().call("later").await.unwrap(), "later");
}
