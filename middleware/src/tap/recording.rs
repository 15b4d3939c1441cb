//! A tap that runs: the queue of records, and the thread that writes them.

use std::fs::{File, OpenOptions};
use std::io::{self, BufWriter, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::sync::{Arc, OnceLock};
use std::thread;
use std::time::{Duration, Instant};

use super::packets;
use super::rules::{TapFormat, TapRules};

/// The most bytes that wait to be written.
const WAITING: usize = 4 * 1024 * 1024;

/// The most records that wait to be written.
const RECORDS: usize = 16_384;

/// Why a tap has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum TapEnd {
    /// It was stopped, or the layer is gone.
    Stopped,
    /// The next record would not have fitted into the file.
    MaxBytes,
    /// Its time was over.
    MaxTime,
    /// The file could not be written.
    Failed(io::ErrorKind),
}

/// What a tap has recorded so far. Clones show the same tap, also while it runs.
#[derive(Clone, Debug)]
pub struct TapStatus(Arc<TapProgress>);

#[derive(Debug)]
struct TapProgress {
    path: PathBuf,
    /// The size of the file when all that waits is written.
    bytes: AtomicU64,
    connections: AtomicU64,
    lost: AtomicU64,
    waiting: AtomicUsize,
    /// The first reason stands.
    reason: OnceLock<TapEnd>,
    /// Set when the file is closed.
    end: OnceLock<TapEnd>,
}

impl TapStatus {
    /// A file that has this size.
    fn new(path: &Path, size: usize) -> Self {
        Self(Arc::new(TapProgress {
            path: path.to_owned(),
            bytes: AtomicU64::new(size as u64),
            connections: AtomicU64::new(0),
            lost: AtomicU64::new(0),
            waiting: AtomicUsize::new(0),
            reason: OnceLock::new(),
            end: OnceLock::new(),
        }))
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.0.path
    }

    /// The size of the file when all that waits is written.
    pub fn bytes(&self) -> u64 {
        self.0.bytes.load(Ordering::Relaxed)
    }

    /// How many connections are in the file.
    pub fn connections(&self) -> u64 {
        self.0.connections.load(Ordering::Relaxed)
    }

    /// How many records are missing from the file, because it was not written as fast as bytes came.
    pub fn lost(&self) -> u64 {
        self.0.lost.load(Ordering::Relaxed)
    }

    /// Why the tap has ended; `None` until its file is complete.
    pub fn end(&self) -> Option<TapEnd> {
        self.0.end.get().copied()
    }

    pub(super) fn is(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }

    pub(super) fn note_end(&self, end: TapEnd) {
        // The first reason stands.
        let _ = self.0.reason.set(end);
    }

    pub(super) fn note_connection(&self) {
        self.0.connections.fetch_add(1, Ordering::Relaxed);
    }
}

/// A tap that runs. When it is dropped, the thread writes what waits and ends.
#[derive(Debug)]
pub(super) struct Recording {
    rules: TapRules,
    status: TapStatus,
    until: Option<Instant>,
    queue: SyncSender<Vec<u8>>,
}

impl Recording {
    /// Creates the file, and starts its thread, which calls `ended` at the end of the time, and if
    /// it can't write.
    pub(super) fn start(
        rules: TapRules,
        path: &Path,
        ended: impl Fn(&TapStatus, TapEnd) + Send + 'static,
    ) -> io::Result<Self> {
        let mut head = match rules.format {
            TapFormat::PcapNg => packets::head(),
            TapFormat::Hex => Vec::new(),
        };
        // A record is larger, so it doesn't fit either.
        if head.len() as u64 > rules.max_bytes {
            head.clear();
        }
        let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
        let status = TapStatus::new(path, head.len());
        let until = Instant::now().checked_add(rules.max_time);
        let (queue, records) = sync_channel(RECORDS);
        let writer =
            TapWriter { file: BufWriter::new(file), records, status: status.clone(), until };
        thread::Builder::new().name("tap".to_owned()).spawn(move || writer.run(&head, &ended))?;
        Ok(Self { rules, status, until, queue })
    }

    pub(super) fn rules(&self) -> &TapRules {
        &self.rules
    }

    pub(super) fn status(&self) -> &TapStatus {
        &self.status
    }

    /// Queues a record; one for which there is no room is lost, and counted. Returns the reason if
    /// the tap has to end.
    pub(super) fn write(&self, record: Vec<u8>) -> Result<(), TapEnd> {
        if self.until.is_some_and(|until| until <= Instant::now()) {
            return Err(TapEnd::MaxTime);
        }
        let progress = &*self.status.0;
        let size = record.len();
        let room = |waiting: usize| waiting.checked_add(size).filter(|sum| *sum <= WAITING);
        if progress.waiting.fetch_update(Ordering::Relaxed, Ordering::Relaxed, room).is_err() {
            progress.lost.fetch_add(1, Ordering::Relaxed);
            return Ok(());
        }
        let max = self.rules.max_bytes;
        let fits = |bytes: u64| bytes.checked_add(size as u64).filter(|sum| *sum <= max);
        if progress.bytes.fetch_update(Ordering::Relaxed, Ordering::Relaxed, fits).is_err() {
            progress.waiting.fetch_sub(size, Ordering::Relaxed);
            return Err(TapEnd::MaxBytes);
        }
        if self.queue.try_send(record).is_err() {
            progress.waiting.fetch_sub(size, Ordering::Relaxed);
            progress.bytes.fetch_sub(size as u64, Ordering::Relaxed);
            progress.lost.fetch_add(1, Ordering::Relaxed);
        }
        Ok(())
    }
}

/// What the thread has.
struct TapWriter {
    file: BufWriter<File>,
    records: Receiver<Vec<u8>>,
    status: TapStatus,
    until: Option<Instant>,
}

