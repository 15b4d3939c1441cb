//! A writer for logs that never blocks and never fails.

use std::fmt;
use std::io::{self, ErrorKind, Write};
use std::mem;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

/// The most bytes of lines that wait to be written.
const WAITING: usize = 1024 * 1024;

/// How long waiting lines may take to be written at the end.
const LAST: Duration = Duration::from_secs(1);

/// The pause after a descriptor has returned `WouldBlock`.
const AGAIN: Duration = Duration::from_millis(10);

/// Writes a log from a thread of its own, so that a log that is not read, or can't be written, does
/// not stop the server.
///
/// A line is copied to a buffer of at most 1 MiB. When the buffer is full, lines are lost; a line
/// in the log says how many, as soon as there is room again. Lines that can't be written (the
/// reader is gone, the disk is full) are lost silently.
///
/// When it is dropped, at the end of `main`, it waits until all lines are written, for at most a
/// second. `std::process::exit` doesn't drop it: call [`flush`](Self::flush) before that.
///
/// ```
/// use ropewalk_middleware::BackgroundLog;
///
/// let log = BackgroundLog::to(std::io::stderr());
/// tracing_subscriber::fmt().with_writer(log.writer()).log_internal_errors(false).init();
/// ```
///
/// (With `log_internal_errors`, tracing-subscriber writes to standard error when a log line fails,
/// and panics when that fails too.)
#[must_use = "no more lines are written once it is dropped"]
pub struct BackgroundLog(Arc<LogQueue>);

#[derive(Default)]
struct LogQueue {
    state: Mutex<LogQueueState>,
    /// Notified when there is something to write, or when the log is dropped.
    work: Condvar,
    /// Notified when all lines are written.
    idle: Condvar,
}

#[derive(Default)]
struct LogQueueState {
    waiting: Vec<u8>,
    lost: u64,
    writing: bool,
    closed: bool,
}

impl BackgroundLog {
    /// A log that is written to `target`: `std::io::stderr()`, or a file. If no thread can be
    /// started, all lines are lost.
    pub fn to(target: impl Write + Send + 'static) -> Self {
        let shared = Arc::new(LogQueue::default());
        let worker = Arc::clone(&shared);
        let spawned = thread::Builder::new()
            .name("log".to_owned())
            .spawn(move || worker.write_all_to(target));
        shared.lock().closed = spawned.is_err();
        Self(shared)
    }

    /// A function that makes a writer for each line; give it to `with_writer`.
    pub fn writer(&self) -> impl Fn() -> LineWriter + Clone + Send + Sync + use<> {
        let shared = Arc::clone(&self.0);
        move || LineWriter(Arc::clone(&shared))
    }

    /// Waits until all lines are written, for at most a second. It blocks the thread.
    pub fn flush(&self) {
        let pending = |state: &mut LogQueueState| {
            state.writing || (!state.waiting.is_empty() && !state.closed)
        };
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

impl LogQueue {
    fn lock(&self) -> MutexGuard<'_, LogQueueState> {
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

    /// The loop of the thread.
    fn write_all_to(&self, target: impl Write) {
        let mut lines = Vec::new();
        let mut target = Target { target, torn: false };
        loop {
            let nothing = |state: &mut LogQueueState| state.waiting.is_empty() && !state.closed;
            let mut state =
                self.work.wait_while(self.lock(), nothing).unwrap_or_else(PoisonError::into_inner);
            if state.waiting.is_empty() {
                return;
            }
            state.writing = true;
            mem::swap(&mut lines, &mut state.waiting);
            let lost = mem::take(&mut state.lost);
            drop(state);
            target.write(&lines);
            if lost > 0 {
                let text = format!(
                    "{lost} lines of the log were lost here: it is not read as fast as it is written\n"
                );
                target.write(text.as_bytes());
            }
            // The memory of a burst is released.
            lines = Vec::new();
            self.lock().writing = false;
            self.idle.notify_all();
        }
    }
}

/// The target of the lines: user code, which may panic.
struct Target<W> {
    target: W,
    /// Whether the last line was written only in part.
    torn: bool,
}

impl<W: Write> Target<W> {
    /// Writes as much as can be written.
    fn write(&mut self, lines: &[u8]) {
        if self.torn {
            // So the next line begins a line of its own.
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
                    // For example a terminal that another process has made non-blocking.
                    Err(error) if error.kind() == ErrorKind::WouldBlock => thread::sleep(AGAIN),
                    Err(_) => return,
                }
            }
        });
    }
}

/// Accepts one line for a [`BackgroundLog`]. It neither blocks nor fails.
pub struct LineWriter(Arc<LogQueue>);

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
            let (go, told) = channel();
            let memory = Memory::default();
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
    fn a_log_that_is_not_read_blocks_no_caller_keeps_a_bound_and_counts_lost_lines() {
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
        // The thread may begin in the middle of this, and then counts twice.
        let (written, reports): (Vec<_>, Vec<_>) = text.lines().partition(|x| x.starts_with('x'));
        let lost = reports.iter().map(|x| x.split_once(' ').unwrap().0.parse::<usize>().unwrap());
        assert_eq!(written.len() + lost.sum::<usize>(), 4096, "{reports:?}");
        assert!(written.len() <= 3 * WAITING / line.len(), "{}", written.len());
        assert!(!reports.is_empty());
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
        /// A disk that is full at 10 bytes, until space is freed.
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
