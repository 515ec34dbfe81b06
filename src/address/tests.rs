use http::HeaderValue;
use proptest::prelude::*;

use super::{ForwardedHeader::*, *};

fn client(address: &str) -> Client {
    address.parse::<IpAddr>().unwrap().into()
}

fn networks(list: &[&str]) -> Networks {
    list.iter().map(|text| text.parse().unwrap()).collect()
}

fn rules(allow: &[&str], deny: &[&str]) -> AddressRules {
    AddressRules {
        allow: networks(allow),
        deny: networks(deny),
    }
}

/// The client behind 10.0.0.1, of the trusted 10.0.0.0/8 and `2001:db8:ffff::/48`.
fn behind(header: ForwardedHeader, lines: &[&[u8]]) -> Client {
    let proxies = TrustedProxies {
        networks: networks(&["10.0.0.0/8", "2001:db8:ffff::/48"]),
        header,
    };
    let mut headers = HeaderMap::new();
    let (own, other) = match header {
        Forwarded => (FORWARDED, X_FORWARDED_FOR),
        XForwardedFor => (X_FORWARDED_FOR, FORWARDED),
    };
    for line in lines {
        headers.append(&own, HeaderValue::from_bytes(line).unwrap());
    }
    // Passed on as a client wrote it: whatever it says, it says nothing.
    headers.append(&other, HeaderValue::from_static("for=6.6.6.6"));
    headers.append(&other, HeaderValue::from_static("6.6.6.6"));
    proxies.client(client("10.0.0.1"), &headers)
}

/// The lines of a header, and the client that they tell of.
type Row = (&'static [&'static str], Option<&'static str>);

const X_FORWARDED_FOR_LINES: &[Row] = &[
    (&["192.0.2.1"], Some("192.0.2.1")),
    (&["2001:db8::1"], Some("2001:db8::1")),
    (&[" 192.0.2.1\t, 10.2.3.4 ,10.9.9.9"], Some("192.0.2.1")),
    (&["192.0.2.1, 2001:db8:ffff::1"], Some("192.0.2.1")),
    (
        &["192.0.2.1:567, [2001:db8:ffff::1]:567"],
        Some("192.0.2.1"),
    ),
    (&["[2001:db8::1]:567"], Some("2001:db8::1")),
    (&["[2001:db8::1]"], Some("2001:db8::1")),
    // A client's own words stand to the left, whatever they are.
    (&["6.6.6.6, 192.0.2.1"], Some("192.0.2.1")),
    (&["10.0.0.9, 192.0.2.1"], Some("192.0.2.1")),
    (
        &["unknown, , \"\", x, 192.0.2.1, 10.0.0.2"],
        Some("192.0.2.1"),
    ),
    // Several lines are one list.
    (&["6.6.6.6", "192.0.2.1", "10.0.0.2"], Some("192.0.2.1")),
    (&["192.0.2.1", "10.0.0.3, 10.0.0.2"], Some("192.0.2.1")),
    (&["6.6.6.6, 192.0.2.1", "x"], None),
    // A mapped address is its IPv4 address, trusted or not.
    (&["::ffff:192.0.2.1"], Some("192.0.2.1")),
    (&["192.0.2.1, ::ffff:10.0.0.2"], Some("192.0.2.1")),
    (&["192.0.2.1, [::ffff:10.0.0.2]:1"], Some("192.0.2.1")),
    // All trusted: the leftmost. None at all: the proxy speaks for itself.
    (&["10.5.5.5, 10.0.0.2", "10.0.0.3"], Some("10.5.5.5")),
    (&[], Some("10.0.0.1")),
    // What is no address where one is needed.
    (&[""], None),
    (&["192.0.2.1,"], None),
    (&["192.0.2.1, , 10.0.0.2"], None),
    (&["192.0.2.1, unknown"], None),
    (&["192.0.2.1, _hidden, 10.0.0.2"], None),
    (&["192.0.2.256"], None),
    (&["192.0.2.01"], None),
    (&["3221225985"], None),
    (&["192.0.2.1/32"], None),
    (&["192.0.2.1 10.0.0.2"], None),
    (&["\"192.0.2.1\""], None),
    (&["for=192.0.2.1"], None),
    (&["192.0.2.1:"], None),
    (&["192.0.2.1:x"], None),
    (&["192.0.2.1:123456"], None),
    (&["192.0.2.1:1:1"], None),
    (&["[192.0.2.1]:1"], None),
    (&["[2001:db8::1"], None),
    (&["[2001:db8::1]567"], None),
    (&["2001:db8::1]:567"], None),
    (&["fe80::1%eth0"], None),
    (&["\u{e9}"], None),
];

