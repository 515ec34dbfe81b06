//! The URLs that a proof may be for: the gateway's public origins, and whether a proof's `htu` is one
//! of them with the path that was asked for.
//!
//! Invariant: two URLs count as the same only where every reader would say so. Letter case of scheme
//! and host, the default port, a query and a fragment make no difference (RFC 3986 6.2.2 and 6.2.3,
//! RFC 9449 4.3). A path has one spelling here as it has in `route`: percent signs and dot segments
//! in it are another path.

use std::net::{IpAddr, Ipv6Addr};

use thiserror::Error;

/// An origin at which clients reach the gateway, such as `https://gateway.example`.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct PublicUrl {
    secure: bool,
    host: Box<str>,
    port: u16,
}

/// Why a text is no such origin. It repeats nothing of the text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum PublicUrlError {
    /// Something else than scheme, host and port.
    #[error("is not a scheme, a host and perhaps a port")]
    NotAnOrigin,
    /// Tokens would travel in the clear.
    #[error("is neither https nor plain http to a loopback address")]
    NotSecure,
}

impl PublicUrl {
    /// Reads an origin; one `/` may stand at its end.
    pub fn parse(text: &str) -> Result<Self, PublicUrlError> {
        let target = Target::parse(text).ok_or(PublicUrlError::NotAnOrigin)?;
        if text.contains(['?', '#']) || !matches!(target.path, "" | "/") || !is_host(target.host) {
            return Err(PublicUrlError::NotAnOrigin);
        }
        if !target.secure && !is_loopback(target.host) {
            return Err(PublicUrlError::NotSecure);
        }
        Ok(Self {
            secure: target.secure,
            host: target.host.to_ascii_lowercase().into(),
            port: target.port,
        })
    }

    /// Whether `url` is this origin with `path`.
    pub(super) fn leads_to(&self, url: &str, path: &str) -> bool {
        Target::parse(url).is_some_and(|target| {
            target.secure == self.secure
                && target.host.eq_ignore_ascii_case(&self.host)
                && target.port == self.port
                && target.path == path
        })
    }
}

/// An absolute http(s) URL in parts, without its query and fragment.
struct Target<'u> {
    secure: bool,
    host: &'u str,
    port: u16,
    path: &'u str,
}

impl<'u> Target<'u> {
    fn parse(url: &'u str) -> Option<Self> {
        let url = url.split(['?', '#']).next()?;
        let (scheme, rest) = url.split_once("://")?;
        let (secure, usual_port) = match scheme {
            s if s.eq_ignore_ascii_case("https") => (true, 443),
            s if s.eq_ignore_ascii_case("http") => (false, 80),
            _ => return None,
        };
        let (authority, path) = rest.split_at_checked(rest.find('/').unwrap_or(rest.len()))?;
        // A user name would count to the host, and so make it another.
        let (host, port) = match authority.rsplit_once(':') {
            // A colon within the brackets of an IPv6 address.
            Some((_, end)) if end.ends_with(']') => (authority, ""),
            Some(parts) => parts,
            None => (authority, ""),
        };
        let port = if port.is_empty() {
            usual_port
        } else if port.bytes().all(|b| b.is_ascii_digit()) {
            port.parse().ok()?
        } else {
            return None;
        };
        Some(Self {
            secure,
            host,
            port,
            path,
        })
    }
}

/// A name or an address, and no pattern of one.
fn is_host(host: &str) -> bool {
    if let Some(address) = in_brackets(host) {
        return address.parse::<Ipv6Addr>().is_ok();
    }
    let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_');
    !host.is_empty() && host.bytes().all(plain)
}

fn is_loopback(host: &str) -> bool {
    let address: Option<IpAddr> = in_brackets(host).unwrap_or(host).parse().ok();
    address.is_some_and(|address| address.to_canonical().is_loopback())
        || host.eq_ignore_ascii_case("localhost")
}

fn in_brackets(host: &str) -> Option<&str> {
    host.strip_prefix('[')?.strip_suffix(']')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_public_url_is_an_origin_over_tls_or_on_this_machine() {
        for good in [
            "https://gateway.example",
            "https://gateway.example/",
            "HTTPS://Gateway.Example:8443",
            "https://[2001:db8::1]:444",
            "http://127.0.0.1:8080",
            "http://[::1]",
            "http://localhost:8080",
        ] {
            assert!(PublicUrl::parse(good).is_ok(), "{good}");
        }
        for bad in [
            "",
            "gateway.example",
            "//gateway.example",
            "ftp://gateway.example",
            "https://",
            "https:///",
            "https://:443",
            "https://user@gateway.example",
            "https://gateway.example/v3",
            "https://gateway.example//",
            "https://gateway.example?",
            "https://gateway.example#",
            "https://*.example",
            "https://gateway.example:65536",
            "https://gateway.example:+443",
            "https://gateway.example, https://b.example",
            "https://gatew\u{e4}y.example",
            "https://[::1",
            "https://[gateway]",
            " https://gateway.example",
        ] {
            let error = Err(PublicUrlError::NotAnOrigin);
            assert_eq!(PublicUrl::parse(bad), error, "{bad}");
        }
        for bad in [
            "http://gateway.example",
            "http://10.0.0.1",
            "http://localhost.example",
        ] {
            assert_eq!(PublicUrl::parse(bad), Err(PublicUrlError::NotSecure));
        }
    }
}
