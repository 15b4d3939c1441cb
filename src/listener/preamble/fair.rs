//! A queue that serves addresses in turn.

use std::collections::{HashMap, VecDeque};
use std::net::IpAddr;

/// A queue that serves addresses in turn, however many entries each has; the entries of one address
/// keep their order. Entries without an address share one turn.
#[derive(Debug)]
pub(super) struct Fair<T> {
    queues: HashMap<Option<IpAddr>, VecDeque<T>>,
    /// The addresses that have entries, in the order of their turns.
    turns: VecDeque<Option<IpAddr>>,
    len: usize,
}

impl<T> Fair<T> {
    pub(super) fn new() -> Self {
        Self { queues: HashMap::new(), turns: VecDeque::new(), len: 0 }
    }

    pub(super) fn push(&mut self, host: Option<IpAddr>, entry: T) {
        let queue = self.queues.entry(host).or_default();
        if queue.is_empty() {
            self.turns.push_back(host);
        }
        queue.push_back(entry);
        self.len += 1;
    }

    pub(super) fn pop(&mut self) -> Option<T> {
        let host = self.turns.pop_front()?;
        let queue = self.queues.get_mut(&host)?;
        let entry = queue.pop_front()?;
        if queue.is_empty() {
            self.queues.remove(&host);
        } else {
            self.turns.push_back(host);
        }
        self.len -= 1;
        Some(entry)
    }

    pub(super) fn len(&self) -> usize {
        self.len
    }
}

/// Takes waiting connections as index and address, in the order of arrival. Returns the index of
/// the newest one of the address with the most connections, including those it has `elsewhere`.
pub(crate) fn newest_of_most(
    waiting: impl Iterator<Item = (usize, Option<IpAddr>)> + Clone,
    elsewhere: impl Fn(Option<IpAddr>) -> usize,
) -> Option<usize> {
    let mut of: HashMap<Option<IpAddr>, usize> = HashMap::new();
    waiting.clone().for_each(|(_, host)| *of.entry(host).or_insert_with(|| elsewhere(host)) += 1);
    waiting.max_by_key(|(index, host)| (of[host], *index)).map(|(index, _)| index)
}

#[cfg(test)]
mod tests {
    use std::iter::from_fn;
    use std::net::Ipv4Addr;

    use super::{Fair, newest_of_most};

    #[test]
    fn the_newest_of_the_address_with_the_most_is_found_here_and_elsewhere() {
        let host = |n| Some(Ipv4Addr::new(192, 0, 2, n).into());
        let waiting = [host(1), host(2), host(1), None, host(3)].into_iter().enumerate();
        assert_eq!(newest_of_most(waiting.clone(), |_| 0), Some(2));
        assert_eq!(
            newest_of_most(waiting.clone(), |of| if of == host(2) { 2 } else { 0 }),
            Some(1)
        );
        assert_eq!(newest_of_most(waiting.take(0), |_| 0), None);
    }

    #[test]
    fn each_address_has_its_turn_and_keeps_its_order() {
        let mut queue = Fair::new();
        let host = |n| Some(Ipv4Addr::new(192, 0, 2, n).into());
        for (from, entry) in [
            (host(1), "a"),
            (host(1), "b"),
            (host(1), "c"),
            (host(2), "d"),
            (None, "e"),
            (None, "f"),
        ] {
            queue.push(from, entry);
        }
        assert_eq!(queue.len(), 6);
        assert_eq!(from_fn(|| queue.pop()).collect::<Vec<_>>(), ["a", "d", "e", "b", "f", "c"]);
        assert!(
            queue.queues.is_empty() && queue.turns.is_empty() && queue.len() == 0,
            "nothing is left behind"
        );
    }
}
