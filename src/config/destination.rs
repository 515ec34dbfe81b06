//! The section of where requests go: `[upstream]`; and what every URL that is called has in common.
//!
//! Invariant: the credential travels over TLS, or not beyond this machine. A URL is never repeated
//! in a mistake, because a password may have been put into it.

use std::{ops::RangeInclusive, time::Duration};

use http::Uri;
use rustls::RootCertStore;
use rustls_pki_types::{CertificateDer, pem::PemObject};

use crate::{
    config::{cursor::Section, field::Field},
    endpoint::{Endpoint, EndpointError},
    route::STORAGE_PATH,
    units::{GIB, KIB},
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
    let secure = "use https: the credential travels in the body";
    let endpoint = endpoint(field, EXAMPLE, secure)?;
    if endpoint.has_query() {
        field.mistake(EndpointError::Query.to_string(), EXAMPLE);
        return None;
    }
    // DCAMS has one path. Another server's 404 would read as "no such customer".
    if !field.text()?.ends_with(STORAGE_PATH) {
        field.warning("does not end in the vendor's path", EXAMPLE);
    }
    Some(endpoint.uri().clone())
}

/// A URL that the gateway calls; `secure` says why it must be https.
pub(super) fn endpoint(field: &Field<'_>, example: &str, secure: &str) -> Option<Endpoint> {
    let result = Endpoint::parse(field.text()?);
    if let Err(error) = result {
        let mend = match error {
            EndpointError::Insecure => secure,
            EndpointError::Userinfo => "remove it; a URL is no place for a secret",
            EndpointError::Fragment
            | EndpointError::NoHost
            | EndpointError::NotAbsolute
            | EndpointError::Query => example,
        };
        field.mistake(error.to_string(), mend);
    }
    result.ok()
}

/// The certificates of a PEM file, each fit to be trusted as a root.
pub(super) fn roots(field: &Field<'_>) -> Option<Vec<CertificateDer<'static>>> {
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
