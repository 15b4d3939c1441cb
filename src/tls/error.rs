//! Errors of certificates.

use std::error::Error as StdError;
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

/// Certificates that can't be used. The message names the file, the problem, and what to do.
#[derive(Debug)]
pub struct TlsError {
    path: Option<PathBuf>,
    problem: String,
    fix: &'static str,
}

impl TlsError {
    pub(super) fn new(path: &Path, problem: impl Into<String>, fix: &'static str) -> Self {
        Self { path: Some(path.to_owned()), problem: problem.into(), fix }
    }

    /// An error that concerns no file.
    pub(super) fn other(problem: impl Into<String>, fix: &'static str) -> Self {
        Self { path: None, problem: problem.into(), fix }
    }

    pub(super) fn unreadable(path: &Path, error: &io::Error) -> Self {
        let fix = match error.kind() {
            io::ErrorKind::NotFound => "check the path",
            io::ErrorKind::PermissionDenied => "the user this runs as must be allowed to read it",
            _ => "check that it is a readable file",
        };
        Self::new(path, error.to_string(), fix)
    }

    /// The same without the path, for PEM text in memory.
    pub(super) fn in_memory(self) -> Self {
        Self { path: None, ..self }
    }

    /// The file or folder with the problem, if there is one.
    pub fn path(&self) -> Option<&Path> {
        self.path.as_deref()
    }
}

impl fmt::Display for TlsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.path {
            Some(path) => write!(f, "bad TLS file {path:?}: {}: {}", self.problem, self.fix),
            None => write!(f, "bad TLS configuration: {}: {}", self.problem, self.fix),
        }
    }
}

impl StdError for TlsError {}

impl From<TlsError> for io::Error {
    fn from(error: TlsError) -> Self {
        Self::new(io::ErrorKind::InvalidInput, error)
    }
}
