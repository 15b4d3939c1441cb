//! The client of many callers: calls and answers, places, and what it is set up with.

use std::sync::Arc;
use std::time::Duration;

use futures::future::join_all;
use ropewalk::client::{Backoff, Client, ClientError, ClientState, fatal};
use ropewalk::{
    Bytes, CloseReason, Error, Lines, LogLayer, ReadDeadlineLayer, Result, Session, framed,
    reply_fn, session,
};
use tokio::time::{Instant, sleep};
use tower::{Service, ServiceExt};

use crate::called::{End, Store, audit, call, ends, nobody, serve, settle, soon};

fn echo() -> impl ropewalk::ConnectionService {
    framed(Lines::lf(), reply_fn(|line: Bytes| line))
}

#[tokio::test(start_paused = true)]
async fn each_call_gets_its_answer_by_ask_and_by_tower() {
    let (connector, _server) = serve(echo());
    let (store, handle) =
        Client::new().connect(connector).in_flight(4).pipelined::<String, _>(Lines::lf()).unwrap();
    let answers = soon(join_all((0..100).map(|i| store.ask(i.to_string())))).await;
    for (i, answer) in answers.into_iter().enumerate() {
        assert_eq!(answer.unwrap(), i.to_string());
    }
    assert_eq!(soon(store.clone().oneshot("x".to_owned())).await.unwrap(), "x");
    assert_eq!((handle.counts().answered(), handle.counts().connections()), (101, 1));
    drop(store);
    soon(handle.ended()).await;
    audit(&handle);
}

#[tokio::test]
async fn on_two_threads_each_call_gets_its_answer_as_well() {
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let run = runtime.spawn(async {
        let (connector, _server) = serve(echo());
        let (store, _handle) =
            Client::new().connect(connector).pipelined::<String, _>(Lines::lf()).unwrap();
        let tasks = (0..64).map(|task| {
            let store = store.clone();
            tokio::spawn(async move {
                for i in 0..50 {
                    let line = format!("{task} {i}");
                    assert_eq!(store.ask(line.clone()).await.unwrap(), line);
                }
            })
        });
        join_all(tasks).await.into_iter().for_each(|task| task.unwrap());
    });
    run.await.unwrap();
    runtime.shutdown_background();
}

