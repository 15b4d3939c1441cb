//! Mails into a maildir: whole, and on the disk before anybody is told so.

use std::fs::{self, File};
use std::io;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::SystemTime;

use tempfile::{NamedTempFile, TempPath};
use tokio::io::{AsyncWriteExt, BufWriter};
use tokio::task::spawn_blocking;

/// A folder of mails, a file each. Readers find them in `new`, where they are whole.
#[derive(Debug)]
pub(crate) struct Maildir {
    path: PathBuf,
    /// As it stands in names of files.
    host: String,
    begun: AtomicU64,
}

impl Maildir {
    /// Makes the folders where they are missing.
    pub(crate) fn open(path: PathBuf, host: &str) -> io::Result<Self> {
        for folder in ["tmp", "new", "cur"] {
            fs::create_dir_all(path.join(folder))?;
        }
        File::open(&path)?.sync_all()?;
        let host = host.replace('/', r"\057").replace(':', r"\072");
        Ok(Self { path, host, begun: AtomicU64::new(0) })
    }

    /// A name for a mail that no other of this host has.
    pub(crate) fn unique_name(&self) -> String {
        // A clock that is before 1970 gives odd names, and their number keeps them apart.
        let time = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let (seconds, micros, process) = (time.as_secs(), time.subsec_micros(), std::process::id());
        let number = self.begun.fetch_add(1, Ordering::Relaxed);
        format!("{seconds}.M{micros}P{process}Q{number}.{}", self.host)
    }

    /// A mail that begins so.
    pub(crate) async fn draft(&self, head: &str) -> io::Result<Draft> {
        let tmp = self.path.join("tmp");
        let (file, tmp) = spawn_blocking(move || NamedTempFile::new_in(tmp)).await??.into_parts();
        let mut file = BufWriter::new(tokio::fs::File::from_std(file));
        file.write_all(head.as_bytes()).await?;
        Ok(Draft { tmp, file, new: self.path.join("new") })
    }
}

/// A mail on its way into a maildir. Dropped before it is delivered, it was never there.
#[derive(Debug)]
pub(crate) struct Draft {
    tmp: TempPath,
    file: BufWriter<tokio::fs::File>,
    new: PathBuf,
}

impl Draft {
    /// Adds a line. Dropped before it is ready, or failed, the draft is of no more use.
    pub(crate) async fn write(&mut self, line: &[u8]) -> io::Result<()> {
        self.file.write_all(line).await?;
        self.file.write_all(b"\r\n").await
    }

    /// Makes the mail one of the folder. It is there also after a power failure when this returns `Ok`, and not at all
    /// when it fails.
    pub(crate) async fn deliver(self, name: &str) -> io::Result<()> {
        let Self { tmp, mut file, new } = self;
        file.flush().await?;
        file.get_ref().sync_all().await?;
        let mail = new.join(name);
        spawn_blocking(move || {
            tmp.persist_noclobber(&mail).map_err(|error| error.error)?;
            // The file is on the disk; now its name.
            File::open(new).and_then(|new| new.sync_all()).inspect_err(|_| drop(fs::remove_file(mail)))
        })
        .await?
    }
}
