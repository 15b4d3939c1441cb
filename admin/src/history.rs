//! The counts of the last ten minutes.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use ropewalk::server::Lifecycle;
use ropewalk::{Handle, Result};
use tokio::task::JoinHandle;
use tokio::time::{MissedTickBehavior, interval};

/// How often the counts are noted.
pub(crate) const EVERY: Duration = Duration::from_secs(5);

/// So many rates are ten minutes.
const KEPT: usize = 120;

/// The names of the columns of a [`Sample`].
pub(crate) const COLUMNS: [&str; 7] =
    ["active", "accepted", "closed", "frames_in", "frames_out", "bytes_in", "bytes_out"];

/// The counts at one moment: how many are open, and sums since the server began.
pub(crate) type Sample = [u64; COLUMNS.len()];

fn sample(server: &Handle) -> Sample {
    let mut sample = [0; COLUMNS.len()];
    for endpoint in server.endpoints() {
        let counts = endpoint.counts();
        let of_it = [
            counts.active(),
            counts.accepted(),
            counts.closed_in_all(),
            endpoint.frames_in(),
            endpoint.frames_out(),
            endpoint.bytes_in(),
            endpoint.bytes_out(),
        ];
        sample.iter_mut().zip(of_it).for_each(|(sum, n)| *sum += n);
    }
    sample
}

/// The last counts, and what came before: how many were open, and how many of the others were added
/// in each interval.
#[derive(Debug, Default)]
pub(crate) struct History {
    last: Option<Sample>,
    kept: VecDeque<Sample>,
}

impl History {
    fn note(&mut self, now: Sample) {
        if let Some(last) = self.last.replace(now) {
            let mut added = now;
            // The first number is not a sum. A sum never shrinks but for counts that are taken at
            // different moments.
            added
                .iter_mut()
                .zip(last)
                .skip(1)
                .for_each(|(now, before)| *now = now.saturating_sub(before));
            if self.kept.len() == KEPT {
                self.kept.pop_front();
            }
            self.kept.push_back(added);
        }
    }

    /// From the oldest to the newest.
    pub(crate) fn samples(&self) -> impl Iterator<Item = &Sample> {
        self.kept.iter()
    }
}

/// Notes the counts as long as the endpoint runs.
pub(crate) struct Noting {
    server: Handle,
    history: Arc<Mutex<History>>,
    task: Option<JoinHandle<()>>,
}

impl Noting {
    pub(crate) fn new(server: Handle, history: Arc<Mutex<History>>) -> Self {
        Self { server, history, task: None }
    }
}

impl Lifecycle for Noting {
    async fn start(&mut self) -> Result {
        let (server, history) = (self.server.clone(), Arc::clone(&self.history));
        self.task = Some(tokio::spawn(async move {
            let mut ticks = interval(EVERY);
            ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
            loop {
                ticks.tick().await;
                let now = sample(&server);
                history.lock().unwrap_or_else(PoisonError::into_inner).note(now);
            }
        }));
        Ok(())
    }
}

impl Drop for Noting {
    fn drop(&mut self) {
        if let Some(task) = self.task.take() {
            task.abort();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{History, KEPT};

    #[test]
    fn ten_minutes_of_added_values_are_kept() {
        let mut history = History::default();
        for n in 0..=KEPT as u64 + 5 {
            history.note([n, 10 * n, 0, 0, 0, 0, n * n]);
        }
        let kept: Vec<_> = history.samples().copied().collect();
        assert_eq!(kept.len(), KEPT);
        assert_eq!(kept[0], [6, 10, 0, 0, 0, 0, 11]);
        assert_eq!(kept[KEPT - 1], [125, 10, 0, 0, 0, 0, 249]);
    }
}
