//! Sends a sealed request to DCAMS and reads the answer: HTTP/1.1 over TLS, pooled.
//!
//! Invariant: a request goes to the configured URL and nowhere else (no redirect, no proxy of the
//! environment, no cookie), with five headers of ours, and its bytes leave at most once. Every wait
//! ends at a deadline and every answer at a limit. Nothing of a request or an answer is ever logged
//! or put into an error.

use std::{pin::pin, time::Duration};

use bytes::{Bytes, BytesMut};
use http::{HeaderValue, Request, Response, Uri, header, uri::Scheme};
use http_body::Body as _;
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use hyper_util::{
    client::legacy::{Client, Error},
    rt::{TokioExecutor, TokioTimer},
};
use rustls::pki_types::CertificateDer;
use thiserror::Error;
use tokio::time::timeout;

use super::{
    UpstreamReply,
    connect::{ConnectError, Connector},
    seal::SealedRequest,
    verdict,
};
use crate::{credential::Credential, segments::Segments, tls::UnusableRoot};

/// An answer's headers are read into memory: at most this many, and this many bytes of them.
const MAX_HEADERS: usize = 64;
const MAX_HEADER_BYTES: usize = 32 * 1024;
/// The largest read buffer that hyper gives a connection. A frame is a slice of such a buffer and
/// keeps all of it in memory, so frames below half of it are copied together: an answer costs at
/// most twice its size, however it is cut into pieces. It also bounds what of a request is written
/// at once: with less, a body of megabytes would take a system call for each frame.
const READ_BUFFER: usize = 256 * 1024;
const SMALL_FRAME: usize = READ_BUFFER / 2;

/// Where requests go and how long they may take.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UpstreamSettings {
    /// The URL of DCAMS's storage API. `http` is for loopback only; the configuration checks that.
    pub url: Uri,
    /// For name lookup, TCP and TLS together.
    pub connect_timeout: Duration,
    /// From the start until the answer was read.
    pub timeout: Duration,
    /// The longest answer in bytes.
    pub max_response: u64,
    /// How many connections are kept that nobody uses.
    pub pool_max_idle: usize,
    /// How long such a connection is kept. Below the upstream's own keep-alive, or a request may
    /// meet a connection that is just being closed.
    pub pool_idle_timeout: Duration,
    /// Certificate authorities that are trusted besides the system's.
    pub roots: Vec<CertificateDer<'static>>,
}

/// Why a client could not be made of its settings.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum UpstreamError {
    /// An extra root is not a certificate that can be trusted.
    #[error(transparent)]
    Root(#[from] UnusableRoot),
    /// Not `http://host…` or `https://host…`, or with a user in it.
    #[error("the upstream's URL needs a scheme, http or https, and a host, and no user")]
    Url,
}

/// Why there is no answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum SendError {
    /// The connection ended before an answer began.
    #[error("the upstream closed the connection without an answer")]
    Broken,
    /// No connection was made.
    #[error(transparent)]
    Connect(#[from] ConnectError),
    /// The answer ended early, or its framing is wrong.
    #[error("the upstream's answer is cut off")]
    CutOff,
    /// The answer is compressed, which it was not asked to be.
    #[error("the upstream's answer has a content encoding")]
    Encoded,
    /// The answer's head has too many headers, or too many bytes of them.
    #[error("the upstream's answer has too many headers")]
    HeadTooLarge,
    /// What came back is not HTTP/1.1.
    #[error("the upstream's answer is not HTTP")]
    NotHttp,
    /// The answer did not end within `timeout`.
    #[error("the upstream did not finish its answer in time")]
    Timeout,
    /// The answer is longer than `max_response`.
    #[error("the upstream's answer is too large")]
    TooLarge,
    /// Twice in a row a pooled connection turned out to be closed before a byte was written.
    #[error("the upstream's connection was closed before the request began")]
    Unsent,
}

/// What a failure to send is to be reported as.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Failure {
    /// There was an answer, of no use: 502 `upstream_malformed`.
    Malformed,
    /// No answer in time: 504 `upstream_timeout`.
    Timeout,
    /// No answer at all: 502 `upstream_unavailable`.
    Unavailable,
}

impl SendError {
    /// Whether a byte of the request may have reached the upstream. `false` is certain: the request
    /// did nothing there and may be sent again.
    pub const fn sent(self) -> bool {
        !matches!(self, Self::Connect(_) | Self::Unsent)
    }