#[test]
fn the_client_is_the_last_of_x_forwarded_for_that_is_no_trusted_proxy() {
    for (lines, expected) in X_FORWARDED_FOR_LINES {
        let bytes: Vec<&[u8]> = lines.iter().map(|line| line.as_bytes()).collect();
        let expected = expected.map_or(Client::Unknown, client);
        assert!(behind(XForwardedFor, &bytes) == expected, "{lines:?}");
    }
    let long = "6.6.6.6, ".repeat(999) + "192.0.2.1";
    assert!(behind(XForwardedFor, &[long.as_bytes()]) == client("192.0.2.1"));
    assert!(behind(XForwardedFor, &[b"192.0.2.1\xff"]) == Client::Unknown);
}

const FORWARDED_LINES: &[Row] = &[
    (&["for=192.0.2.1"], Some("192.0.2.1")),
    (&["For=192.0.2.1;Proto=https"], Some("192.0.2.1")),
    (
        &["proto=http;FOR=\"192.0.2.1:567\";by=203.0.113.43"],
        Some("192.0.2.1"),
    ),
    (&["for=\"192.0.2.1\""], Some("192.0.2.1")),
    (&["for=\"192.0.2.1:_port-1\""], Some("192.0.2.1")),
    (&["for=\"\\1\\92.0.2.1\""], Some("192.0.2.1")),
    (&["for=\"[2001:db8::1]\""], Some("2001:db8::1")),
    (&["for=\"[2001:db8::1]:4711\""], Some("2001:db8::1")),
    (&["for=\"[::ffff:192.0.2.1]\""], Some("192.0.2.1")),
    (&["for=192.0.2.1 , for=10.0.0.2;by=x"], Some("192.0.2.1")),
    (
        &["for=192.0.2.1, for=\"[2001:db8:ffff::1]:1\""],
        Some("192.0.2.1"),
    ),
    (&[";for=192.0.2.1;;by=_x;"], Some("192.0.2.1")),
    // Separators inside quotes are none.
    (
        &["for=192.0.2.1;by=\"a, for=6.6.6.6;for=6.6.6.6\""],
        Some("192.0.2.1"),
    ),
    (
        &["for=192.0.2.1;x=\"\\\", for=6.6.6.6\", for=10.0.0.2"],
        Some("192.0.2.1"),
    ),
    // A client's own words stand to the left.
    (&["for=6.6.6.6, for=192.0.2.1"], Some("192.0.2.1")),
    (&["for=, \"x\", ;, for=192.0.2.1"], Some("192.0.2.1")),
    (&["for=\"x", "for=192.0.2.1"], Some("192.0.2.1")),
    (
        &["for=6.6.6.6", "for=192.0.2.1", "for=10.0.0.2"],
        Some("192.0.2.1"),
    ),
    (&["for=10.5.5.5, for=10.0.0.2"], Some("10.5.5.5")),
    (&[], Some("10.0.0.1")),
    // A quote that a client left open may swallow what a proxy added, but never show another.
    (&["for=6.6.6.6;x=\", for=192.0.2.1"], None),
    (&["for=6.6.6.6;x=\", for=\"192.0.2.1:567\""], None),
    (
        &["for=6.6.6.6;x=\", for=\"[2001:db8::1]\";by=\"[::1]\""],
        None,
    ),
    (&["for=6.6.6.6;x=\"\\, for=\"[2001:db8::1]\""], None),
    // Nobody, by design or by mistake.
    (&[""], None),
    (&["for=192.0.2.1,"], None),
    (&["for=unknown"], None),
    (&["for=_hidden"], None),
    (&["for=\"_gazonk\", for=10.0.0.2"], None),
    (&["for=192.0.2.1, proto=https"], None),
    (&["192.0.2.1"], None),
    (&["for=192.0.2.1;for=192.0.2.1"], None),
    (&["for=192.0.2.1;FOR=6.6.6.6"], None),
    // Not as the grammar has it.
    (&["for=192.0.2.1; proto=https"], None),
    (&["for =192.0.2.1"], None),
    (&["for= 192.0.2.1"], None),
    (&["for=192.0.2.1:567"], None),
    (&["for=2001:db8::1"], None),
    (&["for=\"2001:db8::1\""], None),
    (&["for=[2001:db8::1]"], None),
    (&["for=\"[192.0.2.1]\""], None),
    (&["for=\"192.0.2.1:_\""], None),
    (&["for=\"192.0.2.1:123456\""], None),
    (&["for=\"192.0.2.1"], None),
    (&["for=\"192.0.2.1\\"], None),
    (&["for=\"192.0.2.1\"x"], None),
    (&["for=192.0.2.1;by"], None),
    (&["for=192.0.2.1;=x"], None),
    (&["for=192.0.2.1;by=a b"], None),
    (&["for=192.0.2.1;b y=a"], None),
    (&["for='192.0.2.1'"], None),
];

