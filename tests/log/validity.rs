//! Certificates out of their time: served, and not without a word.

use rcgen::{CertificateParams, date_time_ymd};
use ropewalk::TlsConfig;

use crate::encrypted::{Ca, Folder};
use crate::logged::{Log, log_to};

/// The lines that are logged while a certificate with these dates is read, and read again.
fn logged(from: i32, to: i32) -> String {
    let (ca, folder, log) = (Ca::new(), Folder::new(), Log::default());
    let mut params = CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
    (params.not_before, params.not_after) = (date_time_ymd(from, 3, 1), date_time_ymd(to, 3, 1));
    let issued = ca.issue_params(&params);
    let tls = TlsConfig::files(
        folder.write("cert.pem", &issued.cert),
        folder.write("key.pem", &issued.key),
    );
    let subscriber = tracing_subscriber::fmt().with_ansi(false).with_writer(log.clone()).finish();
    let guard = log_to(subscriber);
    tls.load().unwrap();
    tls.reload().unwrap();
    drop(guard);
    log.text()
}

#[test]
fn one_that_has_expired_or_is_not_valid_yet_is_named_with_its_date_at_each_reading() {
    for (from, to, said) in
        [(2001, 2002, "place=0 expired=2002-03-01"), (2200, 2201, "place=0 valid_from=2200-03-01")]
    {
        let log = logged(from, to);
        let lines: Vec<_> =
            log.lines().filter(|line| line.contains("WARN") && line.contains("cert.pem")).collect();
        assert_eq!(lines.len(), 2, "{log}");
        assert!(lines.iter().all(|line| line.contains(said)), "{log}");
    }
    assert_eq!(logged(2001, 2200), "");
}
