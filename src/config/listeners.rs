//! The sections of what listens: `[server]` and `[admin]`.
//!
//! Invariant: every number leaves here within bounds that hyper and the accept loop can bear, and
//! operators' answers are never open to the network without a token. The defaults stand in
//! `config/default.toml`, not here.

use std::{net::SocketAddr, ops::RangeInclusive, time::Duration};

use secrecy::SecretString;

use crate::{
    address::{ForwardedHeader, Network, Networks, TrustedProxies},
    admin::AdminSettings,
    auth::dpop::PublicUrl,
    config::{cursor::Section, dpop, field::Field, secret},
    route::RouteSettings,
    server::{Http2Settings, Protocol, ProxyProtocol, ServerSettings},
    units::{GIB, KIB},
};

const MILLISECOND: Duration = Duration::from_millis(1);
const HOUR: Duration = Duration::from_hours(1);

/// Waits for one event: never none, never so long that it is no limit.
const TIMEOUT: RangeInclusive<Duration> = MILLISECOND..=Duration::from_mins(10);

/// What `[server]` says; part of it belongs to the reading of bodies, part to tokens.
pub(super) struct Server {
    pub(super) settings: ServerSettings,
    pub(super) proxies: TrustedProxies,
    pub(super) route: RouteSettings,
    pub(super) public_urls: Vec<PublicUrl>,
    pub(super) body_timeout: Duration,
    pub(super) body_idle_timeout: Duration,
    pub(super) min_body_rate: u64,
}

impl Server {
    /// Whether whoever connects is on this machine, and speaks for nobody else.
    pub(super) fn sees_one_address(&self) -> bool {
        let local = self.settings.listen.ip().to_canonical().is_loopback();
        local && self.proxies.networks.is_empty()
    }
}

/// Reads `[server]`.
pub(super) fn server(mut section: Section<'_>) -> Option<Server> {
    section.unavailable(&["tls"]);
    let listen = section.required("listen").and_then(|f| f.address());
    let public_urls = dpop::public_urls(&mut section);
    let protocol = section.choice(
        "protocol",
        &[("http1", Protocol::Http1), ("h2c", Protocol::H2c)],
    );
    let proxies = proxies(&mut section);
    let proxy_protocol = proxy_protocol(&mut section, proxies.as_ref());
    let chunked = section.choice("chunked", &[("refuse", false), ("allow", true)]);
    let max_connections = section.count("max_connections", 1..=1_000_000);
    let header_timeout = section.duration("header_timeout", TIMEOUT);
    let idle_timeout = section.duration("idle_timeout", MILLISECOND..=HOUR);
    let body_timeout = section.duration("body_timeout", TIMEOUT);
    let body_idle_timeout = section.duration("body_idle_timeout", TIMEOUT);
    let min_body_rate = section.size("min_body_rate", 1..=GIB);
    let write_timeout = section.duration("write_timeout", TIMEOUT);
    // Below 8 KiB hyper refuses to start.
    let max_header_bytes = section.size("max_header_bytes", 8 * KIB..=64 * KIB);
    let max_headers = section.count("max_headers", 8..=1_000);
    let drain_timeout = section.duration("drain_timeout", Duration::ZERO..=HOUR);
    let http2 = http2(section.section("http2"), max_header_bytes);
    section.finish();
    Some(Server {
        settings: ServerSettings {
            listen: listen?,
            protocol: protocol?,
            proxy_protocol: proxy_protocol?,
            max_connections: max_connections?,
            header_timeout: header_timeout?,
            idle_timeout: idle_timeout?,
            write_timeout: write_timeout?,
            drain_timeout: drain_timeout?,
            max_headers: max_headers?,
            max_header_bytes: max_header_bytes?,
            http2: http2?,
        },
        proxies: proxies?,
        route: RouteSettings { chunked: chunked? },
        public_urls: public_urls?,
        body_timeout: body_timeout?,
        body_idle_timeout: body_idle_timeout?,
        min_body_rate: min_body_rate?,
    })
}