#[test]
fn the_client_is_the_last_for_of_forwarded_that_is_no_trusted_proxy() {
    for (lines, expected) in FORWARDED_LINES {
        let bytes: Vec<&[u8]> = lines.iter().map(|line| line.as_bytes()).collect();
        let expected = expected.map_or(Client::Unknown, client);
        assert!(behind(Forwarded, &bytes) == expected, "{lines:?}");
    }
    let long = "for=6.6.6.6, ".repeat(999) + "for=192.0.2.1";
    assert!(behind(Forwarded, &[long.as_bytes()]) == client("192.0.2.1"));
    assert!(behind(Forwarded, &[b"for=192.0.2.1;x=\"\xff\""]) == client("192.0.2.1"));
}

#[test]
fn a_header_of_anybody_else_changes_nothing() {
    let mut headers = HeaderMap::new();
    headers.append(X_FORWARDED_FOR, HeaderValue::from_static("6.6.6.6"));
    headers.append(FORWARDED, HeaderValue::from_static("for=6.6.6.6"));
    for header in [Forwarded, XForwardedFor] {
        for (trusted, peer) in [
            (&["10.0.0.0/8"][..], client("192.0.2.1")),
            (&["10.0.0.0/8"], Client::Unknown),
            (&["0.0.0.0/0"], client("2001:db8::1")),
            (&["::/0"], client("192.0.2.1")),
            (&[], client("10.0.0.1")),
            (&[], client("127.0.0.1")),
        ] {
            let networks = networks(trusted);
            let proxies = TrustedProxies { networks, header };
            assert!(proxies.client(peer, &headers) == peer, "{trusted:?}");
        }
    }
}

#[test]
fn deny_wins_and_a_client_that_is_not_known_is_refused_by_any_list() {
    let open = rules(&[], &[]);
    let allow = rules(&["192.0.2.0/24", "2001:db8::/32"], &[]);
    let deny = rules(&[], &["192.0.2.7", "2001:db8::/32"]);
    let both = rules(&["192.0.2.0/24"], &["192.0.2.7", "203.0.113.0/24"]);
    for (address, expected) in [
        ("192.0.2.1", [true, true, true, true]),
        ("192.0.2.7", [true, true, false, false]),
        ("::ffff:192.0.2.7", [true, true, false, false]),
        ("203.0.113.1", [true, false, true, false]),
        ("2001:db8::1", [true, true, false, false]),
        ("2001:db9::1", [true, false, true, false]),
    ] {
        let admitted =
            [&open, &allow, &deny, &both].map(|rules| rules.check(client(address)).is_ok());
        assert_eq!(admitted, expected, "{address}");
    }
    let admitted = [open, allow, deny, both].map(|rules| rules.check(Client::Unknown).is_ok());
    assert_eq!(admitted, [true, false, false, false]);
}

