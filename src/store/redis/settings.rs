//! What `[state.redis]` says.
//!
//! Invariant: no URL here holds a user or a password, so every part may be printed but [`Password`].

use std::{fmt, net::IpAddr, time::Duration};

use http::Uri;
use rustls_pki_types::CertificateDer;
use secrecy::{ExposeSecret, SecretString};
use subtle::ConstantTimeEq;
use thiserror::Error;

/// How Redis is reached, and what happens while it is away.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RedisSettings {
    /// The servers that are known beforehand; never empty.
    pub servers: Vec<Server>,
    /// What they are.
    pub mode: Mode,
    /// Who the gateway is there.
    pub login: Login,
    /// Who it is towards the sentinels.
    pub sentinel_login: Login,
    /// Authorities that are trusted besides the system's.
    pub roots: Vec<CertificateDer<'static>>,
    /// The number of the database.
    pub database: u16,
    /// How long a request waits for an answer.
    pub timeout: Duration,
    /// How long a connection may take to be usable, TLS and login included.
    pub connect_timeout: Duration,
    /// What every key begins with.
    pub prefix: String,
    /// How many gateways count on this Redis.
    pub nodes: u16,
    /// How much of a quota, in time, a gateway takes at once.
    pub lease: Duration,
    /// What becomes of quotas while Redis is away.
    pub on_store_failure: OnStoreFailure,
}

#[cfg(test)]
impl RedisSettings {
    /// The one server at this URL, for a test: whoever waits for it may wait long.
    pub(crate) fn of_test(url: &str) -> Self {
        Self {
            servers: vec![Server::parse(url).unwrap()],
            mode: Mode::Single,
            login: Login::default(),
            sentinel_login: Login::default(),
            roots: Vec::new(),
            database: 0,
            timeout: Duration::from_secs(2),
            connect_timeout: Duration::from_secs(2),
            prefix: "dcams-gateway:".to_owned(),
            nodes: 2,
            lease: Duration::from_millis(200),
            on_store_failure: OnStoreFailure::Lease,
        }
    }
}

impl RedisSettings {
    /// How long work may wait that no request stands behind: pages of a scan, an import's batch.
    pub fn patience(&self) -> Duration {
        self.timeout.max(Duration::from_secs(2))
    }
}

/// What the servers of the configuration are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Mode {
    /// Nodes of a cluster, from which the others are learnt.
    Cluster,
    /// Sentinels, which say who is master now.
    Sentinel {
        /// The name by which they know it.
        master: String,
    },
    /// The one server there is.
    Single,
}

/// What becomes of quotas while Redis is away.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnStoreFailure {
    /// What was taken before is used up, then requests are refused.
    Lease,
    /// Each gateway goes on with its share, one part in `nodes`.
    LocalShare,
    /// Requests are refused at once.
    Refuse,
}

/// A name and a password, or neither, or a password alone.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Login {
    /// The ACL user.
    pub user: Option<String>,
    /// Its password.
    pub password: Option<Password>,
}

/// A password for Redis. It prints nothing of itself.
#[derive(Debug, Clone)]
pub struct Password(SecretString);

impl Password {
    /// Takes it.
    pub const fn new(text: SecretString) -> Self {
        Self(text)
    }

    /// The text, for the server alone.
    #[expect(
        clippy::disallowed_methods,
        reason = "sent to Redis in AUTH, nowhere else"
    )]
    pub(super) fn expose(&self) -> &str {
        self.0.expose_secret()
    }
}

impl PartialEq for Password {
    fn eq(&self, other: &Self) -> bool {
        self.expose()
            .as_bytes()
            .ct_eq(other.expose().as_bytes())
            .into()
    }
}

impl Eq for Password {}

/// Where a server is.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Server {
    /// Its name or address, an IPv6 address without brackets.
    pub host: String,
    /// Its port.
    pub port: u16,
    /// Whether it speaks TLS there.
    pub tls: bool,
}

