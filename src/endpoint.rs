//! Where the gateway may send a request: https, or plain http that stays on this machine.
//!
//! Decides for every URL that the gateway calls, whether an operator wrote it or a key server named
//! it. Invariant: an [`Endpoint`] has a host, no user name or password, and is no plain http to another
//! machine. It does not print its path or query, in which something secret may stand.

use std::{fmt, net::IpAddr};

use http::{Uri, uri::Scheme};
use thiserror::Error;

/// A URL that may be called.
#[derive(Clone, PartialEq, Eq)]
pub struct Endpoint(Uri);

impl Endpoint {
    /// Reads an absolute URL.
    pub fn parse(text: &str) -> Result<Self, EndpointError> {
        // The parser drops a fragment silently, so the text itself is asked.
        if text.contains('#') {
            return Err(EndpointError::Fragment);
        }
        let uri: Uri = text.parse().map_err(|_| EndpointError::NotAbsolute)?;
        let (Some(scheme), Some(authority), Some(host)) =
            (uri.scheme(), uri.authority(), uri.host())
        else {
            return Err(EndpointError::NotAbsolute);
        };
        if authority.as_str().contains('@') {
            return Err(EndpointError::Userinfo);
        }
        if host.is_empty() || authority.port_u16() == Some(0) || authority.as_str().ends_with(':') {
            return Err(EndpointError::NoHost);
        }
        let plain = *scheme == Scheme::HTTP && is_loopback(host);
        if *scheme != Scheme::HTTPS && !plain {
            return Err(EndpointError::Insecure);
        }
        Ok(Self(uri))
    }

    /// The URL.
    pub const fn uri(&self) -> &Uri {
        &self.0
    }

    /// Whether it is encrypted; if not, it is on this machine.
    pub fn is_https(&self) -> bool {
        self.0.scheme() == Some(&Scheme::HTTPS)
    }

    /// Whether it has a query, an empty one included.
    pub fn has_query(&self) -> bool {
        self.0.query().is_some()
    }
}

fn is_loopback(host: &str) -> bool {
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    let ip: Option<IpAddr> = bare.parse().ok();
    ip.is_some_and(|ip| ip.to_canonical().is_loopback()) || host.eq_ignore_ascii_case("localhost")
}

impl fmt::Debug for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Endpoint").field(&self.0.host()).finish()
    }
}

/// Why a URL is not called.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum EndpointError {
    /// Something stands behind a `#`.
    #[error("has a fragment")]
    Fragment,
    /// Neither https nor plain http to a loopback address.
    #[error("is neither https nor plain http to a loopback address")]
    Insecure,
    /// Its host is empty or its port is.
    #[error("has no usable host and port")]
    NoHost,
    /// Not a URL with a scheme and a host.
    #[error("is not an absolute URL")]
    NotAbsolute,
    /// It has a query, where what it is for allows none.
    #[error("has a query")]
    Query,
    /// A user name or password stands before the host.
    #[error("holds a user name or password")]
    Userinfo,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_https_and_plain_http_to_this_machine_are_called() {
        for good in [
            "https://idp.example/keys",
            "https://idp.example:8443/keys?p=1",
            "HTTPS://idp.example",
            "http://127.0.0.1:8080/keys",
            "http://[::1]/keys",
            "http://[::ffff:127.0.0.1]/keys",
            "http://LocalHost:80/",
        ] {
            assert!(Endpoint::parse(good).is_ok(), "{good}");
        }
        for (bad, error) in [
            ("http://idp.example/keys", EndpointError::Insecure),
            ("http://localhost.example/", EndpointError::Insecure),
            ("http://127.1/", EndpointError::Insecure),
            ("http://0.0.0.0/", EndpointError::Insecure),
            ("ftp://127.0.0.1/", EndpointError::Insecure),
            ("file:///etc/passwd", EndpointError::NotAbsolute),
            ("https://u:p@idp.example/", EndpointError::Userinfo),
            ("http://127.0.0.1@idp.example/", EndpointError::Userinfo),
            ("https://idp.example/#keys", EndpointError::Fragment),
            ("https://idp.example:/", EndpointError::NoHost),
            ("https://idp.example:0/", EndpointError::NoHost),
            ("/keys", EndpointError::NotAbsolute),
            ("idp.example/keys", EndpointError::NotAbsolute),
            ("", EndpointError::NotAbsolute),
            ("https://", EndpointError::NotAbsolute),
            (
                "http://127.0.0.1\\@idp.example/",
                EndpointError::NotAbsolute,
            ),
        ] {
            assert_eq!(Endpoint::parse(bad), Err(error), "{bad}");
        }
    }

    #[test]
    fn an_endpoint_prints_its_host_alone() {
        let endpoint = Endpoint::parse("https://idp.example/canary?canary=1").unwrap();
        assert_eq!(format!("{endpoint:?}"), r#"Endpoint(Some("idp.example"))"#);
        assert!(endpoint.has_query());
    }
}
