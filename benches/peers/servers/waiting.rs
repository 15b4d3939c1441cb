//! Services that wait, under ropewalk and by hand: the variant is `WAY-WAIT`.
//!
//! By hand is tokio-util's `Framed` with ropewalk's codec: one call at a time, or up to 64 of them
//! in a `FuturesOrdered` or `FuturesUnordered`; answers are fed, and flushed when nothing else can
//! be done.

use std::collections::VecDeque;
use std::future::{IntoFuture, poll_fn};
use std::sync::Arc;
use std::task::Poll;

use clap::Parser;
use futures_util::stream::{FuturesOrdered, FuturesUnordered, unfold};
use futures_util::{Sink, SinkExt, Stream, StreamExt};
use ropewalk::{Bytes, Lines, Reply, Server, Session, framed, service_fn, session};
use ropewalk_peers::{Result, ServerArgs, listener, raise_descriptor_limit};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Builder;
use tokio::sync::{Mutex, mpsc, oneshot};
use tokio::task::{spawn_blocking, yield_now};
use tokio_util::codec::Framed;

/// Calls of one connection at once.
const CALLS: usize = 64;

/// Frames on their way to the actor, each with the way back.
type Mailbox = mpsc::Sender<(Bytes, oneshot::Sender<Bytes>)>;

/// What a call waits for.
#[derive(Clone)]
enum Wait {
    Nothing,
    /// One turn of the scheduler
    Turn,
    /// Another task, which answers; or which asks a backend
    Actor(Mailbox),
    /// A lock that all share, and hold for a turn
    Mutex(Arc<Mutex<()>>),
    /// A thread for what blocks
    Blocking,
}

impl Wait {
    fn new(name: &str) -> Self {
        match name {
            "turn" => Self::Turn,
            "actor" => Self::Actor(actor()),
            "backend" => Self::Actor(backend()),
            "mutex" => Self::Mutex(Arc::default()),
            "blocking" => Self::Blocking,
            _ => Self::Nothing,
        }
    }

    async fn answer(self, frame: Bytes) -> ropewalk::Result<Bytes> {
        match self {
            Self::Nothing => Ok(frame),
            Self::Turn => {
                yield_now().await;
                Ok(frame)
            }
            Self::Actor(mailbox) => {
                let (send, receive) = oneshot::channel();
                mailbox.send((frame, send)).await?;
                Ok(receive.await?)
            }
            Self::Mutex(mutex) => {
                let _held = mutex.lock().await;
                yield_now().await;
                Ok(frame)
            }
            Self::Blocking => Ok(spawn_blocking(move || frame).await?),
        }
    }
}

fn actor() -> Mailbox {
    let (send, mut receive) = mpsc::channel::<(Bytes, oneshot::Sender<Bytes>)>(1024);
    tokio::spawn(async move {
        while let Some((frame, back)) = receive.recv().await {
            drop(back.send(frame));
        }
    });
    send
}

/// A client of a server that echoes, both in this process: all requests on one connection, their
/// answers in order.
fn backend() -> Mailbox {
    let (send, receive) = mpsc::channel(1024);
    tokio::spawn(async move {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let stream = TcpStream::connect(listener.local_addr()?).await?;
        let (mut accepted, _) = listener.accept().await?;
        tokio::spawn(async move {
            let (mut read, mut write) = accepted.split();
            tokio::io::copy(&mut read, &mut write).await
        });
        ask_backend(receive, stream).await
    });
    send
}

async fn ask_backend(
    mut requests: mpsc::Receiver<(Bytes, oneshot::Sender<Bytes>)>,
    stream: TcpStream,
) -> ropewalk::Result {
    stream.set_nodelay(true)?;
    let mut backend = Framed::new(stream, Lines::lf());
    backend.set_backpressure_boundary(64 * 1024);
    let mut asked = VecDeque::new();
    loop {
        let answer = poll_fn(|cx| {
            while let Poll::Ready(Ok(())) = SinkExt::<Bytes>::poll_ready_unpin(&mut backend, cx) {
                let Poll::Ready(Some((request, back))) = requests.poll_recv(cx) else {
                    break;
                };
                if backend.start_send_unpin(request).is_err() {
                    return Poll::Ready(None);
                }
                asked.push_back(back);
            }
            match backend.poll_next_unpin(cx) {
                Poll::Pending => match SinkExt::<Bytes>::poll_flush_unpin(&mut backend, cx) {
                    Poll::Ready(Err(_)) => Poll::Ready(None),
                    _ => Poll::Pending,
                },
                answer => answer,
            }
        });
        let Some(Ok(answer)) = answer.await else {
            return Ok(());
        };
        if let Some(back) = asked.pop_front() {
            drop(back.send(answer));
        }
    }
}

/// The answer to a frame as another task sends it into a channel.
fn by_channel(wait: Wait, frame: Bytes) -> mpsc::Receiver<ropewalk::Result<Bytes>> {
    let (send, receive) = mpsc::channel(1);
    tokio::spawn(async move { send.send(wait.answer(frame).await).await });
    receive
}

fn main() -> Result {
    let args = ServerArgs::parse();
    raise_descriptor_limit();
    let mut runtime = match args.threads {
        1 => Builder::new_current_thread(),
        _ => Builder::new_multi_thread(),
    };
    runtime.worker_threads(args.threads.max(1)).enable_all().build()?.block_on(run(&args.variant))
}

