//! Stock tower layers that change requests and answers, and ours among them.

use std::convert::Infallible;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use ropewalk::layer::BoxError;
use ropewalk::memory::Connector;
use ropewalk::{
    CloseReason, Error, FrameLogLayer, Lines, Reply, Result, Server, Session, StateLayer, framed,
    per_connection, reply_fn, service_fn, session,
};
use tokio::io::AsyncWriteExt;
use tokio::sync::Semaphore;
use tokio::time::Instant;
use tower::buffer::BufferLayer;
use tower::util::{BoxCloneService, BoxService};
use tower::{Service, ServiceBuilder};

use crate::harness::{
    Gauge, all_done, answering, ask, assert_reasons, on_memory, plain, rest, run, shout,
};
use crate::logged::{Log, log_to};

const SECOND: Duration = Duration::from_secs(1);

#[tokio::test(start_paused = true)]
async fn requests_and_responses_are_mapped() {
    let service = ServiceBuilder::new()
        .map_request(|line: Bytes| String::from_utf8_lossy(&line).into_owned())
        .map_response(|n: usize| format!("{n} bytes"))
        .service(tower::service_fn(async |text: String| Ok::<_, Infallible>(text.len())));
    run(framed(Lines::lf(), service), async |connector: Connector| {
        let mut client = connector.connect().await.unwrap();
        ask(&mut client, "four\n\nthirteen char\n", "4 bytes\n0 bytes\n13 bytes\n").await;
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn errors_are_mapped_to_the_type_that_on_error_sees() {
    let service = ServiceBuilder::new()
        .map_err(|error: Error| io::Error::other(format!("mapped: {error}")))
        .service(service_fn(async |_: Bytes| Err::<Bytes, _>(Error::other("no"))));
    let service = framed(Lines::lf(), service).on_error(|error: &Error| {
        Bytes::from(error.downcast_ref::<io::Error>().unwrap().to_string())
    });
    run(service, async |connector: Connector| {
        ask(&mut connector.connect().await.unwrap(), "a\nb\n", "mapped: no\nmapped: no\n").await;
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_filter_refuses_a_frame_and_the_connection_goes_on() {
    let service = ServiceBuilder::new()
        .filter(
            |line: Bytes| if line == "sudo" { Err(BoxError::from("not you")) } else { Ok(line) },
        )
        .service(plain());
    let service =
        framed(Lines::lf(), service).on_error(|error: &Error| Bytes::from(format!("403 {error}")));
    run(service, async |connector: Connector| {
        ask(&mut connector.connect().await.unwrap(), "a\nsudo\nb\n", "A\n403 not you\nB\n").await;
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn then_and_and_then_go_on_with_an_answer() {
    let service = ServiceBuilder::new()
        .then(async |result: Result<Bytes, Error>| match result {
            Ok(line) => Ok(Reply::many([line, Bytes::from_static(b".")])),
            Err(_) => Ok::<_, Error>(Reply::one(Bytes::from_static(b"-ERR")).then_close()),
        })
        .and_then(
            async |line: Bytes| if line == "BAD" { Err(Error::other("bad")) } else { Ok(line) },
        )
        .service(plain());
    run(framed(Lines::lf(), service), async |connector: Connector| {
        let mut client = connector.connect().await.unwrap();
        client.write_all(b"a\nbad\nnever\n").await.unwrap();
        assert_eq!(rest(&mut client).await, "A\n.\n-ERR\n");
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_boxed_clone_service_serves_frames() {
    let service = BoxCloneService::new(plain());
    run(framed(Lines::lf(), service), async |connector: Connector| {
        let (mut one, mut two) =
            (connector.connect().await.unwrap(), connector.connect().await.unwrap());
        ask(&mut one, "a\n", "A\n").await;
        ask(&mut two, "b\n", "B\n").await;
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_boxed_service_serves_the_frames_of_one_connection() {
    let service = per_connection(Lines::lf(), |_| {
        let mut n = 0;
        BoxService::new(reply_fn(move |line: Bytes| {
            n += 1;
            format!("{n} {}", String::from_utf8_lossy(&line))
        }))
    });
    run(service, async |connector: Connector| {
        let (mut one, mut two) =
            (connector.connect().await.unwrap(), connector.connect().await.unwrap());
        ask(&mut one, "a\nb\n", "1 a\n2 b\n").await;
        ask(&mut two, "c\n", "1 c\n").await;
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_buffer_shares_one_service_that_is_not_clone() {
    let mut seen = 0;
    let one = BoxService::new(reply_fn(move |line: Bytes| {
        seen += 1;
        format!("{seen} {}", String::from_utf8_lossy(&line))
    }));
    let service = ServiceBuilder::new().layer(BufferLayer::new(8)).service(one);
    run(framed(Lines::lf(), service), async |connector: Connector| {
        let (mut one, mut two) =
            (connector.connect().await.unwrap(), connector.connect().await.unwrap());
        ask(&mut one, "a\n", "1 a\n").await;
        ask(&mut two, "b\n", "2 b\n").await;
        ask(&mut one, "c\nd\n", "3 c\n4 d\n").await;
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_buffer_whose_worker_panicked_ends_connections_with_an_error_and_not_the_server() {
    let service = BoxService::new(reply_fn(|line: Bytes| {
        assert_ne!(line, "fall", "on purpose");
        shout(&line)
    }));
    let service = ServiceBuilder::new().layer(BufferLayer::new(8)).service(service);
    let (server, connector) = on_memory(Server::new(), framed(Lines::lf(), service)).await;
    for request in ["fall\n", "after\n"] {
        let mut client = connector.connect().await.unwrap();
        client.write_all(request.as_bytes()).await.unwrap();
        assert_eq!(rest(&mut client).await, "");
    }
    server.until("both have ended", |counts| counts.active() == 0).await;
    assert_reasons(&server.end().await, &[(CloseReason::ServiceError, 2)]);
}

#[tokio::test(start_paused = true)]
async fn a_stack_of_layers_serves_a_driven_session() {
    let (gate, inside) = (Arc::new(Semaphore::new(0)), Gauge::default());
    let service = ServiceBuilder::new()
        .timeout(SECOND)
        .load_shed()
        .concurrency_limit(2)
        .map_request(|line: Bytes| line.slice(..line.len().min(5)))
        .service(answering(&gate, &inside));
    let greet = move |mut s: Session<Lines>| {
        let service = service.clone();
        async move {
            s.feed("hello")?;
            s.drive(service)
                .concurrent(2)
                .on_error(|error: &Error| Bytes::from(format!("sorry: {error}")))
                .await
        }
    };
    run(session(Lines::lf(), greet), async |connector: Connector| {
        let mut client = connector.connect().await.unwrap();
        ask(&mut client, "abcdefgh\n", "hello\nABCDE\n").await;
        let start = Instant::now();
        ask(&mut client, "slow\nquick\n", "sorry: request timed out\nQUICK\n").await;
        assert_eq!(start.elapsed(), SECOND);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn state_and_frame_log_compose_with_stock_layers() {
    struct Greeting {
        word: &'static str,
        asked: AtomicUsize,
    }
    let log = Log::default();
    let subscriber = tracing_subscriber::fmt()
        .with_max_level(tracing::Level::DEBUG)
        .with_ansi(false)
        .with_writer(log.clone())
        .finish();
    let _logging = log_to(subscriber);

    let state = Arc::new(Greeting { word: "Hello", asked: AtomicUsize::new(0) });
    let service = ServiceBuilder::new()
        .layer(FrameLogLayer::new())
        .timeout(SECOND)
        .layer(StateLayer::new(Arc::clone(&state)))
        .service(service_fn(async |(state, name): (Arc<Greeting>, Bytes)| {
            state.asked.fetch_add(1, Ordering::SeqCst);
            if name == "nobody" {
                return Err(Error::other("whom?"));
            }
            Ok(format!("{}, {}", state.word, String::from_utf8_lossy(&name)))
        }));
    let service = framed(Lines::lf(), service).on_error(|error: &Error| error.to_string());
    run(service, async |connector: Connector| {
        let mut client = connector.connect().await.unwrap();
        ask(&mut client, "Ann\nnobody\nBob\n", "Hello, Ann\nwhom?\nHello, Bob\n").await;
    })
    .await;
    assert_eq!(state.asked.load(Ordering::SeqCst), 3);
    let log = log.text();
    let frames: Vec<_> = log.lines().filter(|line| line.contains("ropewalk::frame")).collect();
    assert_eq!(frames.len(), 6, "{log}");
    assert!(frames[0].contains("\"Ann\"") && frames[1].contains("outcome=\"ok\""), "{log}");
    assert!(frames[3].contains("outcome=\"error\"") && frames[3].contains("whom?"), "{log}");
}

#[tokio::test(start_paused = true)]
async fn state_goes_to_connections_and_to_frames() {
    let who = |mut s: Session<Lines>, names: Arc<str>| async move {
        s.feed(&*names)?;
        let answer =
            reply_fn(|(names, line): (Arc<str>, Bytes)| format!("{names}? {}", line.len()));
        let service = ServiceBuilder::new().layer(StateLayer::new(names)).service(answer);
        s.drive(service).await
    };
    let names: Arc<str> = "Ann".into();
    let server = Server::new().layer(StateLayer::new(names));
    let (server, connector) = on_memory(server, ropewalk::session_with(Lines::lf(), who)).await;
    let mut client = connector.connect().await.unwrap();
    ask(&mut client, "abc\n", "Ann\nAnn? 3\n").await;
    drop(client);
    all_done(server).await;
}

#[tokio::test(start_paused = true)]
async fn every_service_is_readied_before_it_is_called_whatever_stands_around_it() {
    /// Asserts what tower asks of callers.
    #[derive(Default)]
    struct Strict(bool);
    impl Clone for Strict {
        // Readiness is not cloned.
        fn clone(&self) -> Self {
            Self(false)
        }
    }
    impl Service<Bytes> for Strict {
        type Response = Bytes;
        type Error = Infallible;
        type Future = std::future::Ready<Result<Bytes, Infallible>>;
        fn poll_ready(
            &mut self,
            _: &mut std::task::Context<'_>,
        ) -> std::task::Poll<Result<(), Infallible>> {
            self.0 = true;
            std::task::Poll::Ready(Ok(()))
        }
        fn call(&mut self, line: Bytes) -> Self::Future {
            assert!(std::mem::take(&mut self.0), "called without having been readied");
            std::future::ready(Ok(line))
        }
    }
    let request = "a\n".repeat(1000);
    for n in [1, 8] {
        let service =
            ServiceBuilder::new().boxed_clone().concurrency_limit(3).service(Strict::default());
        run(framed(Lines::lf(), service).concurrent(n), async |connector: Connector| {
            ask(&mut connector.connect().await.unwrap(), &request, &request).await;
        })
        .await;
        run(framed(Lines::lf(), Strict::default()).unordered(n), async |connector: Connector| {
            ask(&mut connector.connect().await.unwrap(), &request, &request).await;
        })
        .await;
    }
}
