//! The header of the PROXY protocol, versions 1 (text) and 2 (binary): whom a proxy speaks for.
//!
//! Pure. Invariants: it is read strictly and from its first byte on; a part of a header is never
//! taken for one; its length is bounded before its bytes are waited for, and the bytes behind it are
//! not looked at.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use thiserror::Error;

use crate::address::Client;

/// The longest header of version 1, line end included.
const V1_MAX: usize = 107;

/// What a header of version 2 may announce behind its fixed part: the addresses take up to 216
/// bytes, the rest are extensions that say nothing here (a client certificate's name, a checksum).
const V2_MAX: u16 = 4096;

/// The fixed part of version 2.
const V2_FIXED: usize = 16;

/// The longest header there is.
pub(super) const MAX: usize = 16 + 4096;

const V1_START: &[u8] = b"PROXY ";
const V2_START: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";

/// Whom a connection is opened for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Origin {
    /// A client, as far as the proxy knows it.
    Client(Client),
    /// The proxy itself, which looks whether we live.
    Proxy,
}

/// A header that was read, and its length.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Header {
    pub(super) origin: Origin,
    pub(super) length: usize,
}

/// The bytes are not the beginning of a header.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("the connection does not begin with a PROXY header")]
pub(super) struct Malformed;

/// Reads the header at the start of what came so far; `None` where more has to come.
pub(super) fn parse(bytes: &[u8]) -> Result<Option<Header>, Malformed> {
    if bytes.starts_with(V1_START) {
        return parse_v1(bytes);
    }
    if bytes.starts_with(V2_START) {
        return parse_v2(bytes);
    }
    // Whatever else there is will not become one.
    let may_become = V1_START.starts_with(bytes) || V2_START.starts_with(bytes);
    if may_become { Ok(None) } else { Err(Malformed) }
}

fn parse_v1(bytes: &[u8]) -> Result<Option<Header>, Malformed> {
    let window = bytes.get(..V1_MAX).unwrap_or(bytes);
    let Some(end) = memchr::memmem::find(window, b"\r\n") else {
        return if bytes.len() < V1_MAX {
            Ok(None)
        } else {
            Err(Malformed)
        };
    };
    let line = window.get(V1_START.len()..end).ok_or(Malformed)?;
    let client = match line.strip_prefix(b"UNKNOWN") {
        // What follows is to be ignored, by the protocol's own word.
        Some(rest) if rest.is_empty() || rest.starts_with(b" ") => Client::Unknown,
        Some(_) => return Err(Malformed),
        None => named(line).ok_or(Malformed)?.into(),
    };
    Ok(Some(Header {
        origin: Origin::Client(client),
        length: end + 2,
    }))
}

/// `TCP4 SOURCE DESTINATION PORT PORT`, or the same with `TCP6`: the source.
fn named(line: &[u8]) -> Option<IpAddr> {
    let mut words = str::from_utf8(line).ok()?.split(' ');
    let family = words.next()?;
    let address = |text: &str| match family {
        "TCP4" => text.parse::<Ipv4Addr>().ok().map(IpAddr::V4),
        "TCP6" => text.parse::<Ipv6Addr>().ok().map(IpAddr::V6),
        _ => None,
    };
    let source = address(words.next()?)?;
    address(words.next()?)?;
    port(words.next()?)?;
    port(words.next()?)?;
    words.next().is_none().then_some(source)
}

/// Decimal without sign or leading zeros.
fn port(text: &str) -> Option<u16> {
    let plain = text == "0" || text.starts_with(|c: char| ('1'..='9').contains(&c));
    text.parse().ok().filter(|_| plain)
}

fn parse_v2(bytes: &[u8]) -> Result<Option<Header>, Malformed> {
    let Some((fixed, rest)) = bytes.split_at_checked(V2_FIXED) else {
        return Ok(None);
    };
    let Some([command, family, high, low]) = fixed.last_chunk() else {
        return Err(Malformed);
    };
    let length = u16::from_be_bytes([*high, *low]);
    let block = rest.get(..usize::from(length));
    let kind = Kind::of(*command, *family)?;
    if length > V2_MAX || length < kind.least() {
        return Err(Malformed);
    }
    let Some(block) = block else { return Ok(None) };
    Ok(Some(Header {
        origin: kind.origin(block).ok_or(Malformed)?,
        length: V2_FIXED + block.len(),
    }))
}

/// What stands behind the fixed part of version 2.
#[derive(Clone, Copy)]
enum Kind {
    Ipv4,
    Ipv6,
    /// Nothing that counts: the connection is the proxy's own.
    Local,
    Unix,
    Unspecified,
}

