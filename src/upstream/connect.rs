//! Opens connections to the upstream: name lookup, TCP, TLS, all under one deadline.
//!
//! Invariant: no byte of a request is written here, so a request whose connection failed was not
//! sent. Certificates are always verified; a proxy is never taken from the environment.

use std::{
    error::Error,
    io,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use http::Uri;
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::connect::{
    HttpConnector,
    dns::{GaiAddrs, GaiResolver, Name},
};
use rustls_pki_types::CertificateDer;
use thiserror::Error;
use tower_service::Service;

use crate::tls::{self, UnusableRoot};

/// Why no connection was made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum ConnectError {
    /// The certificate was not accepted: expired, another name, unknown issuer.
    #[error("the upstream's certificate was refused")]
    Certificate,
    /// No route, the peer hung up, too many open files, and the like.
    #[error("the connection to the upstream failed while it was opened")]
    Failed,
    /// Nothing listens there.
    #[error("the upstream refused the connection")]
    Refused,
    /// The host's name has no address.
    #[error("the upstream's name was not resolved")]
    Resolve,
    /// Name lookup, TCP and TLS together took longer than `connect_timeout`.
    #[error("connecting to the upstream took too long")]
    TimedOut,
    /// No protocol version or cipher in common, or the peer does not speak TLS.
    #[error("no TLS session with the upstream")]
    Tls,
}

type Inner = HttpsConnector<HttpConnector<Resolver>>;

/// hyper's connector within `connect_timeout`.
#[derive(Clone)]
pub(super) struct Connector {
    inner: Inner,
    timeout: Duration,
}

impl Connector {
    pub(super) fn new(
        https: bool,
        roots: &[CertificateDer<'static>],
        timeout: Duration,
    ) -> Result<Self, UnusableRoot> {
        let mut tcp = HttpConnector::new_with_resolver(Resolver(GaiResolver::new()));
        // hyper-rustls decides by scheme; the plain connector must let `https` pass.
        tcp.enforce_http(false);
        // A request is written in one go: waiting to fill a packet would only delay its end.
        tcp.set_nodelay(true);
        let builder =
            HttpsConnectorBuilder::new().with_tls_config(tls::client_config(https, roots)?);
        let builder = if https {
            builder.https_only()
        } else {
            builder.https_or_http()
        };
        Ok(Self {
            inner: builder.enable_http1().wrap_connector(tcp),
            timeout,
        })
    }
}

impl Service<Uri> for Connector {
    type Response = <Inner as Service<Uri>>::Response;
    type Error = ConnectError;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, ConnectError>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), ConnectError>> {
        self.inner
            .poll_ready(context)
            .map_err(|error| classify(&*error))
    }

    fn call(&mut self, target: Uri) -> Self::Future {
        let connecting = self.inner.call(target);
        let timeout = self.timeout;
        Box::pin(async move {
            tokio::time::timeout(timeout, connecting)
                .await
                .map_err(|_elapsed| ConnectError::TimedOut)?
                .map_err(|error| classify(&*error))
        })
    }
}

/// The operating system's name lookup, with an error that can be told from a connection's.
#[derive(Clone)]
pub(super) struct Resolver(GaiResolver);

#[derive(Debug, Error)]
#[error("the name was not resolved")]
pub(super) struct NotResolved;

impl Service<Name> for Resolver {
    type Response = GaiAddrs;
    type Error = NotResolved;
    type Future = Pin<Box<dyn Future<Output = Result<GaiAddrs, NotResolved>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), NotResolved>> {
        self.0.poll_ready(context).map_err(|_error| NotResolved)
    }

    fn call(&mut self, name: Name) -> Self::Future {
        let looking = self.0.call(name);
        Box::pin(async move { looking.await.map_err(|_error| NotResolved) })
    }
}

/// Finds the kind of failure in a chain of errors.
fn classify(error: &(dyn Error + 'static)) -> ConnectError {
    for error in tls::causes(error) {
        if error.is::<NotResolved>() {
            return ConnectError::Resolve;
        }
        if let Some(error) = error.downcast_ref::<rustls::Error>() {
            return of_tls(error);
        }
        let io = error.downcast_ref::<io::Error>();
        if io.is_some_and(|io| io.kind() == io::ErrorKind::ConnectionRefused) {
            return ConnectError::Refused;
        }
    }
    ConnectError::Failed
}

fn of_tls(error: &rustls::Error) -> ConnectError {
    if matches!(error, rustls::Error::InvalidCertificate(_)) {
        return ConnectError::Certificate;
    }
    ConnectError::Tls
}
