//! The token that requests have to show, from a file that others can't read.

use std::fmt;
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{PoisonError, RwLock};

use ropewalk::{Error, Result};
use rustix::fs::{Mode, OFlags, open};
use rustix::process::geteuid;
use subtle::ConstantTimeEq;

/// Shorter tokens could be guessed.
const SHORTEST: usize = 16;

/// A file that is longer is not a token.
const LONGEST: usize = 1024;

/// The permissions of group and others.
const OTHERS: u32 = 0o077;

/// A token, and the file that it comes from.
pub(crate) struct Token {
    file: PathBuf,
    value: RwLock<Vec<u8>>,
}

impl Token {
    pub(crate) async fn read(file: PathBuf) -> Result<Self> {
        let value = RwLock::new(load(&file).await?);
        Ok(Self { file, value })
    }

    /// Reads the file again, and changes nothing yet.
    pub(crate) async fn read_again(&self) -> Result<Vec<u8>> {
        load(&self.file).await
    }

    pub(crate) fn replace(&self, value: Vec<u8>) {
        *self.value.write().unwrap_or_else(PoisonError::into_inner) = value;
    }

    /// Whether this is the token. The time it takes depends on the lengths only.
    pub(crate) fn is(&self, shown: &[u8]) -> bool {
        self.value.read().unwrap_or_else(PoisonError::into_inner).ct_eq(shown).into()
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Token").field("file", &self.file).finish_non_exhaustive()
    }
}

async fn load(file: &Path) -> Result<Vec<u8>> {
    let path = file.to_owned();
    let loaded = tokio::task::spawn_blocking(move || load_now(&path)).await?;
    loaded.map_err(|error| Error::other(format!("the token file {}: {error}", file.display())))
}

fn load_now(path: &Path) -> io::Result<Vec<u8>> {
    // A pipe in its place would make an opening that waits hang.
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK;
    let mut file = File::from(open(path, flags, Mode::empty())?);
    // Read from the open file: the path may lead to another file by now.
    let metadata = file.metadata()?;
    if !metadata.is_file() {
        return refuse("it is not a regular file".to_owned());
    }
    let mode = metadata.mode() & 0o7777;
    if mode & OTHERS != 0 {
        return refuse(format!(
            "its mode is {mode:o}, so others may read or change it: make it 600 (chmod 600)"
        ));
    }
    let (owner, ours) = (metadata.uid(), geteuid().as_raw());
    if owner != ours && owner != 0 {
        return refuse(format!(
            "it belongs to user {owner}, and has to belong to {ours}, the user of this server, or to root"
        ));
    }
    let mut value = Vec::with_capacity(LONGEST);
    file.by_ref().take(LONGEST as u64 + 1).read_to_end(&mut value)?;
    value.truncate(value.trim_ascii_end().len());
    if !(SHORTEST..=LONGEST).contains(&value.len()) || !value.iter().all(u8::is_ascii_graphic) {
        return refuse(format!(
            "a token has {SHORTEST} to {LONGEST} characters, all of them printable ASCII: make one with `openssl rand -hex 32`"
        ));
    }
    Ok(value)
}

fn refuse<T>(text: String) -> io::Result<T> {
    Err(io::Error::new(io::ErrorKind::InvalidData, text))
}