fn proxies(section: &mut Section<'_>) -> Option<TrustedProxies> {
    let networks = section
        .required("trusted_proxies")
        .and_then(|f| f.list(true, proxy));
    let header = section.choice(
        "forwarded_header",
        &[
            ("x-forwarded-for", ForwardedHeader::XForwardedFor),
            ("forwarded", ForwardedHeader::Forwarded),
        ],
    );
    Some(TrustedProxies {
        networks: networks?.into_iter().collect(),
        header: header?,
    })
}

fn proxy(field: &Field<'_>) -> Option<Network> {
    let network = field.network()?;
    if network.is_everything() {
        field.warning(
            "trusts every address, so every caller may say that it has any other",
            "name the proxies alone",
        );
    }
    Some(network)
}

fn proxy_protocol(
    section: &mut Section<'_>,
    proxies: Option<&TrustedProxies>,
) -> Option<ProxyProtocol> {
    let required = section.choice("proxy_protocol", &[("off", false), ("required", true)])?;
    if !required {
        return Some(ProxyProtocol::Off);
    }
    let networks: &Networks = &proxies?.networks;
    if networks.is_empty() {
        section.mistake(
            "proxy_protocol",
            "is required of proxies, but `trusted_proxies` names none, so nobody could connect",
            "name them there",
        );
        return None;
    }
    Some(ProxyProtocol::Required(networks.clone()))
}

fn http2(mut section: Section<'_>, max_header_bytes: Option<usize>) -> Option<Http2Settings> {
    // A window is a 31-bit number (RFC 9113).
    let window = KIB..=(1 << 31) - 1;
    let max_concurrent_streams = section.count("max_concurrent_streams", 1..=10_000);
    let stream_window = section.size("stream_window", window.clone());
    let connection_window = section.size("connection_window", window);
    let keep_alive_interval = section.duration("keep_alive_interval", TIMEOUT);
    let keep_alive_timeout = section.duration("keep_alive_timeout", TIMEOUT);
    if connection_window < stream_window && connection_window.is_some() {
        section.mistake(
            "connection_window",
            "is smaller than `stream_window`",
            "raise it, or lower `stream_window`",
        );
    }
    section.finish();
    Some(Http2Settings {
        max_concurrent_streams: max_concurrent_streams?,
        stream_window: stream_window?,
        connection_window: connection_window?,
        max_header_list: u32::try_from(max_header_bytes?).ok()?,
        keep_alive_interval: keep_alive_interval?,
        keep_alive_timeout: keep_alive_timeout?,
    })
}

/// Reads `[admin]`; `server` is where the public listener listens.
pub(super) fn admin(mut section: Section<'_>, server: Option<SocketAddr>) -> Option<AdminSettings> {
    let listen = section.required("listen").and_then(|f| f.address());
    let token = section.optional("token").map(|f| token(&section, f));
    if let Some(listen) = listen {
        if !listen.ip().to_canonical().is_loopback() && token.is_none() {
            section.mistake(
                "token",
                "is missing, though the admin listener is not on a loopback address",
                "add it, or listen on 127.0.0.1",
            );
        }
        if server.is_some_and(|server| clash(server, listen)) {
            section.mistake(
                "listen",
                "is the address of `server.listen`",
                "give one of the two another port",
            );
        }
    }
    section.finish();
    let token = match token {
        Some(token) => Some(token?),
        None => None,
    };
    Some(AdminSettings {
        listen: listen?,
        token,
    })
}

/// A token that cannot be guessed and fits into a header.
fn token(section: &Section<'_>, field: Field<'_>) -> Option<SecretString> {
    let bytes = secret::bytes(field)?;
    let sound =
        (16..=512).contains(&bytes.bytes().len()) && bytes.bytes().iter().all(u8::is_ascii_graphic);
    if !sound {
        section.mistake(
            "token",
            "is not 16 to 512 visible ASCII characters",
            "make one with: openssl rand -hex 32",
        );
        return None;
    }
    secret::text(section, "token", &bytes)
}

fn clash(one: SocketAddr, other: SocketAddr) -> bool {
    let (a, b) = (one.ip().to_canonical(), other.ip().to_canonical());
    let same_host = a == b || a.is_unspecified() || b.is_unspecified();
    // Port 0 lets the system choose, so two of them differ.
    one.port() == other.port() && one.port() != 0 && same_host
}
