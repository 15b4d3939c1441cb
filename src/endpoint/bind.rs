//! Binds endpoints: first opens their sockets, then makes a listener for each in the runtime that
//! will watch it.

use std::fs;
use std::io;

use super::proxied::known_by;
use super::{BindError, Endpoint, Kind, watch, watcher};
use crate::listener::Listener;
use crate::listener::opened::OpenSocket;
use crate::listener::preamble::{
    Preambles, Step, WithPreamble, default_max_preambles, descriptors,
};
use crate::listener::proxy::ReadHeader;
use crate::listener::recognize::Recognize;
#[cfg(feature = "rustls")]
use crate::listener::tls::Handshake;

/// The system's limit on waiting connections where it is unknown: the default of Linux.
const SOMAXCONN: usize = 4096;

impl Endpoint {
    /// Binds and listens. Call it within a tokio runtime with I/O and time enabled.
    ///
    /// # Cancel safety
    ///
    /// If it is dropped before its end, no socket stays bound.
    ///
    /// # Errors
    ///
    /// If the system refuses, if a path exists that is not a dead server's socket, if a listener
    /// made in code was bound before, or if an option is not valid for the kind of endpoint.
    pub async fn bind(&self) -> Result<Box<dyn Listener>, BindError> {
        let mut bound = self
            .bind_all(Vec::new(), &Preambles::new(default_max_preambles(descriptors())))
            .await?;
        Ok(bound.pop().expect("one socket was asked for"))
    }

    /// Binds for a server. `inherited` are the sockets received from the process that this one
    /// replaces, if any (several if that process has workers). The results of preambles are
    /// counted.
    pub(crate) async fn bind_all(
        &self,
        inherited: Vec<OpenSocket>,
        preambles: &Preambles,
    ) -> Result<Vec<Box<dyn Listener>>, BindError> {
        self.check()?;
        if let (Kind::Bound(premade), []) = (&self.kind, &*inherited) {
            let bound = premade.take().and_then(|listener| self.complete(listener, preambles));
            return Ok(vec![bound.map_err(|cause| self.failed(cause))?]);
        }
        let opened = self.open(1, inherited).await?;
        opened.into_iter().map(|opened| self.listener(opened, preambles)).collect()
    }

    /// Opens its sockets: as many as wanted if the kernel distributes connections among several,
    /// otherwise one.
    pub(crate) async fn open(
        &self,
        sockets: usize,
        inherited: Vec<OpenSocket>,
    ) -> Result<Vec<OpenSocket>, BindError> {
        let opened = if inherited.is_empty() {
            self.kind.scheme().open(&self.options, sockets).await
        } else {
            self.prepare(inherited)
        };
        opened.map_err(|cause| self.failed(cause))
    }

    /// Makes a listener on one of its sockets, watched by the current runtime.
    pub(crate) fn listener(
        &self,
        opened: OpenSocket,
        preambles: &Preambles,
    ) -> Result<Box<dyn Listener>, BindError> {
        let listener = watch(opened, self.most_waiting())
            .and_then(|listener| self.complete(listener, preambles));
        listener.map_err(|cause| self.failed(cause))
    }

    fn failed(&self, cause: io::Error) -> BindError {
        BindError::new(self, cause)
    }

    fn prepare(&self, inherited: Vec<OpenSocket>) -> io::Result<Vec<OpenSocket>> {
        for opened in &inherited {
            if let Some(path) = &opened.path {
                path.set_access(&self.options.access)?;
            }
            watcher(opened.prepare(self.listens_itself().then(|| self.options.system_backlog()))?)?;
        }
        Ok(inherited)
    }

    /// The most connections that can wait to be accepted: the system's own limit bounds any
    /// requested number.
    fn most_waiting(&self) -> usize {
        let allowed = fs::read_to_string("/proc/sys/net/core/somaxconn")
            .ok()
            .and_then(|text| text.trim().parse().ok());
        let allowed = allowed.unwrap_or(SOMAXCONN);
        // The backlog of a socket that was passed to this process is unknown.
        if self.listens_itself() {
            allowed.min(self.options.backlog_or_default() as usize)
        } else {
            allowed
        }
    }

    /// Puts the preamble steps of its connections around a listener.
    fn complete(
        &self,
        listener: Box<dyn Listener>,
        preambles: &Preambles,
    ) -> io::Result<Box<dyn Listener>> {
        self.check_trusted(known_by(&listener.local_addr()))?;
        let steps = self.steps();
        if steps.is_empty() {
            return Ok(listener);
        }
        Ok(Box::new(WithPreamble::new(listener, steps, preambles.clone())))
    }

    /// Whether its connections have a preamble.
    pub(crate) fn has_preamble(&self) -> bool {
        #[cfg(feature = "rustls")]
        if self.tls.is_some() {
            return true;
        }
        self.proxied.is_some() || self.protocols.is_some()
    }

    /// The preamble steps of its connections, in their order.
    fn steps(&self) -> Vec<Box<dyn Step>> {
        let mut steps: Vec<Box<dyn Step>> = Vec::new();
        if let Some(trusted) = &self.proxied {
            steps.push(Box::new(ReadHeader::new(trusted.clone())));
        }
        #[cfg(feature = "rustls")]
        if let Some(tls) = &self.tls {
            steps.push(Box::new(Handshake::new(tls.clone())));
        }
        if let Some(protocols) = &self.protocols {
            steps.push(Box::new(Recognize::new(protocols.clone())));
        }
        steps
    }
}