/// Why a URL names no server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum ServerError {
    /// No URL with a host.
    #[error("is not a URL of a Redis server")]
    Malformed,
    /// A path, a query or a fragment stands behind the port.
    #[error("has something behind its port")]
    Path,
    /// Neither `redis` nor `rediss`.
    #[error("has another scheme than redis:// and rediss://")]
    Scheme,
    /// A user name or password stands before the host.
    #[error("holds a user name or password")]
    Userinfo,
}

/// Where Redis listens when nothing is said.
const PORT: u16 = 6379;

impl Server {
    /// Reads `redis://host:port` or `rediss://host:port`.
    pub fn parse(text: &str) -> Result<Self, ServerError> {
        // Before the parser, which may trip over the characters of a password.
        if text.contains('@') {
            return Err(ServerError::Userinfo);
        }
        if text.contains('#') {
            return Err(ServerError::Path);
        }
        let uri: Uri = text.parse().map_err(|_error| ServerError::Malformed)?;
        let tls = match uri.scheme_str() {
            Some("redis") => false,
            Some("rediss") => true,
            Some(_) => return Err(ServerError::Scheme),
            None => return Err(ServerError::Malformed),
        };
        if !matches!(uri.path(), "" | "/") || uri.query().is_some() {
            return Err(ServerError::Path);
        }
        let host = uri.host().unwrap_or_default();
        let host = host.trim_start_matches('[').trim_end_matches(']');
        let authority = uri.authority().map_or("", http::uri::Authority::as_str);
        let port = uri.port_u16().unwrap_or(PORT);
        if host.is_empty() || port == 0 || authority.ends_with(':') {
            return Err(ServerError::Malformed);
        }
        Ok(Self {
            host: host.to_owned(),
            port,
            tls,
        })
    }

    /// Whether it is on this machine.
    pub fn is_loopback(&self) -> bool {
        let ip: Option<IpAddr> = self.host.parse().ok();
        ip.is_some_and(|ip| ip.to_canonical().is_loopback())
            || self.host.eq_ignore_ascii_case("localhost")
    }
}

impl fmt::Display for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = if self.tls { "rediss" } else { "redis" };
        if self.host.contains(':') {
            return write!(f, "{scheme}://[{}]:{}", self.host, self.port);
        }
        write!(f, "{scheme}://{}:{}", self.host, self.port)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_names_a_server_and_nothing_else() {
        for (text, shown) in [
            ("redis://127.0.0.1:6380", "redis://127.0.0.1:6380"),
            ("rediss://redis.internal", "rediss://redis.internal:6379"),
            ("redis://[::1]:1", "redis://[::1]:1"),
            ("redis://host:1/", "redis://host:1"),
        ] {
            assert_eq!(Server::parse(text).unwrap().to_string(), shown);
        }
        for (text, error) in [
            ("redis://user:pass@host", ServerError::Userinfo),
            ("redis://:pa ss@host", ServerError::Userinfo),
            ("http://host", ServerError::Scheme),
            ("redis+unix:///tmp/x", ServerError::Malformed),
            ("redis://host:1/0", ServerError::Path),
            ("redis://host?db=1", ServerError::Path),
            ("redis://host#x", ServerError::Path),
            ("redis://host:", ServerError::Malformed),
            ("redis://host:0", ServerError::Malformed),
            ("host:6379", ServerError::Malformed),
            ("", ServerError::Malformed),
        ] {
            assert_eq!(Server::parse(text), Err(error), "{text}");
        }
        assert!(Server::parse("redis://[::1]").unwrap().is_loopback());
        assert!(!Server::parse("redis://10.0.0.1").unwrap().is_loopback());
    }

    #[test]
    fn a_password_is_not_printed() {
        let password = Password::new("canary".into());
        assert!(!format!("{password:?}").contains("canary"));
        assert_ne!(password, Password::new("other".into()));
    }
}
