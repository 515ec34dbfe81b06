//! Talks to Vault: one request, one answer.
//!
//! Invariants: only the configured server is called, and no redirect or proxy leads a token elsewhere;
//! a request takes `timeout` at most, from connecting to the last byte, and an answer is 64 KiB at
//! most. What comes is hostile input: nothing of it is logged, and no error holds any of it. What we
//! hold of a secret is wiped; the buffers of the HTTP library are beyond our reach.

use std::time::Duration;

use bytes::Bytes;
use http::{
    HeaderMap, HeaderName, HeaderValue, Method, StatusCode,
    header::{CONTENT_ENCODING, CONTENT_TYPE},
};
use reqwest::{Request, Url};
use tokio::time::timeout;
use zeroize::Zeroizing;

use super::{
    ApiPath, AuthToken, VaultError, VaultPair, VaultPath, VaultSettings, VaultSetupError,
    tenure::Grant,
    wire::{self, Login},
};
use crate::tls;

/// The longest answer that is read. A secret of two fields is less than 1 KiB.
const MAX_ANSWER: usize = 64 * 1024;

const TOKEN: HeaderName = HeaderName::from_static("x-vault-token");
const NAMESPACE: HeaderName = HeaderName::from_static("x-vault-namespace");
/// Agents and proxies of Vault refuse what does not carry it: whoever makes a server send requests of
/// their choice can seldom add a header.
const REQUEST: HeaderName = HeaderName::from_static("x-vault-request");

/// The client of one Vault.
pub(super) struct Client {
    http: reqwest::Client,
    address: Url,
    namespace: Option<HeaderValue>,
    timeout: Duration,
}

impl Client {
    /// Builds the client; sends nothing.
    pub(super) fn new(settings: &VaultSettings) -> Result<Self, VaultSetupError> {
        let https = settings.address.is_https();
        let http = tls::small_client(https, &settings.roots)?;
        let address = Url::parse(&settings.address.uri().to_string());
        let namespace = settings.namespace.as_ref();
        let namespace = namespace.map(|name| HeaderValue::from_str(name.as_str()));
        Ok(Self {
            http,
            address: address.map_err(|_error| VaultSetupError::Client)?,
            namespace: namespace.transpose().map_err(|_| VaultSetupError::Client)?,
            timeout: settings.timeout,
        })
    }

    /// Reads the current version of a secret.
    pub(super) async fn read(
        &self,
        token: &AuthToken,
        path: &VaultPath,
    ) -> Result<VaultPair, VaultError> {
        let parts = [path.mount().as_str(), "data", path.path().as_str()];
        let answer = self.ask(self.get(&parts, token)?).await?;
        match answer.status {
            StatusCode::OK => wire::pair(&answer.body, path),
            StatusCode::FORBIDDEN => Err(VaultError::Forbidden),
            StatusCode::NOT_FOUND => Err(wire::absence(&answer.body)),
            _ => Err(VaultError::Status),
        }
    }

    /// Logs in at the auth method that is mounted there.
    pub(super) async fn log_in(
        &self,
        mount: &ApiPath,
        body: Zeroizing<Vec<u8>>,
    ) -> Result<Login, VaultError> {
        let request = self.post(&["auth", mount.as_str(), "login"], None, body)?;
        let answer = self.ask(request).await?;
        match answer.status {
            StatusCode::OK => wire::login(&answer.body),
            StatusCode::NOT_FOUND => Err(VaultError::LoginNotFound),
            StatusCode::BAD_REQUEST | StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => {
                Err(VaultError::LoginRefused)
            }
            _ => Err(VaultError::Status),
        }
    }

    /// Asks what Vault knows of the token.
    pub(super) async fn look_up(&self, token: &AuthToken) -> Result<Grant, VaultError> {
        let request = self.get(&["auth", "token", "lookup-self"], token)?;
        let answer = self.of_own_token(request).await?;
        wire::lookup(&answer.body)
    }

    /// Renews the token.
    pub(super) async fn renew(&self, token: &AuthToken) -> Result<Grant, VaultError> {
        let parts = ["auth", "token", "renew-self"];
        let body = Zeroizing::new(b"{}".to_vec());
        let request = self.post(&parts, Some(token), body)?;
        let answer = self.of_own_token(request).await?;
        wire::renewal(&answer.body)
    }