#[test]
fn a_network_is_written_without_bits_behind_its_prefix() {
    for (text, holds, holds_not) in [
        ("10.0.0.0/8", "10.255.0.1", "11.0.0.0"),
        ("192.0.2.7", "192.0.2.7", "192.0.2.6"),
        ("0.0.0.0/0", "255.255.255.255", "::"),
        ("2001:db8::/32", "2001:db8:ffff::", "2001:db9::"),
        ("::/0", "2001:db8::", "192.0.2.1"),
        ("::ffff:10.0.0.0/104", "10.1.1.1", "11.0.0.0"),
        ("::ffff:192.0.2.7", "192.0.2.7", "192.0.2.6"),
        ("::ffff:0:0/96", "192.0.2.7", "::1"),
    ] {
        let list = networks(&[text]);
        assert!(list.contains(holds.parse().unwrap()), "{text}");
        assert!(!list.contains(holds_not.parse().unwrap()), "{text}");
    }
    assert!(networks(&["10.0.0.0/8"]).contains("::ffff:10.1.1.1".parse().unwrap()));
    for (text, error) in [
        ("10.0.0.1/8", NetworkError::HostBits),
        ("2001:db8::1/64", NetworkError::HostBits),
        ("::ffff:10.0.0.1/104", NetworkError::HostBits),
        ("", NetworkError::Malformed),
        ("10.0.0.0/33", NetworkError::Malformed),
        ("10.0.0.0/", NetworkError::Malformed),
        ("10.0.0.0/+8", NetworkError::Malformed),
        ("10.0.0.0/8/8", NetworkError::Malformed),
        ("10.0.0/8", NetworkError::Malformed),
        ("10.0.0.010", NetworkError::Malformed),
        (" 10.0.0.1", NetworkError::Malformed),
        ("10.0.0.0/255.0.0.0", NetworkError::Malformed),
        ("[::1]", NetworkError::Malformed),
        ("proxy.example", NetworkError::Malformed),
    ] {
        assert_eq!(text.parse::<Network>(), Err(error), "{text:?}");
    }
}

#[test]
fn an_address_prints_as_the_network_that_it_is_in() {
    for (client, text) in [
        (client("192.0.2.77"), "192.0.2.0/24"),
        (client("::ffff:192.0.2.77"), "192.0.2.0/24"),
        (client("2001:db8:1:2:3:4:5:6"), "2001:db8:1::/48"),
        (client("::1"), "::/48"),
        (Client::Unknown, "unknown"),
    ] {
        assert_eq!(client.to_string(), text);
        assert_eq!(format!("{client:?}"), text);
    }
}

proptest! {
    #[test]
    fn what_a_client_writes_never_shows_an_address_that_no_proxy_named(
        pieces in proptest::collection::vec(
            proptest::sample::select(&[
                "for=", "6.6.6.6", "[6::6]", "\"", "\\", ",", ";", "=", " ", ":", "x", "10.0.0.6",
            ][..]),
            0..14,
        ),
    ) {
        let own = pieces.concat();
        let appended = |text: &str| [own.as_bytes(), text.as_bytes()].concat();
        // As a proxy adds to the same line, in each of the ways it may write an element.
        for added in [
            ", for=192.0.2.1",
            ", for=\"192.0.2.1:567\"",
            ", for=192.0.2.1;by=\"[2001:db8:ffff::1]\";proto=https",
            ", for=192.0.2.1, for=10.0.0.9",
        ] {
            let found = behind(Forwarded, &[&appended(added)]);
            prop_assert!(found == client("192.0.2.1") || found == Client::Unknown);
        }
        for added in [", 192.0.2.1", ", 192.0.2.1:567, 10.0.0.9"] {
            prop_assert!(behind(XForwardedFor, &[&appended(added)]) == client("192.0.2.1"));
        }
    }
}
