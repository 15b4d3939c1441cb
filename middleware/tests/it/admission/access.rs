//! Connections allowed and denied by address.

use std::net::{IpAddr, SocketAddr};

use ropewalk_middleware::access::{AccessLayer, AccessRules, Verdict};
use ropewalk_middleware::{Addr, CloseReason, Connection, Peer, Stream};
use tokio::io::{AsyncReadExt, DuplexStream, duplex};
use tower::{Layer, Service};

use crate::common::{Hold, settle};

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn from(addr: impl Into<Addr>) -> (Connection, DuplexStream) {
    let (ours, theirs) = duplex(1024);
    (Connection::new(Stream::from_io(ours), Peer::new(addr)), theirs)
}

fn from_ip(text: &str) -> (Connection, DuplexStream) {
    from(SocketAddr::new(ip(text), 40_000))
}

fn rules(text: &str) -> AccessRules {
    text.parse().unwrap()
}

fn allowed(rules: &AccessRules, text: &str) -> bool {
    rules.of_ip(ip(text)) == Verdict::Allow
}

#[test]
fn the_longest_prefix_decides_whatever_the_order() {
    let lines =
        ["deny 10.0.0.0/8", "allow 10.1.0.0/16", "deny 10.1.2.0/24", "allow 10.1.2.3", "allow all"];
    let forward = rules(&lines.join("\n"));
    let mut backward = lines;
    backward.reverse();
    for rules in [forward, rules(&backward.join("\n"))] {
        for (address, expected) in [
            ("10.0.0.1", false),
            ("10.1.0.1", true),
            ("10.1.2.1", false),
            ("10.1.2.3", true),
            ("10.1.2.4", false),
            ("11.0.0.0", true),
            ("9.255.255.255", true),
        ] {
            assert_eq!(allowed(&rules, address), expected, "{address}");
        }
    }
}

#[test]
fn ipv6_networks_end_at_their_prefix() {
    let rules = rules("allow 2001:db8:1:2::/64\ndeny all");
    assert!(allowed(&rules, "2001:db8:1:2::"));
    assert!(allowed(&rules, "2001:db8:1:2:ffff:ffff:ffff:ffff"));
    assert!(!allowed(&rules, "2001:db8:1:3::"));
    assert!(!allowed(&rules, "2001:db8:1:1:ffff:ffff:ffff:ffff"));
}

#[test]
fn a_mapped_address_and_a_mapped_network_are_ipv4() {
    let v4 = rules("allow 192.0.2.0/24\ndeny all");
    assert!(allowed(&v4, "::ffff:192.0.2.9") && !allowed(&v4, "::ffff:192.0.3.9"));
    let mapped = rules("allow ::ffff:192.0.2.0/120\ndeny all");
    assert!(
        allowed(&mapped, "192.0.2.9")
            && allowed(&mapped, "::ffff:192.0.2.9")
            && !allowed(&mapped, "192.0.3.9")
    );
    assert_eq!(mapped, v4);
    // A rule for all of IPv6 says nothing of IPv4.
    let v6 = rules("deny ::/0\nallow all");
    assert!(allowed(&v6, "192.0.2.9") && !allowed(&v6, "2001:db8::1"));
}

#[test]
fn a_later_rule_for_the_same_network_replaces_the_earlier_one() {
    let rules = rules("allow 192.0.2.0/24\ndeny 192.0.2.77/24\nallow all");
    assert_eq!((rules.len(), rules.is_empty()), (1, false));
    assert!(!allowed(&rules, "192.0.2.1"));
}

#[test]
fn an_invalid_line_is_named_with_its_number_and_the_fix() {
    let error = |text: &str| text.parse::<AccessRules>().unwrap_err();
    for (text, line, says) in [
        (
            "allow 10.0.0.0/8\nallow\ndeny all",
            2,
            "line 2: a rule is `allow NETWORK` or `deny NETWORK`",
        ),
        ("permit 10.0.0.0/8\ndeny all", 1, "line 1: a rule is `allow NETWORK` or `deny NETWORK`"),
        ("# x\n\nallow 10.0.0.0/33\ndeny all", 3, "line 3: 10.0.0.0/33 is not a network: write"),
        ("allow 10.0.0\x1b[2J\ndeny all", 1, r"line 1: 10.0.0\x1b[2J is not a network: write"),
        ("allow 10.0.0.0/8\n", 1, "line 1: the last rule is missing: `allow all` or `deny all`"),
        ("identity colour=red\ndeny all", 1, "line 1: "),
        ("", 0, "line 0: the last rule is missing: `allow all` or `deny all`"),
    ] {
        let error = error(text);
        assert_eq!(error.line(), line, "{text:?}");
        assert!(error.to_string().starts_with(says), "{error}");
    }
}

#[tokio::test]
async fn a_denied_peer_gets_the_text_and_the_reason_and_never_reaches_the_service() {
    let hold = Hold::default();
    let mut service = AccessLayer::new(rules("deny 192.0.2.0/24\nallow all"))
        .refuse_with("no\r\n")
        .layer(hold.clone());
    let (connection, mut theirs) = from_ip("192.0.2.1");
    let closing = connection.closing();
    let refused = tokio::spawn(service.call(connection));
    let mut text = [0; 4];
    theirs.read_exact(&mut text).await.unwrap();
    assert_eq!(&text, b"no\r\n");
    drop(theirs);
    refused.await.unwrap().unwrap();
    assert_eq!((closing.reason(), hold.ever()), (Some(CloseReason::AccessDenied), 0));

    let (connection, _theirs) = from_ip("192.0.3.1");
    let _task = tokio::spawn(service.call(connection));
    settle().await;
    assert_eq!(hold.now(), 1);
}

#[tokio::test]
async fn new_rules_act_for_every_clone_and_leave_open_connections_alone() {
    let (layer, hold) = (AccessLayer::new(AccessRules::allow_all()), Hold::default());
    let mut clone = layer.clone().layer(hold.clone()).clone();
    let (connection, _open) = from_ip("192.0.2.1");
    let _task = tokio::spawn(clone.call(connection));
    settle().await;

    layer.replace(AccessRules::deny_all());
    let (connection, _refused) = from_ip("192.0.2.1");
    let closing = connection.closing();
    let _task = tokio::spawn(clone.call(connection));
    settle().await;
    assert_eq!(closing.reason(), Some(CloseReason::AccessDenied));
    assert_eq!((hold.now(), hold.ever()), (1, 1));
    assert_eq!(*layer.rules(), AccessRules::deny_all());
}

#[tokio::test]
async fn peers_without_an_address_are_allowed_unless_the_rules_say_otherwise() {
    for (rules, expected) in [
        (AccessRules::deny_all(), None),
        (AccessRules::allow_all().without_address(Verdict::Deny), Some(CloseReason::AccessDenied)),
    ] {
        for addr in [Addr::Memory, Addr::Unix(None)] {
            let mut service = AccessLayer::new(rules.clone()).layer(Hold::default());
            let (connection, _theirs) = from(addr);
            let closing = connection.closing();
            let _task = tokio::spawn(service.call(connection));
            settle().await;
            assert_eq!(closing.reason(), expected);
        }
    }
}

#[test]
fn the_networks_that_have_a_rule_are_counted_in_both_families() {
    assert_eq!((AccessRules::deny_all().len(), AccessRules::deny_all().is_empty()), (0, true));
    let rules = rules("allow 192.0.2.0/24\nallow 192.0.3.0/24\ndeny 2001:db8::/32\nallow all");
    assert_eq!((rules.len(), rules.is_empty()), (3, false));
}
