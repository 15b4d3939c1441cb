//! Endpoint strings.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;

use ropewalk::Endpoint;

/// The most bytes a path has on every system.
const PATH: usize = 103;

/// Parsing never panics, and what is displayed parses to the same.
pub fn endpoint(data: &[u8]) {
    let Some((&choice, rest)) = data.split_first() else { return };
    match (choice, rest) {
        (0xff, [backlog, mode, path @ ..]) => built(*backlog, *mode, path),
        _ => {
            if let Ok(text) = std::str::from_utf8(data) {
                parsed(text);
            }
        }
    }
}

fn parsed(text: &str) {
    match text.parse::<Endpoint>() {
        Ok(endpoint) => comes_back(&endpoint),
        Err(error) => {
            assert_eq!(error.input(), text);
            let message = error.to_string();
            assert!(message.starts_with("bad endpoint "), "{message}");
        }
    }
}

/// One that was built in code from any path.
fn built(backlog: u8, mode: u8, path: &[u8]) {
    if path.is_empty() || path.len() > PATH || path.contains(&0) {
        return;
    }
    let endpoint = Endpoint::unix(OsStr::from_bytes(path));
    let endpoint = if backlog > 0x80 { endpoint.backlog(u32::from(backlog)) } else { endpoint };
    let endpoint = if mode > 0x80 { endpoint.mode(u32::from(mode)) } else { endpoint };
    let endpoint = if mode & 1 == 1 { endpoint.proxied([]) } else { endpoint };
    comes_back(&endpoint);
}

fn comes_back(endpoint: &Endpoint) {
    let shown = endpoint.to_string();
    assert!(!shown.chars().any(char::is_control), "{shown:?}");
    match shown.parse::<Endpoint>() {
        Ok(back) => {
            assert_eq!(&back, endpoint, "{shown:?} is another endpoint");
            assert_eq!(back.to_string(), shown);
        }
        Err(error) => panic!("it does not come back: {error}"),
    }
}