impl Kind {
    fn of(command: u8, family: u8) -> Result<Self, Malformed> {
        match (command, family) {
            // With this command the family is to be ignored, by the protocol's own word.
            (0x20, _) => Ok(Self::Local),
            (0x21, 0x00) => Ok(Self::Unspecified),
            // Over datagrams too: a proxy may speak HTTP/3 to its client.
            (0x21, 0x11 | 0x12) => Ok(Self::Ipv4),
            (0x21, 0x21 | 0x22) => Ok(Self::Ipv6),
            (0x21, 0x31 | 0x32) => Ok(Self::Unix),
            _ => Err(Malformed),
        }
    }

    /// The bytes of two addresses and two ports.
    const fn least(self) -> u16 {
        match self {
            Self::Ipv4 => 12,
            Self::Ipv6 => 36,
            Self::Local | Self::Unspecified => 0,
            Self::Unix => 216,
        }
    }

    fn origin(self, block: &[u8]) -> Option<Origin> {
        let source = match self {
            Self::Ipv4 => IpAddr::from(*block.first_chunk::<4>()?),
            Self::Ipv6 => IpAddr::from(*block.first_chunk::<16>()?),
            Self::Local => return Some(Origin::Proxy),
            Self::Unix | Self::Unspecified => return Some(Origin::Client(Client::Unknown)),
        };
        Some(Origin::Client(source.into()))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn v2(command: u8, family: u8, length: u16, block: &[u8]) -> Vec<u8> {
        let mut header = V2_START.to_vec();
        header.extend([command, family]);
        header.extend(length.to_be_bytes());
        header.extend(block);
        header
    }

    fn client(address: &str) -> Origin {
        Origin::Client(address.parse::<IpAddr>().unwrap().into())
    }

    const UNKNOWN: Origin = Origin::Client(Client::Unknown);

    /// Every kind of header, and whom it names.
    fn good() -> Vec<(Vec<u8>, Origin)> {
        let text = |line: &str| format!("{line}\r\n").into_bytes();
        let longest = "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff";
        let mut v6 = [0; 36];
        v6[..4].copy_from_slice(&[0x20, 0x01, 0x0d, 0xb8]);
        let v4 = [192, 0, 2, 1, 10, 0, 0, 1, 1, 2, 3, 4];
        let with_extensions = [v4.as_slice(), &[7; 3000]].concat();
        vec![
            (
                text("PROXY TCP4 192.0.2.1 10.0.0.1 65535 0"),
                client("192.0.2.1"),
            ),
            (
                text("PROXY TCP6 2001:db8::1 ::1 1 443"),
                client("2001:db8::1"),
            ),
            (
                text("PROXY TCP6 ::ffff:192.0.2.1 ::1 1 443"),
                client("192.0.2.1"),
            ),
            (
                text(&format!("PROXY TCP6 {longest} {longest} 65535 65535")),
                client(longest),
            ),
            (text("PROXY UNKNOWN"), UNKNOWN),
            (
                text(&format!("PROXY UNKNOWN {longest} {longest} 65535 65535")),
                UNKNOWN,
            ),
            (v2(0x21, 0x11, 12, &v4), client("192.0.2.1")),
            (v2(0x21, 0x12, 12, &v4), client("192.0.2.1")),
            (v2(0x21, 0x11, 3012, &with_extensions), client("192.0.2.1")),
            (v2(0x21, 0x21, 36, &v6), client("2001:db8::")),
            (v2(0x21, 0x31, 216, &[b'a'; 216]), UNKNOWN),
            (v2(0x21, 0x00, 0, &[]), UNKNOWN),
            (v2(0x20, 0x00, 0, &[]), Origin::Proxy),
            (v2(0x20, 0x11, 12, &v4), Origin::Proxy),
            (v2(0x20, 0xff, 4096, &[0; 4096]), Origin::Proxy),
        ]
    }

    #[test]
    fn a_header_is_read_whole_and_what_follows_it_is_left_alone() {
        for (mut bytes, origin) in good() {
            let length = bytes.len();
            let header = Header { origin, length };
            for cut in 0..length {
                assert_eq!(parse(&bytes[..cut]), Ok(None), "{cut} of {bytes:?}");
            }
            assert_eq!(parse(&bytes), Ok(Some(header)));
            bytes.extend(b"\r\nPROXY TCP4 6.6.6.6 6.6.6.6 1 1\r\n");
            assert_eq!(parse(&bytes), Ok(Some(header)));
            assert!(length <= MAX);
        }
    }

    #[test]
    fn what_is_not_exactly_a_header_is_refused() {
        let long = format!("PROXY UNKNOWN {}\r\n", "x".repeat(92));
        assert_eq!(long.len(), V1_MAX + 1);
        let text = [
            "GET / HTTP/1.1\r\n",
            "PRI * HTTP/2.0\r\n",
            "proxy TCP4",
            "PROXY\tTCP4",
            "PROXY  TCP4 192.0.2.1 10.0.0.1 1 1\r\n",
            "PROXY TCP4 192.0.2.1 10.0.0.1 1 1 \r\n",
            "PROXY TCP4 192.0.2.1 10.0.0.1 1 1 1\r\n",
            "PROXY TCP4 192.0.2.1 10.0.0.1 1\r\n",
            "PROXY TCP4 192.0.2.1 10.0.0.1 01 1\r\n",
            "PROXY TCP4 192.0.2.1 10.0.0.1 +1 1\r\n",
            "PROXY TCP4 192.0.2.1 10.0.0.1 1 65536\r\n",
            "PROXY TCP4 192.0.2.1 10.0.0.1 1 -\r\n",
            "PROXY TCP4 192.0.2.01 10.0.0.1 1 1\r\n",
            "PROXY TCP4 192.0.2.1 nowhere 1 1\r\n",
            "PROXY TCP4 ::1 ::1 1 1\r\n",
            "PROXY TCP6 192.0.2.1 ::1 1 1\r\n",
            "PROXY UDP4 192.0.2.1 10.0.0.1 1 1\r\n",
            "PROXY UNKNOWNS\r\n",
            "PROXY \r\n",
            "PROXY TCP4 192.0.2.1\r10.0.0.1 1 1\r\n",
            &long,
        ];
        for text in text {
            assert_eq!(parse(text.as_bytes()), Err(Malformed), "{text:?}");
        }
        // As soon as its end cannot come in time.
        assert_eq!(parse(&long.as_bytes()[..V1_MAX - 1]), Ok(None));
        assert_eq!(parse(&long.as_bytes()[..V1_MAX]), Err(Malformed));
        for bytes in [
            v2(0x11, 0x11, 12, &[0; 12]),
            v2(0x22, 0x11, 12, &[0; 12]),
            v2(0x21, 0x13, 12, &[0; 12]),
            v2(0x21, 0x01, 12, &[0; 12]),
            v2(0x21, 0x41, 12, &[0; 12]),
            // Too short for the family, and too long for anyone: both before the rest is waited for.
            v2(0x21, 0x11, 11, &[]),
            v2(0x21, 0x21, 35, &[]),
            v2(0x21, 0x31, 215, &[]),
            v2(0x21, 0x11, 4097, &[]),
            v2(0x20, 0x00, u16::MAX, &[]),
            b"\r\n\r\nGET /".to_vec(),
        ] {
            assert_eq!(parse(&bytes), Err(Malformed), "{bytes:?}");
        }
    }

    /// Headers, parts of them and their likes, spoilt in a few places.
    fn nearly() -> impl Strategy<Value = Vec<u8>> {
        let spoil = proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..4);
        let base = proptest::sample::select(good());
        (base, spoil, any::<prop::sample::Index>()).prop_map(|((mut bytes, _), spoil, cut)| {
            for (at, byte) in spoil {
                let at = at.index(bytes.len());
                bytes[at] = byte;
            }
            bytes.truncate(cut.index(bytes.len() + 1));
            bytes
        })
    }

    proptest! {
        #[test]
        fn no_part_of_a_header_is_accepted_and_nothing_panics(
            bytes in prop_oneof![nearly(), proptest::collection::vec(any::<u8>(), 0..300)],
            more in proptest::collection::vec(any::<u8>(), 0..40),
        ) {
            let judged = parse(&bytes);
            let longer = parse(&[bytes.as_slice(), &more].concat());
            match judged {
                // Neither verdict is changed by what comes after it.
                Ok(Some(header)) => {
                    prop_assert!(header.length <= bytes.len());
                    prop_assert_eq!(longer, judged);
                    for cut in 0..header.length {
                        prop_assert_eq!(parse(&bytes[..cut]), Ok(None));
                    }
                }
                Err(Malformed) => prop_assert_eq!(longer, judged),
                // So the reader, who reads no more than that, comes to an end.
                Ok(None) => prop_assert!(bytes.len() < MAX),
            }
        }
    }
}
