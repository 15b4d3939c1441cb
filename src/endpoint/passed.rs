//! Finds the requested one of the sockets that a service manager passed. Without I/O: the variables
//! are read in `inherited.rs`.

use std::ffi::OsStr;
use std::os::fd::RawFd;

/// The longest name that a service manager uses.
const MAX_NAME: usize = 255;

/// The problem of a text, and the text to write instead.
pub(super) type Mistake = (String, &'static str);

pub(super) fn check_name(name: &str) -> Result<(), Mistake> {
    let fix =
        "write systemd:NAME, by FileDescriptorName= in the socket unit, or systemd:0 for the first";
    if name.is_empty() {
        return Err(("there is no name".to_owned(), fix));
    }
    if name.len() > MAX_NAME {
        return Err((format!("the name has {} bytes, which is over {MAX_NAME}", name.len()), fix));
    }
    match name.chars().find(|c| !c.is_ascii_graphic() || matches!(c, ':' | '?' | '%')) {
        Some(c) => Err((format!("{c:?} in {name:?} is not part of a socket's name"), fix)),
        None => Ok(()),
    }
}

/// Why no socket was passed to this process, whose ID is `own`, although LISTEN_FDS is set: the
/// sockets were passed to the process that LISTEN_PID names, or to no process.
pub(super) fn misdirected(pid: Option<&OsStr>, own: u32) -> Option<String> {
    let problem = match pid {
        None => "LISTEN_FDS is set and LISTEN_PID is not".to_owned(),
        Some(pid) => match pid.to_str().and_then(|pid| pid.parse::<u32>().ok()) {
            Some(pid) if pid == own => return None,
            Some(pid) => format!("LISTEN_PID names process {pid}, and this is process {own}"),
            None => format!("LISTEN_PID is {pid:?}, which is not a process"),
        },
    };
    Some(format!(
        "no socket was passed to this process: {problem}. Where a shell or another program stands between the service manager \
         and this one, have it start this one by exec; or listen on fd:3, which does not need LISTEN_PID"
    ))
}

/// The descriptor number for a name or an index, or the names that exist.
pub(super) fn find(name: &str, passed: &[(RawFd, String)]) -> Result<RawFd, String> {
    if passed.is_empty() {
        return Err(
            "no socket was passed to this process (LISTEN_FDS and LISTEN_PID name no socket): start it by its socket \
                    unit, or try it with systemd-socket-activate"
                .to_owned(),
        );
    }
    if let Ok(place) = name.parse::<usize>() {
        let last = passed.len() - 1;
        let missing =
            || format!("the sockets passed to this process are systemd:0 to systemd:{last}");
        return passed.get(place).map(|&(number, _)| number).ok_or_else(missing);
    }
    let mut named = passed.iter().enumerate().filter(|(_, (_, other))| other == name);
    match (named.next(), named.next()) {
        (Some((_, &(number, _))), None) => Ok(number),
        (Some((first, _)), Some((second, _))) => Err(format!(
            "several sockets have that name: name each by its index, systemd:{first}, systemd:{second}, or give them a \
             unit of their own"
        )),
        (None, _) => {
            let names: Vec<&str> = passed.iter().map(|(_, name)| name.as_str()).collect();
            Err(format!(
                "no socket of that name was passed to this process, only {}",
                names.join(", ")
            ))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::find;

    #[test]
    fn a_socket_is_found_by_its_name_or_its_index_and_by_nothing_else() {
        let passed = [(3, "web".to_owned()), (4, "admin".to_owned()), (5, "web".to_owned())];
        assert_eq!(find("admin", &passed), Ok(4));
        assert_eq!(find("2", &passed), Ok(5));
        for (name, said) in [
            ("web", "systemd:0, systemd:2"),
            ("mail", "only web, admin, web"),
            ("3", "systemd:0 to systemd:2"),
        ] {
            assert!(find(name, &passed).unwrap_err().contains(said), "{name}");
        }
        assert!(find("web", &[]).unwrap_err().contains("LISTEN_PID"));
    }
}