#[tokio::test(start_paused = true)]
async fn a_burst_of_calls_is_one_write_and_a_burst_of_answers_one_read() {
    let (connector, mut ends) = ends(64 * 1024).await;
    let (store, handle) =
        Client::new().connect(connector).pipelined::<String, _>(Lines::lf()).unwrap();
    let mut end = ends.accept().await;
    soon(handle.connected()).await.unwrap();
    for _ in 0..2 {
        let calls: Vec<_> = join_all((0..64).map(|_| call(&store, "x"))).await;
        settle().await;
        // All that one read has is all there is.
        let mut bytes = [0; 1024];
        assert_eq!(tokio::io::AsyncReadExt::read(&mut end.0, &mut bytes).await.unwrap(), 128);
        end.say(&"X\n".repeat(64)).await;
        for answer in join_all(calls).await {
            assert_eq!(answer.unwrap(), "X");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_fault_of_the_setup_is_reported_at_its_end() {
    let error = Client::new().pipelined::<String, _>(Lines::lf()).unwrap_err();
    assert!(error.to_string().contains("add one with Client::connect"), "{error}");
    let error = Client::new().connect("tcp:8007").pipelined::<String, _>(Lines::lf()).unwrap_err();
    assert!(error.to_string().contains("write tcp:HOST:8007"), "{error}");
    #[cfg(feature = "rustls")]
    {
        let client = Client::new().connect("tls:localhost:1?ca=/nowhere/ca.pem");
        let error = client.pipelined::<String, _>(Lines::lf()).unwrap_err();
        assert!(error.to_string().contains("/nowhere/ca.pem"), "{error}");
    }
}

#[test]
fn outside_of_a_runtime_it_is_an_error() {
    assert!(Client::new().connect(nobody()).pipelined::<String, _>(Lines::lf()).is_err());
}

#[tokio::test(start_paused = true)]
async fn several_remotes_are_alternatives() {
    let (connector, _server) = serve(echo());
    let client = Client::new().connect(nobody()).connect(nobody()).connect(connector);
    let (store, handle) = client.pipelined::<String, _>(Lines::lf()).unwrap();
    assert_eq!(soon(store.ask("x")).await.unwrap(), "x");
    assert_eq!(handle.counts().attempts(), 3);
}

#[tokio::test(start_paused = true)]
async fn the_servers_layers_stand_around_each_connection() {
    let (connector, _server) = serve(echo());
    let client = Client::new().connect(connector).layer(LogLayer::new());
    let (store, handle) =
        client.layer(ReadDeadlineLayer::new()).pipelined::<String, _>(Lines::lf()).unwrap();
    assert_eq!(soon(store.ask("x")).await.unwrap(), "x");
    // An idle connection is not ended by its deadlines: it is the server that is waited for, and
    // only when it is asked.
    sleep(Duration::from_secs(600)).await;
    assert_eq!(soon(store.ask("x")).await.unwrap(), "x");
    assert_eq!(handle.counts().connections(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_layer_that_ends_the_connection_is_a_failed_attempt() {
    let (connector, _server) = serve(echo());
    let refuse = tower::layer::layer_fn(|_| {
        tower::service_fn(|_connection: ropewalk::Connection| async {
            Err::<(), Error>(Error::other("not today"))
        })
    });
    let client = Client::new().connect(connector).layer(refuse).call_within(Duration::from_secs(1));
    let (store, handle) = client.pipelined::<String, _>(Lines::lf()).unwrap();
    let error = soon(handle.connected()).await.unwrap_err();
    assert_eq!(std::error::Error::source(&error).unwrap().to_string(), "not today");
    assert!(soon(store.ask("x")).await.unwrap_err().is_not_sent());
}

#[tokio::test(start_paused = true)]
async fn prepare_runs_before_any_call_on_each_connection() {
    let (connector, _server) = serve(session(Lines::lf(), async |mut s: Session<Lines>| {
        assert_eq!(s.next().await?.unwrap(), "login secret");
        s.feed("welcome")?;
        while let Some(line) = s.next().await? {
            if line == "die" {
                s.abort();
                return Ok(());
            }
            s.feed(line)?;
        }
        Ok(())
    }));
    let password: Arc<str> = "secret".into();
    let client = Client::new().connect(connector).prepare_with(
        password,
        async |mut s: Session<Lines>, password| {
            s.feed(format!("login {password}"))?;
            assert_eq!(s.next().await?.unwrap(), "welcome");
            Ok(s)
        },
    );
    let (store, handle) = client.pipelined::<String, _>(Lines::lf()).unwrap();
    assert_eq!(soon(store.ask("a")).await.unwrap(), "a");
    let error = soon(store.ask("die")).await.unwrap_err();
    assert!(matches!(error, ClientError::MayHaveArrived(_)), "{error:?}");
    assert_eq!(soon(store.ask("b")).await.unwrap(), "b");
    assert_eq!(
        (handle.counts().connections(), handle.counts().closed(CloseReason::PeerReset)),
        (2, 1)
    );
}

#[tokio::test(start_paused = true)]
async fn a_connection_that_is_old_is_replaced_and_no_call_fails_by_it() {
    let (connector, server) = serve(echo());
    let client = Client::new().connect(connector).max_age(Duration::from_secs(100));
    let (store, handle) = client.pipelined::<String, _>(Lines::lf()).unwrap();
    let began = Instant::now();
    while began.elapsed() < Duration::from_secs(1000) {
        let answers = join_all((0..5).map(|i| store.ask(i.to_string())));
        assert!(soon(answers).await.into_iter().all(|answer| answer.is_ok()));
        sleep(Duration::from_millis(700)).await;
    }
    let connections = handle.counts().connections();
    // Up to a tenth is taken off.
    assert!((10..=12).contains(&connections), "{connections}");
    assert_eq!(handle.counts().closed(CloseReason::MaxAge), connections - 1);
    drop(store);
    soon(handle.ended()).await;
    audit(&handle);
    settle().await;
    assert_eq!(server.counts().active(), 0);
}

#[tokio::test(start_paused = true)]
async fn after_so_long_without_a_connection_calls_fail_at_once_and_later_work_again() {
    let (connector, mut ends) = ends(1024).await;
    let client = Client::new().connect(connector).fail_fast_after(Duration::from_secs(5));
    let prepared = client.prepare(async |mut s: Session<Lines>| match s.next().await? {
        Some(line) if line == "hello" => Ok(s),
        _ => Err(Error::other("no hello")),
    });
    let prepared =
        prepared.backoff(Backoff::between(Duration::from_secs(1), Duration::from_secs(1)));
    let (store, _handle) = prepared.pipelined::<String, _>(Lines::lf()).unwrap();
    let began = Instant::now();
    let (queued, mut end): (_, Option<End>) = (soon(store.ask("a")), None);
    tokio::pin!(queued);
    let error = loop {
        tokio::select! {
            error = &mut queued => break error.unwrap_err(),
            accepted = ends.accept() => drop(accepted),
        }
    };
    assert!(matches!(error, ClientError::Unavailable(_)), "{error:?}");
    assert_eq!(began.elapsed(), Duration::from_secs(5));
    assert!(soon(store.ask("b")).await.unwrap_err().is_not_sent());
    assert_eq!(began.elapsed(), Duration::from_secs(5));
    let accepted = end.insert(ends.accept().await);
    accepted.say("hello\n").await;
    settle().await;
    let asked = call(&store, "c").await;
    accepted.expect("c\n").await;
    accepted.say("C\n").await;
    assert_eq!(soon(asked).await.unwrap(), "C");
}

#[tokio::test(start_paused = true)]
async fn with_one_place_a_call_has_the_connection_for_itself() {
    let (connector, mut ends) = ends(1024).await;
    let (store, _handle) =
        Client::new().connect(connector).in_flight(1).pipelined::<String, _>(Lines::lf()).unwrap();
    let mut end = ends.accept().await;
    let (a, b) = (call(&store, "a").await, store.ask("b"));
    tokio::pin!(b);
    assert!(futures::poll!(&mut b).is_pending());
    end.expect("a\n").await;
    settle().await;
    assert!(futures::poll!(&mut b).is_pending());
    end.say("A\n").await;
    assert_eq!(soon(a).await.unwrap(), "A");
    assert!(futures::poll!(&mut b).is_pending());
    end.expect("b\n").await;
    end.say("B\n").await;
    assert_eq!(soon(b).await.unwrap(), "B");
}

#[test]
fn a_client_of_any_codec_is_send_sync_and_small() {
    fn is<T: Service<String> + Clone + Send + Sync + 'static>()
    where
        T::Future: Send + Unpin + 'static,
    {
    }
    is::<Store>();
    assert!(size_of::<ClientError>() <= 24);
    assert!(size_of::<ropewalk::client::Call<String, Bytes>>() <= 24);
}

#[tokio::test(start_paused = true)]
async fn a_preparation_that_no_other_attempt_can_help_ends_the_client_with_its_error() {
    let (connector, _server) =
        serve(session(Lines::lf(), async |mut s: Session<Lines>| -> Result {
            s.feed("who are you?")?;
            while s.next().await?.is_some() {}
            Ok(())
        }));
    let client = Client::new().connect(connector).prepare(async |mut s: Session<Lines>| {
        s.next().await?;
        Err::<Session<Lines>, _>(fatal(Error::other("the password is wrong")))
    });
    let (store, handle) = client.pipelined::<String, _>(Lines::lf()).unwrap();
    for _ in 0..2 {
        let error = soon(store.ask("x")).await.unwrap_err();
        assert!(matches!(error, ClientError::Unavailable(_)), "{error:?}");
        assert_eq!(std::error::Error::source(&error).unwrap().to_string(), "the password is wrong");
    }
    soon(handle.ended()).await;
    assert!(matches!(handle.state(), ClientState::Ended));
    assert_eq!(handle.counts().attempts(), 1);
}
