//! The keys of connections, in a file.

use std::fmt::Write as _;
use std::fs::{File, OpenOptions};
use std::io::Write as _;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use rustix::process::geteuid;
use rustls::KeyLog;

use super::TlsError;

const FIX: &str = "SSLKEYLOGFILE has to name a file that is not there yet, or one of mode 600 of this user, and no link";

/// Writes the keys of connections to a file, in the format of `SSLKEYLOGFILE`: a label, the client's
/// random bytes and the secret, each line in one write.
///
/// rustls has one too. It appends to any file, also to one that others may read, and reports no
/// error.
#[derive(Debug)]
pub(super) struct KeyFile(Mutex<File>);

impl KeyFile {
    /// Opens the file, or makes it. It is an error if another user may read or write it.
    pub(super) fn open(path: &Path) -> Result<Self, TlsError> {
        // A link may be another user's. The open of a pipe without a reader would wait for one.
        let flags = libc::O_NOFOLLOW | libc::O_NONBLOCK;
        let mut options = OpenOptions::new();
        options.append(true).create(true).mode(0o600).custom_flags(flags);
        let failed = |error: std::io::Error| TlsError::new(path, error.to_string(), FIX);
        let file = options.open(path).map_err(failed)?;
        // Of the open file, because the path may lead to another one by now.
        let found = file.metadata().map_err(failed)?;
        let is_own = found.uid() == geteuid().as_raw() && found.mode() & 0o077 == 0;
        if !(found.is_file() && is_own) {
            return Err(TlsError::new(path, "it is not this user's alone", FIX));
        }
        Ok(Self(Mutex::new(file)))
    }
}

impl KeyLog for KeyFile {
    fn log(&self, label: &str, client_random: &[u8], secret: &[u8]) {
        let mut line = label.to_owned();
        for bytes in [client_random, secret] {
            line.push(' ');
            for byte in bytes {
                // A `String` takes everything.
                let _ = write!(line, "{byte:02x}");
            }
        }
        line.push('\n');
        // A full disk ends no connection.
        let _ = self.0.lock().unwrap_or_else(PoisonError::into_inner).write_all(line.as_bytes());
    }
}
