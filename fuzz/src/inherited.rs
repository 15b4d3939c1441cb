//! The variables by which a service manager describes the sockets it has passed, LISTEN_PID and
//! LISTEN_FDNAMES, and the requested name.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;

#[allow(dead_code, reason = "it is a part of the library, and has more in it")]
#[path = "../../src/endpoint/passed.rs"]
mod passed;

use self::passed::{check_name, find, misdirected};

/// The number of this process, as far as the target is concerned.
const OWN: u32 = 17;

/// The first descriptor that is passed.
const FIRST: i32 = 3;

/// Another process's sockets are never taken, a name finds the one socket that has it, and every
/// refusal is one line.
///
/// The input is LISTEN_PID, LISTEN_FDNAMES and the name, with a line feed between them.
pub fn inherited(data: &[u8]) {
    let mut lines = data.splitn(3, |&byte| byte == b'\n');
    let (Some(pid), Some(names), Some(name)) = (lines.next(), lines.next(), lines.next()) else {
        return;
    };
    let is_own = std::str::from_utf8(pid).is_ok_and(|pid| pid.parse() == Ok(OWN));
    match misdirected(Some(OsStr::from_bytes(pid)), OWN) {
        Some(text) => assert!(!is_own && is_a_line(&text), "{text:?}"),
        None => assert!(is_own, "{}", pid.escape_ascii()),
    }
    let (Ok(names), Ok(name)) = (std::str::from_utf8(names), std::str::from_utf8(name)) else {
        return;
    };
    if let Err((text, _)) = check_name(name) {
        assert!(is_a_line(&text), "{text:?}");
        return;
    }
    assert!(is_a_line(name) && !name.contains(':'), "{name:?}");
    // Where there are none, the variable is empty, which is one empty name.
    let passed: Vec<_> = (FIRST..)
        .zip(names.split(':').map(str::to_owned))
        .skip(usize::from(names.is_empty()))
        .collect();
    let having = passed.iter().filter(|(_, other)| other == name).count();
    match (find(name, &passed), name.parse::<usize>()) {
        (Ok(number), Ok(place)) => assert_eq!(passed[place].0, number),
        (Ok(number), Err(_)) => {
            assert!(having == 1 && passed.contains(&(number, name.to_owned())), "{name}: {number}");
        }
        (Err(_), Ok(place)) => assert!(place >= passed.len(), "{place} is there"),
        (Err(_), Err(_)) => assert_ne!(having, 1, "{name:?} is there once"),
    }
}

fn is_a_line(text: &str) -> bool {
    !text.is_empty() && !text.chars().any(char::is_control)
}
