//! The section of where requests go: `[upstream]`.
//!
//! Invariant: the credential travels over TLS, or not beyond this machine. The URL is never
//! repeated in a mistake, because a password may have been put into it.

use std::{net::IpAddr, ops::RangeInclusive, time::Duration};

use http::{Uri, uri::Scheme};
use rustls::RootCertStore;
use rustls_pki_types::{CertificateDer, pem::PemObject};

use crate::{
    config::{
        cursor::Section,
        field::Field,
        units::{GIB, KIB},
    },
    route::STORAGE_PATH,
    upstream::client::UpstreamSettings,
};

const MILLISECOND: Duration = Duration::from_millis(1);
const TIMEOUT: RangeInclusive<Duration> = MILLISECOND..=Duration::from_mins(10);

/// Reads `[upstream]`.
pub(super) fn upstream(mut section: Section<'_>) -> Option<UpstreamSettings> {
    section.unavailable(&["retries"]);
    let url = section.required("url").and_then(|f| url(&f));
    let connect_timeout = section.duration("connect_timeout", TIMEOUT);
    let timeout = section.duration("timeout", TIMEOUT);
    let max_response = section.size("max_response", KIB..=GIB);
    let pool_max_idle = section.count("pool_max_idle", 0..=10_000);
    let pool_idle_timeout =
        section.duration("pool_idle_timeout", MILLISECOND..=Duration::from_hours(1));
    let roots = section
        .optional("ca")
        .map_or(Some(Vec::new()), |f| roots(&f));
    if connect_timeout > timeout && timeout.is_some() {
        section.mistake(
            "connect_timeout",
            "is longer than `timeout`, which includes it",
            "shorten it, or lengthen `timeout`",
        );
    }
    section.finish();
    Some(UpstreamSettings {
        url: url?,
        connect_timeout: connect_timeout?,
        timeout: timeout?,
        // The vendor answers when all is done, so the head takes as long as the whole.
        max_response: max_response?,
        pool_max_idle: pool_max_idle?,
        pool_idle_timeout: pool_idle_timeout?,
        roots: roots?,
    })
}

fn url(field: &Field<'_>) -> Option<Uri> {
    const EXAMPLE: &str = "write it as \"https://dcams.app/v3/stable/api/storage\"";
    let text = field.text()?;
    let uri: Option<Uri> = text.parse().ok();
    let parts = uri
        .as_ref()
        .and_then(|u| Some((u.scheme()?, u.authority()?, u.host()?)));
    let Some((scheme, authority, host)) = parts else {
        field.mistake("is not an absolute URL", EXAMPLE);
        return None;
    };
    if authority.as_str().contains('@') {
        let problem = "holds a user name or password";
        field.mistake(problem, "remove it; credentials stand under [[accounts]]");
        return None;
    }
    // The parser drops a fragment silently, so the text itself is asked.
    if text.contains(['?', '#']) {
        field.mistake("has a query or a fragment", EXAMPLE);
        return None;
    }
    if host.is_empty() || authority.port_u16() == Some(0) || authority.as_str().ends_with(':') {
        field.mistake("has no usable host and port", EXAMPLE);
        return None;
    }
    let plain = *scheme == Scheme::HTTP && is_loopback(host);
    if *scheme != Scheme::HTTPS && !plain {
        field.mistake(
            "is neither https nor plain http to a loopback address",
            "use https: the credential travels in the body",
        );
        return None;
    }
    // DCAMS has one path. Another server's 404 would read as "no such customer".
    if !text.ends_with(STORAGE_PATH) {
        field.warning("does not end in the vendor's path", EXAMPLE);
    }
    uri
}

fn is_loopback(host: &str) -> bool {
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    let ip: Option<IpAddr> = bare.parse().ok();
    ip.is_some_and(|ip| ip.to_canonical().is_loopback()) || host.eq_ignore_ascii_case("localhost")
}

fn roots(field: &Field<'_>) -> Option<Vec<CertificateDer<'static>>> {
    const MEND: &str = "put one or more CA certificates there, in PEM";
    let content = field.content()?;
    let parsed: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&content).collect();
    let Ok(certificates) = parsed else {
        field.mistake("names a file that is not PEM", MEND);
        return None;
    };
    let mut store = RootCertStore::empty();
    let sound = certificates.iter().all(|c| store.add(c.clone()).is_ok());
    if certificates.is_empty() || !sound {
        field.mistake("names a file without a usable certificate in it", MEND);
        return None;
    }
    Some(certificates)
}
