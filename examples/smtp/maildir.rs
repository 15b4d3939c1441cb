//! Stores mails in a maildir. A mail is complete and on the disk before its sender is told so.

use std::fs::{self, File};
use std::io;
use std::path::PathBuf;
use std::time::SystemTime;

use rustix::fs::{FlockOperation, flock};
use tempfile::{Builder, TempPath};
use tokio::io::{AsyncWriteExt, BufWriter};
use tokio::task::spawn_blocking;

/// How many characters of a name are random.
const RANDOM: usize = 20;

/// A folder of mails, a file each. Readers find them in `new`, where they are whole.
#[derive(Debug)]
pub(crate) struct Maildir {
    path: PathBuf,
    /// The host's name, as it is written in the names of files.
    host: String,
}

impl Maildir {
    /// Makes missing folders.
    pub(crate) fn open(path: PathBuf, host: &str) -> io::Result<Self> {
        for folder in ["tmp", "new", "cur"] {
            fs::create_dir_all(path.join(folder))?;
        }
        File::open(&path)?.sync_all()?;
        let maildir = Self { path, host: host.replace('/', r"\057").replace(':', r"\072") };
        maildir.tidy_up()?;
        Ok(maildir)
    }

    /// Removes the drafts of a process that was killed, and nothing of other programs. Those of one that lives, which
    /// this one may be the successor of, are locked.
    fn tidy_up(&self) -> io::Result<()> {
        let is_draft = |name: &str| {
            let stem = name.strip_suffix(&self.host).and_then(|rest| rest.strip_suffix('.'));
            stem.and_then(|stem| stem.split_once(".R")).is_some_and(|(_, random)| random.len() == RANDOM)
        };
        for entry in fs::read_dir(self.path.join("tmp"))? {
            let path = entry?.path();
            let is_ours = path.file_name().is_some_and(|name| is_draft(&name.to_string_lossy())) && path.is_file();
            if is_ours && File::open(&path).is_ok_and(|file| lock(&file).is_ok()) {
                // Another process may be faster, and a draft that can't be removed must not prevent the start.
                let _ = fs::remove_file(path);
            }
        }
        Ok(())
    }

    /// Begins a mail in a file with a unique name: the time, random characters and the host.
    pub(crate) async fn draft(&self) -> io::Result<Draft> {
        let (tmp, new) = (self.path.join("tmp"), self.path.join("new"));
        // With a clock before 1970 the names are odd.
        let seconds = SystemTime::UNIX_EPOCH.elapsed().unwrap_or_default().as_secs();
        let (prefix, suffix) = (format!("{seconds}.R"), format!(".{}", self.host));
        let create = move || {
            let draft = Builder::new().prefix(&prefix).suffix(&suffix).rand_bytes(RANDOM).tempfile_in(tmp)?;
            // Where files can't be locked no draft is removed at a start.
            let _ = lock(draft.as_file());
            Ok::<_, io::Error>(draft)
        };
        let (file, tmp) = spawn_blocking(create).await??.into_parts();
        let name = tmp.file_name().unwrap_or_default().to_string_lossy().into_owned();
        Ok(Draft { name, file: BufWriter::new(tokio::fs::File::from_std(file)), tmp, new })
    }
}

/// Locks the file until it is closed, at the latest by the end of the process; an error if another process has locked
/// it.
fn lock(file: &File) -> io::Result<()> {
    Ok(flock(file, FlockOperation::NonBlockingLockExclusive)?)
}

/// A mail that is being stored. If it is dropped before it is delivered, it is removed.
#[derive(Debug)]
pub(crate) struct Draft {
    /// The name of its file, before and after delivery.
    pub(crate) name: String,
    file: BufWriter<tokio::fs::File>,
    tmp: TempPath,
    new: PathBuf,
}

impl Draft {
    /// Adds a line. If it fails, or is dropped before it is ready, the draft can't be used any more.
    pub(crate) async fn write(&mut self, line: &[u8]) -> io::Result<()> {
        self.file.write_all(line).await?;
        self.file.write_all(b"\r\n").await
    }

    /// Delivers the mail, and returns its name. After `Ok` the mail survives a power failure; after an error it is not
    /// there.
    pub(crate) async fn deliver(mut self) -> io::Result<String> {
        self.file.flush().await?;
        self.file.get_ref().sync_all().await?;
        let Self { name, tmp, new, .. } = self;
        spawn_blocking(move || {
            let mail = new.join(&name);
            tmp.persist_noclobber(&mail)?;
            // The file is on the disk; now its name.
            File::open(new)?.sync_all().inspect_err(|_| drop(fs::remove_file(mail)))?;
            Ok(name)
        })
        .await?
    }
}