    /// What kind of failure this is to the caller.
    pub const fn failure(self) -> Failure {
        match self {
            Self::Connect(ConnectError::TimedOut) | Self::Timeout => Failure::Timeout,
            Self::Broken | Self::Connect(_) | Self::Unsent => Failure::Unavailable,
            Self::CutOff | Self::Encoded | Self::HeadTooLarge | Self::NotHttp | Self::TooLarge => {
                Failure::Malformed
            }
        }
    }

    /// One word for logs, metrics and audit events.
    pub const fn reason(self) -> &'static str {
        match self {
            Self::Broken => "closed_without_answer",
            Self::Connect(ConnectError::Certificate) => "certificate_refused",
            Self::Connect(ConnectError::Failed) => "connect_failed",
            Self::Connect(ConnectError::Refused) => "connect_refused",
            Self::Connect(ConnectError::Resolve) => "name_not_resolved",
            Self::Connect(ConnectError::TimedOut) => "connect_timeout",
            Self::Connect(ConnectError::Tls) => "tls_failed",
            Self::CutOff => "answer_cut_off",
            Self::Encoded => "answer_encoded",
            Self::HeadTooLarge => "answer_head_too_large",
            Self::NotHttp => "answer_not_http",
            Self::Timeout => "timeout",
            Self::TooLarge => "answer_too_large",
            Self::Unsent => "connection_lost_unsent",
        }
    }
}

/// The way to DCAMS. One for a configuration; it holds the pool.
pub struct UpstreamClient {
    client: Client<Connector, Segments>,
    url: Uri,
    host: HeaderValue,
    timeout: Duration,
    max_response: u64,
}