    async fn of_own_token(&self, request: Request) -> Result<Answer, VaultError> {
        let answer = self.ask(request).await?;
        match answer.status {
            StatusCode::OK => Ok(answer),
            // Not renewable, not allowed to, or not a token (any more).
            StatusCode::BAD_REQUEST | StatusCode::FORBIDDEN => Err(VaultError::Forbidden),
            _ => Err(VaultError::Status),
        }
    }

    fn get(&self, parts: &[&str], token: &AuthToken) -> Result<Request, VaultError> {
        self.request(Method::GET, parts, Some(token))
    }

    fn post(
        &self,
        parts: &[&str],
        token: Option<&AuthToken>,
        body: Zeroizing<Vec<u8>>,
    ) -> Result<Request, VaultError> {
        let mut request = self.request(Method::POST, parts, token)?;
        let json = HeaderValue::from_static("application/json");
        request.headers_mut().insert(CONTENT_TYPE, json);
        *request.body_mut() = Some(Bytes::from_owner(body).into());
        Ok(request)
    }

    fn request(
        &self,
        method: Method,
        parts: &[&str],
        token: Option<&AuthToken>,
    ) -> Result<Request, VaultError> {
        let mut url = self.address.clone();
        // An https or http URL has a path, so this never fails.
        let mut path = url
            .path_segments_mut()
            .map_err(|()| VaultError::Unreachable)?;
        path.pop_if_empty().push("v1");
        // Each segment by itself, so that whatever stands in one is escaped.
        path.extend(parts.iter().flat_map(|part| part.split('/')));
        drop(path);
        let mut request = Request::new(method, url);
        let headers = request.headers_mut();
        headers.insert(REQUEST, HeaderValue::from_static("true"));
        if let Some(namespace) = &self.namespace {
            headers.insert(NAMESPACE, namespace.clone());
        }
        if let Some(token) = token {
            headers.insert(TOKEN, token.header());
        }
        Ok(request)
    }

    async fn ask(&self, request: Request) -> Result<Answer, VaultError> {
        timeout(self.timeout, self.exchange(request))
            .await
            .unwrap_or(Err(VaultError::TimedOut))
    }

    async fn exchange(&self, request: Request) -> Result<Answer, VaultError> {
        let sent = self.http.execute(request).await;
        let mut response = sent.map_err(|error| failure(&error))?;
        let status = response.status();
        check(status, response.headers())?;
        let announced = response.content_length().unwrap_or(0);
        if usize::try_from(announced).unwrap_or(usize::MAX) > MAX_ANSWER {
            return Err(VaultError::TooLarge);
        }
        // Room for everything from the start: growing would leave copies behind that nobody wipes.
        let mut body = Zeroizing::new(Vec::with_capacity(MAX_ANSWER));
        while let Some(piece) = response.chunk().await.map_err(|e| failure(&e))? {
            if piece.len() > MAX_ANSWER.saturating_sub(body.len()) {
                return Err(VaultError::TooLarge);
            }
            body.extend_from_slice(&piece);
        }
        Ok(Answer { status, body })
    }
}

/// An answer that says something of what was asked.
struct Answer {
    status: StatusCode,
    body: Zeroizing<Vec<u8>>,
}

/// Whether the answer is one to what was asked; if not, it is not read.
fn check(status: StatusCode, headers: &HeaderMap) -> Result<(), VaultError> {
    let fault = match status.as_u16() {
        300..400 => VaultError::Redirected,
        // A lagging node of a cluster, which asks to be asked again.
        412 | 472 | 473 => VaultError::Standby,
        429 => VaultError::Limited,
        503 => VaultError::Sealed,
        500..600 => VaultError::ServerError,
        // None was asked for, and a small body must not become a large one.
        _ if headers.contains_key(CONTENT_ENCODING) => VaultError::Encoded,
        _ => return Ok(()),
    };
    Err(fault)
}

fn failure(error: &reqwest::Error) -> VaultError {
    if error.is_timeout() {
        return VaultError::TimedOut;
    }
    let of_tls = tls::causes(error).find_map(|cause| cause.downcast_ref::<rustls::Error>());
    match of_tls {
        Some(rustls::Error::InvalidCertificate(_)) => return VaultError::Certificate,
        Some(_) => return VaultError::Tls,
        None => {}
    }
    if error.is_connect() {
        return VaultError::Unreachable;
    }
    VaultError::Interrupted
}
