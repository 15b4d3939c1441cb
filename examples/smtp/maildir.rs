//! Mails into a maildir: whole, and on the disk before anybody is told so.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::SystemTime;

use tempfile::NamedTempFile;
use tokio::runtime::Handle;
use tokio::task::spawn_blocking;

/// What is held in memory of a mail: a common one is then written at once.
const BLOCK: usize = 64 * 1024;

/// A folder of mails, a file each. Readers find them in `new`, where they are whole.
#[derive(Debug)]
pub(crate) struct Maildir {
    path: PathBuf,
    /// As it stands in names of files.
    host: String,
    delivered: AtomicU64,
}

impl Maildir {
    /// Makes the folders where they are missing.
    pub(crate) fn open(path: PathBuf, host: &str) -> io::Result<Self> {
        for folder in ["tmp", "new", "cur"] {
            fs::create_dir_all(path.join(folder))?;
        }
        File::open(&path)?.sync_all()?;
        let host = host.replace('/', r"\057").replace(':', r"\072");
        Ok(Self { path, host, delivered: AtomicU64::new(0) })
    }

    /// A mail that begins. Nothing of it is on the disk before it is large, or [delivered](Draft::deliver).
    pub(crate) fn draft(self: &Arc<Self>) -> Draft {
        // A clock that is before 1970 gives odd names, and their number keeps them apart.
        let time = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let (seconds, micros, process) = (time.as_secs(), time.subsec_micros(), std::process::id());
        let number = self.delivered.fetch_add(1, Ordering::Relaxed);
        let name = format!("{seconds}.M{micros}P{process}Q{number}.{}", self.host);
        Draft { maildir: Arc::clone(self), name, unwritten: Vec::new(), file: None }
    }
}

/// A mail on its way into a maildir. Dropped before it is delivered, it was never there.
#[derive(Debug)]
pub(crate) struct Draft {
    maildir: Arc<Maildir>,
    name: String,
    unwritten: Vec<u8>,
    /// In `tmp`.
    file: Option<NamedTempFile>,
}

impl Draft {
    /// The name its file will have; no other mail of this host has it.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// Adds to the mail. Dropped before it is ready, or failed, the draft is of no more use.
    pub(crate) async fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.unwritten.extend_from_slice(bytes);
        if self.unwritten.len() >= BLOCK {
            self.file = Some(self.spill().await?);
        }
        Ok(())
    }

    /// What is in memory goes to the file.
    async fn spill(&mut self) -> io::Result<NamedTempFile> {
        let (bytes, file, tmp) = (self.unwritten.split_off(0), self.file.take(), self.maildir.path.join("tmp"));
        spawn_blocking(move || append(file, &tmp, &bytes)).await?
    }

    /// Makes the mail one of the folder. It is there also after a power failure when this returns `Ok`, and not at all
    /// when it fails.
    pub(crate) async fn deliver(mut self) -> io::Result<()> {
        let (bytes, file, path) = (self.unwritten.split_off(0), self.file.take(), self.maildir.path.clone());
        let name = std::mem::take(&mut self.name);
        spawn_blocking(move || {
            let file = append(file, &path.join("tmp"), &bytes)?;
            file.as_file().sync_all()?;
            let new = path.join("new");
            let mail = new.join(name);
            file.persist_noclobber(&mail).map_err(|error| error.error)?;
            // The file is on the disk; now its name.
            File::open(new).and_then(|new| new.sync_all()).inspect_err(|_| drop(fs::remove_file(mail)))
        })
        .await?
    }
}

fn append(file: Option<NamedTempFile>, tmp: &Path, bytes: &[u8]) -> io::Result<NamedTempFile> {
    let mut file = file.map_or_else(|| NamedTempFile::new_in(tmp), Ok)?;
    file.write_all(bytes)?;
    Ok(file)
}

impl Drop for Draft {
    fn drop(&mut self) {
        // To remove a file takes its time, too.
        if let (Some(file), Ok(runtime)) = (self.file.take(), Handle::try_current()) {
            runtime.spawn_blocking(move || drop(file));
        }
    }
}
