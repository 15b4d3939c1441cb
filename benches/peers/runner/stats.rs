//! Medians and ratios.

use ropewalk_peers::Report;

/// The middle value; 0 if there are no values.
pub fn median(values: impl IntoIterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.into_iter().collect();
    values.sort_by(f64::total_cmp);
    match values.len() {
        0 => 0.0,
        n if n % 2 == 1 => values[n / 2],
        n => f64::midpoint(values[n / 2 - 1], values[n / 2]),
    }
}

/// How far the largest value is from the smallest, as a share of the median.
pub fn spread(values: &[f64]) -> f64 {
    let (low, high) = values.iter().fold((f64::MAX, 0.0_f64), |(low, high), &v| (low.min(v), high.max(v)));
    if values.is_empty() { 0.0 } else { (high - low) / median(values.iter().copied()) }
}

/// The server's CPU time for a request in each round, in microseconds.
pub fn cpu(reports: &[Report]) -> Vec<f64> {
    reports.iter().filter_map(|report| report.server_us).collect()
}

/// The median of the ratios of each round.
pub fn ratio(over: &[f64], under: &[f64]) -> f64 {
    median(over.iter().zip(under).map(|(over, under)| over / under))
}
