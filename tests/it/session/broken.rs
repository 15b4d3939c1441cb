//! A session that goes on after errors, on a connection that is broken.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use ropewalk::{Lines, Session, session};
use tokio::sync::oneshot;

use crate::wired::wired;

/// Its author skips lines that do not parse, and takes no notice of what the error was.
#[tokio::test]
async fn a_failed_write_is_one_error_of_next_and_then_it_returns_none() {
    let errors = Arc::new(AtomicUsize::new(0));
    let (queued, is_queued) = oneshot::channel();
    let (seen, queued) = (Arc::clone(&errors), Arc::new(std::sync::Mutex::new(Some(queued))));
    let mut w = wired(session(Lines::lf(), move |mut s: Session<Lines>| {
        let (errors, queued) = (Arc::clone(&seen), Arc::clone(&queued));
        async move {
            for _ in 0..200 {
                s.feed(vec![b'x'; 1024])?;
            }
            queued.lock().unwrap().take().unwrap().send(()).unwrap();
            loop {
                match s.next().await {
                    Ok(None) => return Ok(()),
                    Err(error) if errors.fetch_add(1, Ordering::SeqCst) == 1000 => {
                        return Err(error);
                    }
                    Ok(Some(_)) | Err(_) => {}
                }
            }
        }
    }));
    w.say("one\n").await;
    is_queued.await.unwrap();
    // More waits than may wait before the next line is read.
    drop(w.peer);
    drop(w.task.await.unwrap());
    assert_eq!(errors.load(Ordering::SeqCst), 1);
}