impl TapWriter {
    fn run(mut self, head: &[u8], ended: &dyn Fn(&TapStatus, TapEnd)) {
        let written = self.file.write_all(head).and_then(|()| self.write_records(ended));
        if let Err(error) = written.and_then(|()| self.file.flush()) {
            let end = TapEnd::Failed(error.kind());
            self.status.note_end(end);
            ended(&self.status, end);
        }
        // The file is closed before its end is seen.
        drop(self.file);
        self.status.note_end(TapEnd::Stopped);
        let reason = self.status.0.reason.get().copied().unwrap_or(TapEnd::Stopped);
        let _ = self.status.0.end.set(reason);
    }

    /// Writes records until the recording is dropped.
    fn write_records(&mut self, ended: &dyn Fn(&TapStatus, TapEnd)) -> io::Result<()> {
        loop {
            let wait = self
                .until
                .map_or(Duration::MAX, |until| until.saturating_duration_since(Instant::now()));
            match self.records.recv_timeout(wait) {
                Ok(record) => self.write(&record)?,
                Err(RecvTimeoutError::Disconnected) => return Ok(()),
                Err(RecvTimeoutError::Timeout) => {
                    ended(&self.status, TapEnd::MaxTime);
                    // From here on only the rest comes.
                    self.until = None;
                }
            }
        }
    }

    fn write(&mut self, record: &[u8]) -> io::Result<()> {
        self.file.write_all(record)?;
        let waiting = self.status.0.waiting.fetch_sub(record.len(), Ordering::Relaxed);
        // So the file can be read while the tap runs.
        if waiting <= record.len() { self.file.flush() } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use std::fs::OpenOptions;
    use std::io::{self, BufWriter};
    use std::sync::Mutex;
    use std::sync::atomic::Ordering;
    use std::sync::mpsc::{Receiver, sync_channel};
    use std::time::{Duration, Instant};

    use super::{RECORDS, Recording, TapEnd, TapStatus, TapWriter, WAITING};
    use crate::tap::TapRules;

    /// A recording whose thread writes nothing.
    fn blocked(rules: TapRules, records: usize) -> (Recording, Receiver<Vec<u8>>) {
        let (queue, waiting) = sync_channel(records);
        let until = Instant::now().checked_add(rules.max_time);
        (Recording { rules, status: TapStatus::new("tap".as_ref(), 0), until, queue }, waiting)
    }

    #[test]
    fn records_that_can_not_be_written_keep_a_bound_and_are_counted_and_no_one_waits() {
        assert_eq!((WAITING, RECORDS), (4 * 1024 * 1024, 16_384));
        let (recording, queue) = blocked(TapRules::new(), 100_000);
        let record = vec![0; 64 * 1024];
        for _ in 0..1000 {
            recording.write(record.clone()).unwrap();
        }
        assert_eq!(queue.try_iter().map(|record| record.len()).sum::<usize>(), WAITING);
        let kept = WAITING / record.len();
        assert_eq!(recording.status().lost(), 1000 - kept as u64);
        // What is lost takes no space of the file.
        assert_eq!(recording.status().bytes(), WAITING as u64);
        let (recording, queue) = blocked(TapRules::new(), 10);
        for _ in 0..100 {
            recording.write(vec![0; 10]).unwrap();
        }
        assert_eq!((queue.try_iter().count(), recording.status().lost()), (10, 90));
        assert_eq!(recording.status().bytes(), 100);
    }

    #[test]
    fn by_default_a_file_has_16_mib_and_a_tap_ten_minutes() {
        let (recording, queue) = blocked(TapRules::new(), 1);
        for _ in 0..16 {
            assert_eq!(recording.write(vec![0; 1024 * 1024]), Ok(()));
            let record = queue.try_recv().unwrap();
            recording.status.0.waiting.fetch_sub(record.len(), Ordering::Relaxed);
        }
        assert_eq!(recording.write(vec![0]), Err(TapEnd::MaxBytes));
        let left = recording.until.unwrap() - Instant::now();
        assert!((Duration::from_secs(590)..=Duration::from_secs(600)).contains(&left));
    }

    #[test]
    fn a_disk_that_is_full_ends_the_tap_with_the_reason_and_what_comes_then_is_lost() {
        let (recording, records) = blocked(TapRules::new(), 100);
        let status = recording.status().clone();
        let file = OpenOptions::new().write(true).open("/dev/full").unwrap();
        let until = recording.until;
        let writer =
            TapWriter { file: BufWriter::new(file), records, status: status.clone(), until };
        recording.write(vec![0; 10]).unwrap();
        let ended = Mutex::new(Vec::new());
        writer.run(b"head", &|_, end| ended.lock().unwrap().push(end));
        let full = TapEnd::Failed(io::ErrorKind::StorageFull);
        assert_eq!((ended.into_inner().unwrap(), status.end()), (vec![full], Some(full)));
        recording.write(vec![0; 10]).unwrap();
        assert_eq!(status.lost(), 1);
    }

    #[test]
    fn the_last_byte_and_the_last_moment_are_exact() {
        let (recording, _queue) = blocked(TapRules::new().max_bytes(100), 100);
        assert_eq!(recording.write(vec![0; 99]), Ok(()));
        assert_eq!(recording.write(vec![0; 2]), Err(TapEnd::MaxBytes));
        assert_eq!(recording.write(vec![0; 1]), Ok(()));
        assert_eq!(recording.write(vec![0; 1]), Err(TapEnd::MaxBytes));
        assert_eq!(recording.status().bytes(), 100);
        let (recording, _queue) = blocked(TapRules::new().max_time(Duration::ZERO), 100);
        assert_eq!(recording.write(vec![0; 1]), Err(TapEnd::MaxTime));
    }
}
