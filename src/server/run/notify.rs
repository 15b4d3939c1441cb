//! Messages about the server's state to the service manager: `sd_notify(3)`.

#[cfg(feature = "systemd")]
use ropewalk_middleware::event::Limit;

use crate::server::restart::RestartError;
use ropewalk_middleware::Error;

/// Sends messages to the service manager, if this is turned on and there is one.
#[derive(Clone, Debug, Default)]
pub(in crate::server) struct Notify {
    /// `Some` if it is turned on, with the limit of its warnings, because the watchdog's messages
    /// are frequent.
    #[cfg(feature = "systemd")]
    on: Option<Limit>,
}

#[cfg(feature = "systemd")]
mod on {
    use std::env;
    use std::ffi::OsStr;
    use std::io;
    use std::os::unix::ffi::OsStrExt;
    use std::process;
    use std::time::Duration;

    use ropewalk_middleware::event::tracing::Level;
    use ropewalk_middleware::event::{Limit, aside, event};
    use sd_notify::{NotifyState, notify};
    use socket2::{Domain, SockAddr, Socket, Type};
    use tokio::task::JoinHandle;
    use tokio::time::{MissedTickBehavior, interval};

    use super::{Error, Notify, RestartError};

    /// The variables stay, because later messages need them, and so does a process that takes over.
    const KEEP_ENV: bool = false;

    impl Notify {
        pub(in crate::server) fn on() -> Self {
            let more = |suppressed| {
                event!(WARN, suppressed, "more messages to the service manager could not be sent");
            };
            Self { on: Some(Limit::new(Level::WARN, more)) }
        }

        /// The server accepts.
        pub(in crate::server) fn ready(&self) {
            self.tell(&[NotifyState::Ready]);
        }

        /// The server drains.
        pub(in crate::server) fn stopping(&self) {
            self.tell(&[NotifyState::Stopping]);
        }

        /// Resources are being reloaded, or a new process is being started.
        pub(in crate::server) fn reloading(&self) {
            let now = NotifyState::monotonic_usec_now().ok();
            let states: Vec<_> = [NotifyState::Reloading].into_iter().chain(now).collect();
            self.tell(&states);
        }

        /// The reload is done, or has failed.
        pub(in crate::server) fn reloaded(&self, error: Option<&Error>) {
            let status = error
                .map_or_else(|| "reloaded".to_owned(), |error| format!("reload failed: {error}"));
            self.tell(&[NotifyState::Ready, NotifyState::Status(&status)]);
        }

        /// The new process is the service's main process from now on.
        pub(in crate::server) fn succeeded_by(&self, pid: u32) {
            self.tell(&[NotifyState::MainPid(pid), NotifyState::Ready]);
        }

        /// This process stays the service's main process.
        pub(in crate::server) fn restart_failed(&self, error: &RestartError) {
            self.tell(&[
                NotifyState::Ready,
                NotifyState::Status(&format!("restart failed: {error}")),
            ]);
        }

        fn tell(&self, states: &[NotifyState<'_>]) {
            if let Some(log) = &self.on
                && let Err(error) = send(states)
                && log.pass()
            {
                aside!(WARN, %error, "a message to the service manager could not be sent");
            }
        }

        /// Sends the watchdog's messages, if the service manager has a watchdog. A task on the
        /// server's runtime sends them, so that they stop when the runtime is blocked.
        pub(in crate::server) fn feed_watchdog(&self) -> Option<Feeding> {
            let period = watchdog().filter(|_| self.on.is_some())?;
            Some(Feeding(tokio::spawn(feed(period / 2, self.clone()))))
        }
    }

    /// sd-notify sends only to paths, and would take the `@` of an abstract name as the start of
    /// one.
    fn send(states: &[NotifyState<'_>]) -> io::Result<()> {
        let socket = env::var_os("NOTIFY_SOCKET").unwrap_or_default();
        let Some(name) = socket.as_bytes().strip_prefix(b"@") else {
            return notify(KEEP_ENV, states);
        };
        let manager = SockAddr::unix(OsStr::from_bytes(&[b"\0", name].concat()))?;
        let text: String = states.iter().map(|state| format!("{state}\n")).collect();
        Socket::new(Domain::UNIX, Type::DGRAM, None)?.send_to(text.as_bytes(), &manager)?;
        Ok(())
    }

    /// The watchdog interval for this process. sd-notify's own function requires `WATCHDOG_PID`,
    /// which a process that took over doesn't have.
    fn watchdog() -> Option<Duration> {
        let is_ours = env::var("WATCHDOG_PID").map_or(true, |pid| pid == process::id().to_string());
        let micros = env::var("WATCHDOG_USEC").ok()?.parse().ok().filter(|&micros| micros > 0)?;
        is_ours.then(|| Duration::from_micros(micros))
    }

    async fn feed(period: Duration, notify: Notify) {
        let mut ticks = interval(period.max(Duration::from_millis(1)));
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            notify.tell(&[NotifyState::Watchdog]);
        }
    }

    /// Feeds until it is dropped.
    #[derive(Debug)]
    pub(in crate::server) struct Feeding(JoinHandle<()>);

    impl Drop for Feeding {
        fn drop(&mut self) {
            self.0.abort();
        }
    }
}

#[cfg(not(feature = "systemd"))]
mod off {
    use super::{Error, Notify, RestartError};

    impl Notify {
        pub(in crate::server) fn ready(&self) {}
        pub(in crate::server) fn stopping(&self) {}
        pub(in crate::server) fn reloading(&self) {}
        pub(in crate::server) fn reloaded(&self, _: Option<&Error>) {}
        pub(in crate::server) fn succeeded_by(&self, _: u32) {}
        pub(in crate::server) fn restart_failed(&self, _: &RestartError) {}
    }
}