impl UpstreamClient {
    /// A client for these settings. Nothing is connected before the first request.
    pub fn new(settings: &UpstreamSettings) -> Result<Self, UpstreamError> {
        let (https, host) = target(&settings.url)?;
        let connector = Connector::new(https, &settings.roots, settings.connect_timeout)?;
        // hyper's own tasks serve one connection each and end with it: with the answer, with its
        // idle timeout, or when this client is dropped. Drain waits for requests, and must not wait
        // for connections that nobody uses, so these are the tasks outside of the TaskTracker.
        let client = Client::builder(TokioExecutor::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(settings.pool_idle_timeout)
            .pool_max_idle_per_host(settings.pool_max_idle)
            // `request` repeats what was not written, once; hyper would go on without an end.
            .retry_canceled_requests(false)
            .set_host(false)
            .http1_max_buf_size(READ_BUFFER)
            .build(connector);
        Ok(Self {
            client,
            url: settings.url.clone(),
            host,
            timeout: settings.timeout,
            max_response: settings.max_response,
        })
    }

    /// Sends the request with this credential, and reads the answer within the settings' limits.
    pub async fn send(
        &self,
        request: &SealedRequest,
        credential: &Credential,
    ) -> Result<UpstreamReply, SendError> {
        self.post(&request.body(credential)).await
    }

    /// Where it leads.
    pub const fn url(&self) -> &Uri {
        &self.url
    }

    /// How long one request may take.
    pub const fn timeout(&self) -> Duration {
        self.timeout
    }

    async fn post(&self, body: &Segments) -> Result<UpstreamReply, SendError> {
        let mut status = None;
        // One timer for the whole of it: connecting, sending, waiting, reading.
        let exchange = timeout(self.timeout, async {
            let response = self.request(body).await?;
            status = Some(response.status());
            self.read(response).await
        });
        let frames = exchange.await.unwrap_or(Err(SendError::Timeout));
        match (frames, status) {
            (Ok(frames), Some(status)) => Ok(UpstreamReply::new(status, frames)),
            // A 401 or a 503 says what it says, however its body ends.
            (Err(_), Some(status)) if verdict::decided_by(status) => {
                Ok(UpstreamReply::new(status, Vec::new()))
            }
            (Err(error), _) => Err(error),
            (Ok(_), None) => Err(SendError::Broken),
        }
    }

    /// Until the answer's head.
    ///
    /// A pooled connection may have been closed by the upstream a moment ago. hyper then hands the
    /// request back untouched ("canceled": it never left the queue, its body was not even asked
    /// for), and that is repeated here, once. Anything else is the caller's decision: from the
    /// first byte on nobody knows what the upstream did.
    async fn request(&self, body: &Segments) -> Result<Response<Incoming>, SendError> {
        match self.client.request(self.head(body.clone())).await {
            Ok(response) => return Ok(response),
            Err(error) if is_unsent(&error) => {}
            Err(error) => return Err(classify(&error)),
        }
        self.client
            .request(self.head(body.clone()))
            .await
            .map_err(|error| classify(&error))
    }

    /// Built from nothing, so that no header of a client can come along. `Content-Length` is added
    /// by hyper, from the body's exact size. The agent's version is nobody's business.
    fn head(&self, body: Segments) -> Request<Segments> {
        let mut request = Request::new(body);
        *request.method_mut() = http::Method::POST;
        *request.uri_mut() = self.url.clone();
        let json = HeaderValue::from_static("application/json");
        let headers = request.headers_mut();
        headers.insert(header::HOST, self.host.clone());
        headers.insert(header::ACCEPT, json.clone());
        headers.insert(header::CONTENT_TYPE, json);
        headers.insert(
            header::USER_AGENT,
            HeaderValue::from_static("dcams-gateway"),
        );
        request
    }

    async fn read(&self, response: Response<Incoming>) -> Result<Vec<Bytes>, SendError> {
        check_head(&response)?;
        let mut body = pin!(response.into_body());
        if body.size_hint().lower() > self.max_response {
            return Err(SendError::TooLarge);
        }
        let mut left = self.max_response;
        let mut gathered = Gathered::default();
        while let Some(frame) = body.frame().await {
            // Trailers say nothing that is documented; they are dropped.
            if let Ok(data) = frame.map_err(|_error| SendError::CutOff)?.into_data() {
                left = u64::try_from(data.len())
                    .ok()
                    .and_then(|length| left.checked_sub(length))
                    .ok_or(SendError::TooLarge)?;
                gathered.push(data);
            }
        }
        Ok(gathered.finish())
    }
}

fn target(url: &Uri) -> Result<(bool, HeaderValue), UpstreamError> {
    let https = match url.scheme() {
        Some(scheme) if *scheme == Scheme::HTTPS => true,
        Some(scheme) if *scheme == Scheme::HTTP => false,
        _ => return Err(UpstreamError::Url),
    };
    let authority = url.authority().ok_or(UpstreamError::Url)?.as_str();
    if authority.contains('@') {
        return Err(UpstreamError::Url);
    }
    let host = HeaderValue::from_str(authority).map_err(|_error| UpstreamError::Url)?;
    Ok((https, host))
}

/// hyper accepts a hundred headers and as many bytes as its read buffer has; we accept less.
fn check_head(response: &Response<Incoming>) -> Result<(), SendError> {
    let headers = response.headers();
    let bytes: usize = headers
        .iter()
        .map(|(name, value)| name.as_str().len() + value.len())
        .sum();
    if headers.len() > MAX_HEADERS || bytes > MAX_HEADER_BYTES {
        return Err(SendError::HeadTooLarge);
    }
    let encoded = headers
        .get_all(header::CONTENT_ENCODING)
        .iter()
        .any(|encoding| !encoding.as_bytes().eq_ignore_ascii_case(b"identity"));
    if encoded {
        return Err(SendError::Encoded);
    }
    Ok(())
}

/// The answer's frames as they come, small ones copied together.
#[derive(Default)]
struct Gathered {
    frames: Vec<Bytes>,
    small: BytesMut,
}

impl Gathered {
    fn push(&mut self, frame: Bytes) {
        if frame.len() < SMALL_FRAME {
            self.small.extend_from_slice(&frame);
        }
        if frame.len() >= SMALL_FRAME || self.small.len() >= SMALL_FRAME {
            self.cut();
        }
        if frame.len() >= SMALL_FRAME {
            self.frames.push(frame);
        }
    }

    fn cut(&mut self) {
        if !self.small.is_empty() {
            self.frames.push(std::mem::take(&mut self.small).freeze());
        }
    }

    fn finish(mut self) -> Vec<Bytes> {
        self.cut();
        self.frames
    }
}

/// hyper gives this error exactly where it gives the request back unwritten.
fn is_unsent(error: &Error) -> bool {
    !error.is_connect() && cause::<hyper::Error>(error).is_some_and(hyper::Error::is_canceled)
}

fn classify(error: &Error) -> SendError {
    if error.is_connect() {
        let cause = cause::<ConnectError>(error).copied();
        return SendError::Connect(cause.unwrap_or(ConnectError::Failed));
    }
    let Some(error) = cause::<hyper::Error>(error) else {
        return SendError::Broken;
    };
    if error.is_canceled() {
        return SendError::Unsent;
    }
    if error.is_parse_too_large() {
        return SendError::HeadTooLarge;
    }
    if error.is_parse() {
        return SendError::NotHttp;
    }
    SendError::Broken
}

fn cause<E: std::error::Error + 'static>(error: &Error) -> Option<&E> {
    let mut next = std::error::Error::source(error);
    while let Some(error) = next {
        if let Some(found) = error.downcast_ref() {
            return Some(found);
        }
        next = error.source();
    }
    None
}

#[cfg(test)]
mod tests;
