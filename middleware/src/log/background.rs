//! A writer for logs that never blocks and never fails.

use std::fmt;
use std::io::{self, ErrorKind, Write};
use std::mem;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

/// How many bytes of lines wait to be written, at most.
const WAITING: usize = 1024 * 1024;

/// How long the lines that wait are given at the end.
const LAST: Duration = Duration::from_secs(1);

/// How long a descriptor that says "not now" is left alone.
const AGAIN: Duration = Duration::from_millis(10);

/// Writes a log from a thread of its own, so that a log which is not read, or can't be written, does not stop the
/// server.
///
/// A line is copied to a buffer of at most 1 MiB. When that is full lines are lost; a line in the log says how many, as
/// soon as there is room again. What can't be written (the reader has gone, the disk is full) is lost without a word.
///
/// Dropped at the end of `main`, it waits until everything is written, for at most a second. `std::process::exit` drops
/// nothing: call [`flush`](Self::flush) before it.
///
/// ```
/// use ropewalk_middleware::BackgroundLog;
///
/// let log = BackgroundLog::to(std::io::stderr());
/// tracing_subscriber::fmt().with_writer(log.writer()).log_internal_errors(false).init();
/// ```
///
/// (`log_internal_errors` would have tracing-subscriber write to standard error itself when it fails, and panic when
/// that fails too.)
#[must_use = "dropped, it writes no more lines"]
pub struct BackgroundLog(Arc<Shared>);

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    /// Told when there is something to write, or nothing more to come.
    work: Condvar,
    /// Told when everything is written.
    idle: Condvar,
}

#[derive(Default)]
struct State {
    waiting: Vec<u8>,
    lost: u64,
    writing: bool,
    closed: bool,
}

impl BackgroundLog {
    /// A log that is written to this: `std::io::stderr()`, or a file. Where no thread can be had it is lost.
    pub fn to(target: impl Write + Send + 'static) -> Self {
        let shared = Arc::new(Shared::default());
        let worker = Arc::clone(&shared);
        let spawned = thread::Builder::new().name("log".to_owned()).spawn(move || worker.write_all_to(target));
        shared.lock().closed = spawned.is_err();
        Self(shared)
    }

    /// What makes a writer for each line; give it to `with_writer`.
    pub fn writer(&self) -> impl Fn() -> LineWriter + Clone + Send + Sync + use<> {
        let shared = Arc::clone(&self.0);
        move || LineWriter(Arc::clone(&shared))
    }

    /// Waits until everything is written, for at most a second. It blocks the thread.
    pub fn flush(&self) {
        let pending = |state: &mut State| state.writing || (!state.waiting.is_empty() && !state.closed);
        drop(self.0.idle.wait_timeout_while(self.0.lock(), LAST, pending));
    }
}

impl Drop for BackgroundLog {
    fn drop(&mut self) {
        self.flush();
        self.0.lock().closed = true;
        self.0.work.notify_one();
    }
}

impl fmt::Debug for BackgroundLog {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BackgroundLog").finish_non_exhaustive()
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing panics while it is locked.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn push(&self, line: &[u8]) {
        let mut state = self.lock();
        if state.closed {
        } else if state.waiting.len() + line.len() <= WAITING {
            state.waiting.extend_from_slice(line);
            if !state.writing {
                self.work.notify_one();
            }
        } else {
            state.lost = state.lost.saturating_add(1);
        }
    }

    /// The thread.
    fn write_all_to(&self, target: impl Write) {
        let (mut lines, mut target) = (Vec::new(), Target { target, torn: false });
        loop {
            let nothing = |state: &mut State| state.waiting.is_empty() && !state.closed;
            let mut state = self.work.wait_while(self.lock(), nothing).unwrap_or_else(PoisonError::into_inner);
            if state.waiting.is_empty() {
                return;
            }
            state.writing = true;
            mem::swap(&mut lines, &mut state.waiting);
            let lost = mem::take(&mut state.lost);
            drop(state);
            target.write(&lines);
            if lost > 0 {
                let text = format!("{lost} lines of the log were lost here: it is not read as fast as it is written\n");
                target.write(text.as_bytes());
            }
            // A burst is no reason to keep its memory.
            lines = Vec::new();
            self.lock().writing = false;
            self.idle.notify_all();
        }
    }
}

/// Where the lines go: user code, which may panic.
struct Target<W> {
    target: W,
    /// It has taken a part of a line, and failed at the rest.
    torn: bool,
}

impl<W: Write> Target<W> {
    /// Writes what can be written.
    fn write(&mut self, lines: &[u8]) {
        if self.torn {
            // The next line does not begin in the middle of one.
            self.write_some(b"\n");
        }
        self.write_some(lines);
        crate::event::contain(|| drop(self.target.flush()));
    }