async fn run(variant: &str) -> Result {
    let (way, wait) = variant.rsplit_once('-').ok_or("the variant is WAY-WAIT")?;
    let wait = Wait::new(wait);
    if way.starts_with("hand") {
        return by_hand(way, wait).await;
    }
    let server = Server::new().listen("tcp:127.0.0.1:0").on_listening(|addresses| {
        let address = addresses[0].to_string();
        println!("{}", address.trim_start_matches("tcp:"));
    });
    let of_calls = wait.clone();
    let leaf = framed(Lines::lf(), service_fn(move |frame| of_calls.clone().answer(frame)));
    match way {
        "concurrent" => server.serve(leaf.concurrent(CALLS)).await,
        "unordered" => server.serve(leaf.unordered(CALLS)).await,
        "session" | "during" => {
            let during = way == "during";
            server.serve(session(Lines::lf(), move |s| in_a_loop(s, wait.clone(), during))).await
        }
        "stream" => {
            let stream = move |frame| {
                let answers = by_channel(wait.clone(), frame);
                async move {
                    let next = async |mut answers: mpsc::Receiver<_>| Some((answers.recv().await?, answers));
                    Ok::<_, ropewalk::Error>(Reply::stream(unfold(answers, next)))
                }
            };
            server.serve(framed(Lines::lf(), service_fn(stream))).await
        }
        "drive" => {
            let drive = move |s: Session<Lines>| {
                let wait = wait.clone();
                s.drive(service_fn(move |frame| wait.clone().answer(frame))).into_future()
            };
            server.serve(session(Lines::lf(), drive)).await
        }
        _ => server.serve(leaf).await,
    }
    .map_err(|error| error.to_string().into())
}

async fn in_a_loop(mut s: Session<Lines>, wait: Wait, during: bool) -> ropewalk::Result {
    while let Some(frame) = s.next().await? {
        let call = wait.clone().answer(frame);
        let answer = if during { s.during(call).await?? } else { call.await? };
        s.feed(answer)?;
    }
    Ok(())
}

async fn by_hand(way: &str, wait: Wait) -> Result {
    let listener = TcpListener::from_std(listener()?)?;
    loop {
        let (stream, _) = listener.accept().await?;
        stream.set_nodelay(true)?;
        let (mut framed, wait) = (Framed::new(stream, Lines::lf()), wait.clone());
        framed.set_backpressure_boundary(64 * 1024);
        match way {
            "hand-concurrent" => drop(tokio::spawn(concurrent(framed, wait))),
            "hand-unordered" => drop(tokio::spawn(unordered(framed, wait))),
            "hand-stream" => drop(tokio::spawn(streamed(framed, wait))),
            _ => drop(tokio::spawn(one_by_one(framed, wait))),
        }
    }
}

/// The next frame, if there is one; otherwise queued frames are flushed.
async fn next<C: Stream + Sink<Bytes> + Unpin>(framed: &mut C) -> Option<C::Item> {
    poll_fn(|cx| match framed.poll_next_unpin(cx) {
        Poll::Pending => match framed.poll_flush_unpin(cx) {
            Poll::Ready(Err(_)) => Poll::Ready(None),
            _ => Poll::Pending,
        },
        ready => ready,
    })
    .await
}

async fn one_by_one(mut framed: Framed<TcpStream, Lines>, wait: Wait) {
    while let Some(Ok(frame)) = next(&mut framed).await {
        let Ok(answer) = wait.clone().answer(frame).await else {
            return;
        };
        if framed.feed(answer).await.is_err() {
            return;
        }
    }
}

async fn streamed(mut framed: Framed<TcpStream, Lines>, wait: Wait) {
    while let Some(Ok(frame)) = next(&mut framed).await {
        let mut answers = by_channel(wait.clone(), frame);
        while let Some(Ok(answer)) = answers.recv().await {
            if framed.feed(answer).await.is_err() {
                return;
            }
        }
    }
}

/// What can be done next by those that make several calls at once.
enum Event<F> {
    Answer(ropewalk::Result<Bytes>),
    Frame(F),
    End,
}

macro_rules! several_at_once {
    ($name:ident, $calls:ty, $push:ident) => {
        async fn $name(mut framed: Framed<TcpStream, Lines>, wait: Wait) {
            let mut calls = <$calls>::new();
            loop {
                let event = poll_fn(|cx| {
                    if let Poll::Ready(Some(answer)) = calls.poll_next_unpin(cx) {
                        return Poll::Ready(Event::Answer(answer));
                    }
                    if calls.len() < CALLS {
                        match framed.poll_next_unpin(cx) {
                            Poll::Ready(Some(Ok(frame))) => {
                                return Poll::Ready(Event::Frame(frame));
                            }
                            Poll::Ready(_) => return Poll::Ready(Event::End),
                            Poll::Pending => {}
                        }
                    }
                    match SinkExt::<Bytes>::poll_flush_unpin(&mut framed, cx) {
                        Poll::Ready(Err(_)) => Poll::Ready(Event::End),
                        _ => Poll::Pending,
                    }
                });
                match event.await {
                    Event::Frame(frame) => calls.$push(wait.clone().answer(frame)),
                    Event::Answer(Ok(answer)) => {
                        if framed.feed(answer).await.is_err() {
                            return;
                        }
                    }
                    Event::Answer(Err(_)) | Event::End => return,
                }
            }
        }
    };
}

several_at_once!(concurrent, FuturesOrdered<_>, push_back);
several_at_once!(unordered, FuturesUnordered<_>, push);
