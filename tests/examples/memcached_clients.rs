//! The memcached example and the clients the world has.

use std::path::PathBuf;
use std::process::{Command, Output};

use crate::support::{Example, program, skipped};

#[track_caller]
fn success(output: &Output) -> String {
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{text}{}", String::from_utf8_lossy(&output.stderr));
    text
}

#[test]
fn memccapable_passes_all_its_tests_of_the_text_protocol() {
    let Some(memccapable) = program("memccapable") else { return };
    for threads in ["1", "4"] {
        let example = Example::start_with("memcached", &["--workers", threads]);
        let mut command = Command::new(&memccapable);
        let address = example.tcp;
        command.args(["-a", "-t", "20", "-h", "127.0.0.1", "-p", &address.port().to_string()]);
        let text = success(&command.output().unwrap());
        assert_eq!(text.matches("[pass]").count(), 27, "{text}");
    }
}

#[test]
fn memcping_and_memcstat_find_it_alive() {
    let (Some(memcping), Some(memcstat)) = (program("memcping"), program("memcstat")) else {
        return;
    };
    let example = Example::start("memcached");
    let server = format!("--servers={}", example.tcp);
    success(&Command::new(memcping).arg(&server).output().unwrap());
    let text = success(&Command::new(memcstat).arg(&server).output().unwrap());
    assert!(
        text.contains("version: 1.5.22") && text.contains("limit_maxbytes: 67108864"),
        "{text}"
    );
}

/// A Python that has the package; Debian's may be another than the first in the path.
fn python_with(package: &str) -> Option<PathBuf> {
    let has = |python: &PathBuf| {
        let import = Command::new(python).args(["-c", &format!("import {package}")]).output();
        import.is_ok_and(|output| output.status.success())
    };
    let found = [PathBuf::from("python3"), PathBuf::from("/usr/bin/python3")].into_iter().find(has);
    if found.is_none() {
        skipped(&format!("no {package}"));
    }
    found
}

const SESSION: &str = r"
import sys
from pymemcache.client.base import Client
from pymemcache.exceptions import MemcacheClientError, MemcacheServerError

c = Client(('127.0.0.1', int(sys.argv[1])), timeout=20, connect_timeout=20)
assert c.set('a', b'1', noreply=False) and c.get('a') == b'1'
assert c.add('a', b'2', noreply=False) is False and c.replace('a', b'5', noreply=False)
assert c.append('a', b'0', noreply=False) and c.prepend('a', b'1', noreply=False) and c.get('a') == b'150'
assert c.incr('a', 3) == 153 and c.decr('a', 1000) == 0 and c.incr('none', 1) is None
value, cas = c.gets('a')
assert c.cas('a', b'new', cas, noreply=False) and c.cas('a', b'newer', cas, noreply=False) is False
assert c.cas('none', b'x', cas, noreply=False) is None
many = {'key%d' % i: b'value %d' % i for i in range(1000)}
assert c.set_many(many, noreply=False) == [] and c.get_many(many) == many
assert len(c.gets_many(many)) == 1000 and c.delete_many(list(many)[:500], noreply=False) and len(c.get_many(many)) == 500
assert c.touch('a', 100, noreply=False) and c.touch('none', noreply=False) is False
c.set('gone', b'x', expire=-1)
assert c.get('gone') is None
c.set('quiet', b'\r\n\0' * 1000, noreply=True)
assert c.get('quiet') == b'\r\n\0' * 1000
try:
    c.set('large', b'x' * 2000000, noreply=False)
    raise SystemExit('too large and stored')
except MemcacheServerError as error:
    assert b'too large' in error.args[0], error
try:
    c.incr('quiet', 1)
    raise SystemExit('no number and counted')
except MemcacheClientError:
    pass
assert c.stats()[b'limit_maxbytes'] and c.version() == b'1.5.22'
assert c.flush_all(noreply=False) and c.get('a') is None
c.quit()
print('well')
";

#[test]
fn a_session_of_pymemcache_goes_well() {
    let Some(python) = python_with("pymemcache") else { return };
    let example = Example::start("memcached");
    let port = example.tcp.port().to_string();
    let output = Command::new(python).args(["-c", SESSION, &port]).output();
    assert_eq!(success(&output.unwrap()), "well\n");
}