    fn write_some(&mut self, mut bytes: &[u8]) {
        crate::event::contain(|| {
            while !bytes.is_empty() {
                match self.target.write(bytes) {
                    Ok(0) => return,
                    Ok(n) => {
                        self.torn = bytes[n - 1] != b'\n';
                        bytes = &bytes[n..];
                    }
                    Err(error) if error.kind() == ErrorKind::Interrupted => {}
                    // A terminal that somebody else has made non-blocking.
                    Err(error) if error.kind() == ErrorKind::WouldBlock => thread::sleep(AGAIN),
                    Err(_) => return,
                }
            }
        });
    }
}

/// Takes one line for a [`BackgroundLog`]. It neither blocks nor fails.
pub struct LineWriter(Arc<Shared>);

impl Write for LineWriter {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        self.0.push(line);
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl fmt::Debug for LineWriter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LineWriter").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::io::{self, Write};
    use std::sync::mpsc::{Receiver, Sender, channel};
    use std::sync::{Arc, Mutex};
    use std::time::{Duration, Instant};

    use super::{BackgroundLog, LAST, WAITING};

    #[derive(Clone, Default)]
    struct Memory(Arc<Mutex<Vec<u8>>>);

    impl Memory {
        fn text(&self) -> String {
            String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
        }
    }

    impl Write for Memory {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            // In pieces, as a pipe takes them.
            let n = bytes.len().min(1000);
            self.0.lock().unwrap().extend_from_slice(&bytes[..n]);
            Ok(n)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    /// Blocks until it is told to go on.
    struct Blocked(Receiver<()>, Memory);

    impl Blocked {
        fn new() -> (Self, Sender<()>, Memory) {
            let ((go, told), memory) = (channel(), Memory::default());
            (Self(told, memory.clone()), go, memory)
        }
    }

    impl Write for Blocked {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            while self.0.recv().is_ok() {}
            self.1.write(bytes)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn every_line_is_written_in_order_before_the_log_is_dropped() {
        let memory = Memory::default();
        let log = BackgroundLog::to(memory.clone());
        let lines: Vec<String> = (0..5000).map(|n| format!("line {n}\n")).collect();
        for line in &lines {
            log.writer()().write_all(line.as_bytes()).unwrap();
        }
        drop(log);
        assert_eq!(memory.text(), lines.concat());
    }

    #[test]
    fn a_log_that_is_not_read_blocks_nobody_keeps_a_bound_and_says_what_was_lost() {
        let (blocked, go, memory) = Blocked::new();
        let log = BackgroundLog::to(blocked);
        let began = Instant::now();
        let line = [&[b'x'; 1023][..], b"\n"].concat();
        for _ in 0..4 * WAITING / line.len() {
            log.writer()().write_all(&line).unwrap();
        }
        assert!(began.elapsed() < Duration::from_secs(5));
        assert!(log.0.lock().waiting.len() <= WAITING);
        drop(go);
        log.flush();
        let text = memory.text();
        let (written, last) = (text.lines().filter(|line| line.starts_with('x')).count(), text.lines().last().unwrap());
        let lost: usize = last.split(' ').next().unwrap().parse().unwrap();
        assert_eq!(written + lost, 4096, "{last}");
    }

    #[test]
    fn at_the_end_a_log_that_is_not_read_is_waited_for_a_second_and_no_more() {
        let (blocked, _go, _memory) = Blocked::new();
        let log = BackgroundLog::to(blocked);
        log.writer()().write_all(b"last words\n").unwrap();
        let began = Instant::now();
        drop(log);
        assert!((LAST..2 * LAST).contains(&began.elapsed()), "{:?}", began.elapsed());
    }

    #[test]
    fn a_line_behind_one_that_was_written_in_part_begins_a_line() {
        /// A disk that is full when it holds 10 bytes, until somebody makes room.
        struct Disk(u32, Memory);
        impl Write for Disk {
            fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
                self.0 += 1;
                match self.0 {
                    1 => self.1.write(&bytes[..10]),
                    2 => Err(io::ErrorKind::StorageFull.into()),
                    _ => self.1.write(bytes),
                }
            }

            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        let memory = Memory::default();
        let log = BackgroundLog::to(Disk(0, memory.clone()));
        for line in ["the first line\n", "the second line\n", "the third line\n"] {
            log.writer()().write_all(line.as_bytes()).unwrap();
            log.flush();
        }
        assert_eq!(memory.text(), "the first \nthe second line\nthe third line\n");
    }

    #[test]
    fn a_target_that_fails_or_panics_costs_its_lines_only() {
        struct Faulty(u32, Memory);
        impl Write for Faulty {
            fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
                self.0 += 1;
                match self.0 {
                    1 => Err(io::ErrorKind::BrokenPipe.into()),
                    2 => std::panic::resume_unwind(Box::new("the target")),
                    3 | 4 => Err(io::ErrorKind::WouldBlock.into()),
                    _ => self.1.write(bytes),
                }
            }

            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        let memory = Memory::default();
        let log = BackgroundLog::to(Faulty(0, memory.clone()));
        for line in ["one\n", "two\n", "three\n"] {
            log.writer()().write_all(line.as_bytes()).unwrap();
            log.flush();
        }
        assert_eq!(memory.text(), "three\n");
    }
}
