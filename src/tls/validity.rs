//! When certificates expire, and warnings about those that are expired or not valid yet.

use std::path::Path;
use std::time::Duration;

use ropewalk_middleware::event::aside;
use rustls::pki_types::{CertificateDer, UnixTime};
use webpki::{EndEntityCert, Error, KeyUsage};

/// Logs a warning for the certificates of a chain that have expired or are not valid yet. They are
/// used all the same: clients refuse them, but a server that refused to start would be no better.
pub(super) fn warn_of(file: &Path, chain: &[CertificateDer<'_>]) {
    for (place, certificate) in chain.iter().enumerate() {
        match fault(certificate, UnixTime::now()) {
            Some(Error::CertExpired { not_after, .. }) => {
                let file = file.display().to_string();
                let expired = date(not_after);
                aside!(WARN, %file, place, %expired, "the certificate has expired");
            }
            Some(Error::CertNotValidYet { not_before, .. }) => {
                let file = file.display().to_string();
                let valid_from = date(not_before);
                aside!(WARN, %file, place, %valid_from, "the certificate is not valid yet");
            }
            // There is always some error, because no authority is trusted here; only the validity
            // period matters, which is checked first.
            _ => {}
        }
    }
}

/// After every date that a certificate can have: the year 36 812.
const NEVER: Duration = Duration::from_secs(1 << 40);

/// When the first certificate of a chain expires, as a time since 1970.
pub(super) fn expiry(chain: &[CertificateDer<'_>]) -> Option<Duration> {
    let never = UnixTime::since_unix_epoch(NEVER);
    let ends = chain.iter().filter_map(|certificate| match fault(certificate, never) {
        Some(Error::CertExpired { not_after, .. }) => Some(not_after.as_secs()),
        _ => None,
    });
    ends.min().map(Duration::from_secs)
}

fn fault(certificate: &CertificateDer<'_>, now: UnixTime) -> Option<Error> {
    let parsed = EndEntityCert::try_from(certificate).ok()?;
    parsed.verify_for_usage(&[], &[], &[], now, KeyUsage::server_auth(), None, None).err()
}

/// The day in UTC, in ISO 8601 form. Years begin in March here, so that a leap day is the last day.
fn date(time: UnixTime) -> String {
    let days = time.as_secs() / 86_400 + 719_468;
    let era = days / 146_097;
    let day = days % 146_097;
    let year = (day - day / 1460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    let month = (5 * day + 2) / 153;
    let day = day - (153 * month + 2) / 5 + 1;
    let (year, month) = if month < 10 { (year, month + 3) } else { (year + 1, month - 9) };
    format!("{:04}-{month:02}-{day:02}", 400 * era + year)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use rustls::pki_types::UnixTime;

    use super::date;

    #[test]
    fn a_day_has_its_date() {
        for (seconds, expected) in [
            (0, "1970-01-01"),
            (951_782_399, "2000-02-28"),
            (951_782_400, "2000-02-29"),
            (951_868_800, "2000-03-01"),
            (1_709_164_800, "2024-02-29"),
            (1_735_689_599, "2024-12-31"),
            (4_107_542_400, "2100-03-01"),
            (253_402_300_799, "9999-12-31"),
        ] {
            assert_eq!(date(UnixTime::since_unix_epoch(Duration::from_secs(seconds))), expected);
        }
    }
}
