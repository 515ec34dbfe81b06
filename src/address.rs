//! Who calls, by address: networks, the proxies whose word counts, and a tenant's lists.
//!
//! Pure. Invariants: a header is read only where a trusted proxy sent it, and only the configured one
//! of the two; what cannot be told for certain is [`Client::Unknown`], which no list admits. An
//! IPv4-mapped IPv6 address is its IPv4 address everywhere. A whole address is never printed.

mod forwarded;

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    str::FromStr,
};

use http::{HeaderMap, HeaderName, header::FORWARDED};
use ipnet::{IpNet, Ipv4Net};
use thiserror::Error;

/// Who is at the other end, as far as that is known.
///
/// It prints as the network that the address is in (IPv4 /24, IPv6 /48): enough to see where a call
/// came from, too little to find a person by.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Client {
    /// The address.
    Known(IpAddr),
    /// Nobody vouches for any address.
    Unknown,
}

impl From<IpAddr> for Client {
    fn from(address: IpAddr) -> Self {
        Self::Known(address.to_canonical())
    }
}

impl fmt::Display for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Known(IpAddr::V4(address)) => {
                let [a, b, c, _] = address.octets();
                write!(f, "{}/24", Ipv4Addr::new(a, b, c, 0))
            }
            Self::Known(IpAddr::V6(address)) => {
                let [a, b, c, ..] = address.segments();
                write!(f, "{}/48", Ipv6Addr::new(a, b, c, 0, 0, 0, 0, 0))
            }
            Self::Unknown => f.write_str("unknown"),
        }
    }
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The proxies whose word on a client's address counts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TrustedProxies {
    /// Where they are.
    pub networks: Networks,
    /// The header that they set.
    pub header: ForwardedHeader,
}

/// The header that names a client. The other of the two is not looked at: a proxy that sets one
/// passes on the other as the client wrote it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ForwardedHeader {
    /// `Forwarded` (RFC 7239).
    Forwarded,
    /// `X-Forwarded-For`.
    XForwardedFor,
}

const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");

impl TrustedProxies {
    /// Who sent a request that came from `peer` with these headers.
    pub fn client(&self, peer: Client, headers: &HeaderMap) -> Client {
        if !self.trusts(peer) {
            return peer;
        }
        let named = match self.header {
            ForwardedHeader::Forwarded => {
                let lines = headers.get_all(FORWARDED).iter().rev();
                self.outermost(lines.flat_map(|line| forwarded::elements(line.as_bytes())))
            }
            ForwardedHeader::XForwardedFor => {
                let lines = headers.get_all(X_FORWARDED_FOR).iter().rev();
                self.outermost(lines.flat_map(|line| forwarded::plain_elements(line.as_bytes())))
            }
        };
        // A proxy that names nobody speaks for itself.
        named.unwrap_or(peer)
    }

    fn trusts(&self, client: Client) -> bool {
        matches!(client, Client::Known(address) if self.networks.contains(address))
    }

    /// Of a list to which each proxy appended whom it had before it, from its end: the first element
    /// that is no trusted proxy, or the last one where all are. What is left of it, a client may have
    /// written itself; it is not even read, however much of it there is.
    fn outermost(&self, elements: impl Iterator<Item = Client>) -> Option<Client> {
        let mut outermost = None;
        for element in elements {
            outermost = Some(element);
            if !self.trusts(element) {
                break;
            }
        }
        outermost
    }
}

/// From where a tenant may be called.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct AddressRules {
    /// Where there is any, nobody else is admitted.
    pub allow: Networks,
    /// Never admitted, not even where `allow` holds them.
    pub deny: Networks,
}

impl AddressRules {
    /// Whether there is nothing to judge by.
    pub fn is_empty(&self) -> bool {
        self.allow.is_empty() && self.deny.is_empty()
    }

    /// Whether this client may call, or why not.
    pub fn check(&self, client: Client) -> Result<(), AddressError> {
        let Client::Known(address) = client else {
            return if self.is_empty() {
                Ok(())
            } else {
                Err(AddressError::Unknown)
            };
        };
        if self.deny.contains(address) {
            return Err(AddressError::Denied);
        }
        if self.allow.is_empty() || self.allow.contains(address) {
            return Ok(());
        }
        Err(AddressError::NotListed)
    }
}

/// Why a client may not call from where it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum AddressError {
    /// It is on the list of those that may not.
    #[error("the address is denied")]
    Denied,
    /// It is not on the list of those that may.
    #[error("the address is not among those that are allowed")]
    NotListed,
    /// There is a list, and nobody vouches for the address.
    #[error("the address cannot be known")]
    Unknown,
}

impl AddressError {
    /// The reason in one word, of a closed set: for logs and audit events.
    pub const fn reason(self) -> &'static str {
        match self {
            Self::Denied => "address_denied",
            Self::NotListed => "address_not_in_allow",
            Self::Unknown => "address_unknown",
        }
    }
}

/// A list of networks.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Networks(Vec<Network>);

impl Networks {
    /// Whether one of them holds this address.
    pub fn contains(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        self.0.iter().any(|network| network.0.contains(&address))
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl FromIterator<Network> for Networks {
    fn from_iter<I: IntoIterator<Item = Network>>(networks: I) -> Self {
        Self(networks.into_iter().collect())
    }
}

/// A network, or one address. One of IPv6 holds no IPv4 address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Network(IpNet);

impl Network {
    /// Whether it holds every address of its family.
    pub fn is_everything(self) -> bool {
        self.0.prefix_len() == 0
    }
}

impl FromStr for Network {
    type Err = NetworkError;

    fn from_str(text: &str) -> Result<Self, NetworkError> {
        let (address, prefix) = match text.split_once('/') {
            Some((address, prefix)) => (address, Some(prefix)),
            None => (text, None),
        };
        let address: IpAddr = address.parse().map_err(|_| NetworkError::Malformed)?;
        let Some(prefix) = prefix else {
            return Ok(Self(IpNet::from(address.to_canonical())));
        };
        // Digits alone: the standard library takes a sign too.
        let sound = prefix.bytes().all(|byte| byte.is_ascii_digit());
        let prefix = prefix.parse().ok().filter(|_| sound);
        let network = prefix.and_then(|prefix| IpNet::new(address, prefix).ok());
        let network = network.ok_or(NetworkError::Malformed)?;
        if network != network.trunc() {
            return Err(NetworkError::HostBits);
        }
        Ok(Self(canonical(network)))
    }
}

/// A network of IPv4-mapped addresses as what it means.
fn canonical(network: IpNet) -> IpNet {
    let mapped = network.addr().to_canonical();
    match (mapped, network.prefix_len().checked_sub(96)) {
        (IpAddr::V4(address), Some(prefix)) if network.addr().is_ipv6() => {
            Ipv4Net::new(address, prefix).map_or(network, IpNet::V4)
        }
        _ => network,
    }
}

/// Why a text is no network. It repeats nothing of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum NetworkError {
    /// Bits are set behind the prefix: either the address or the prefix is not what was meant.
    #[error("has bits set behind its prefix")]
    HostBits,
    /// It is not an address, or an address and a prefix that it can have.
    #[error("is not an IP address or network")]
    Malformed,
}

#[cfg(test)]
mod tests;
