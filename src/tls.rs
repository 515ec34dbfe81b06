//! How this process speaks TLS as a client, to DCAMS and to an issuer's key server alike.
//!
//! Invariant: certificates are always verified, against the system's roots (Mozilla's where there are
//! none) and those that the configuration adds. The provider is named, never taken from the process.

use std::{error::Error, io, iter, sync::Arc};

use reqwest::{redirect::Policy, retry};
use rustls::{ClientConfig, RootCertStore, crypto::aws_lc_rs, pki_types::CertificateDer};
use thiserror::Error;

/// The roots that a server's certificate may chain to cannot be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("an extra root certificate is not usable")]
pub struct UnusableRoot;

/// What connections are opened with. Without `https` none will be encrypted, and the system's roots
/// are not read.
pub(crate) fn client_config(
    https: bool,
    extra: &[CertificateDer<'static>],
) -> Result<ClientConfig, UnusableRoot> {
    let mut roots = RootCertStore::empty();
    if https {
        let system = rustls_native_certs::load_native_certs().certs;
        let (usable, _) = roots.add_parsable_certificates(system);
        if usable == 0 {
            // A minimal image has no certificate store of its own.
            roots.extend(webpki_roots::TLS_SERVER_ROOTS.iter().cloned());
        }
    }
    for root in extra {
        roots.add(root.clone()).map_err(|_error| UnusableRoot)?;
    }
    // The provider is named, not taken from the process: another part's choice, or none at all,
    // must not decide what protects the credential.
    let config = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_protocol_versions(&[&rustls::version::TLS13, &rustls::version::TLS12])
        .map_err(|_error| UnusableRoot)?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(config)
}

/// Why there is no client for small questions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum NoClient {
    /// The system gave none.
    Build,
    /// A root is not usable.
    Root(UnusableRoot),
}

impl From<UnusableRoot> for NoClient {
    fn from(root: UnusableRoot) -> Self {
        Self::Root(root)
    }
}

/// A client for small questions now and then, to a server that is configured: it follows no redirect,
/// asks no proxy, repeats nothing and keeps no connection, which would be closed before it is used. It
/// has no timeouts: whoever asks bounds all of it together.
pub(crate) fn small_client(
    https: bool,
    extra: &[CertificateDer<'static>],
) -> Result<reqwest::Client, NoClient> {
    let mut tls = client_config(https, extra)?;
    // A given configuration is taken as it is, and HTTP/1.1 is all that this client speaks.
    tls.alpn_protocols = vec![b"http/1.1".to_vec()];
    reqwest::Client::builder()
        .tls_backend_preconfigured(tls)
        .https_only(https)
        .http1_only()
        .redirect(Policy::none())
        .no_proxy()
        .referer(false)
        .retry(retry::never())
        .pool_max_idle_per_host(0)
        .build()
        .map_err(|_error| NoClient::Build)
}

/// An error and all that it wraps, outermost first: how a client's own error is told from TLS's. The
/// texts are the libraries' and are never read.
pub(crate) fn causes<'e>(
    error: &'e (dyn Error + 'static),
) -> impl Iterator<Item = &'e (dyn Error + 'static)> {
    iter::successors(Some(error), |error| {
        let error: &'e (dyn Error + 'static) = *error;
        // An io::Error's `source` skips the error that it wraps.
        match error.downcast_ref().and_then(io::Error::get_ref) {
            Some(inner) => Some(inner),
            None => error.source(),
        }
    })
}
