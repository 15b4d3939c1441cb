//! How many connections a server may have when it is not told.

const MAX_CONNECTIONS: usize = 10_000;

/// What so many descriptors allow beside so many preambles.
pub(super) fn max_connections(descriptors: usize, preambles: usize) -> usize {
    descriptors.saturating_sub(preambles).clamp(1, MAX_CONNECTIONS)
}

#[cfg(test)]
mod tests {
    use super::max_connections;

    #[test]
    fn connections_have_what_the_preambles_leave_up_to_10_000() {
        for (descriptors, preambles, connections) in
            [(0, 1, 1), (5, 1, 4), (140, 35, 105), (752, 188, 564), (752, 0, 752), (15_936, 3984, 10_000), (10, 20, 1)]
        {
            assert_eq!(max_connections(descriptors, preambles), connections, "{descriptors} descriptors");
        }
    }
}
