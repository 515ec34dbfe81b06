//! Asks an issuer's server for its key set, and where that is if the issuer says so by discovery.
//!
//! Invariant: only the configured URL is called, or the one that the issuer's own discovery document
//! names; no redirect, proxy or token leads anywhere else. One fetch takes `timeout` at most, whatever
//! it asks for, and an answer is 256 KiB at most. What comes is hostile input: nothing of it is logged.

use std::time::Duration;

use http::{HeaderMap, StatusCode, header::CONTENT_ENCODING};
use jsonwebtoken::Algorithm;
use reqwest::{Client, Url};
use thiserror::Error;
use tokio::time::{Instant, timeout};

use super::{JwksSettings, JwksSource, SetupError, freshness, schedule::Cause};
use crate::{
    auth::{
        json::{Object, Value},
        keys::{KeyError, KeyFault, KeySet},
    },
    endpoint::Endpoint,
    tls,
};

/// The longest answer that is read: a hundred large keys with their certificates.
const MAX_ANSWER: usize = 256 * 1024;

/// How long a discovered URL is used without asking again.
const REDISCOVER: Duration = Duration::from_hours(24);

/// Fetches one issuer's keys.
pub(super) struct Fetcher {
    client: Client,
    source: JwksSource,
    algorithms: Vec<Algorithm>,
    timeout: Duration,
}

/// A set, and for how long its issuer says that it is fresh.
pub(super) struct Fetched {
    pub(super) keys: KeySet,
    pub(super) lifetime: Option<Duration>,
}

/// Where the set was the last time that discovery was asked.
pub(super) struct Location {
    endpoint: Endpoint,
    asked: Instant,
    /// A fetch has failed since, perhaps because the set has moved.
    doubtful: bool,
}

impl Fetcher {
    /// Builds the client; sends nothing.
    pub(super) fn new(settings: JwksSettings) -> Result<Self, SetupError> {
        let https = settings.source.endpoint().is_https();
        let client = tls::small_client(https, &settings.roots)?;
        Ok(Self {
            client,
            source: settings.source,
            algorithms: settings.algorithms,
            timeout: settings.timeout,
        })
    }

    /// Fetches the set. `location` is what discovery said, kept by the caller between fetches.
    pub(super) async fn fetch(
        &self,
        cause: Cause,
        location: &mut Option<Location>,
        now: Instant,
    ) -> Result<Fetched, FetchError> {
        let result = timeout(self.timeout, self.round(cause, location, now))
            .await
            .unwrap_or(Err(FetchError::TimedOut));
        if let (Err(_), Some(location)) = (&result, location) {
            location.doubtful = true;
        }
        result
    }

    async fn round(
        &self,
        cause: Cause,
        location: &mut Option<Location>,
        now: Instant,
    ) -> Result<Fetched, FetchError> {
        let answer = match &self.source {
            JwksSource::Url(endpoint) => self.get(endpoint).await?,
            JwksSource::Discovery { issuer, document } => {
                let known = location.as_ref().filter(|l| l.is_good(cause, now));
                let endpoint = match known {
                    Some(location) => location.endpoint.clone(),
                    None => self.discover(issuer, document).await?,
                };
                if known.is_none() {
                    *location = Some(Location {
                        endpoint: endpoint.clone(),
                        asked: now,
                        doubtful: false,
                    });
                }
                self.get(&endpoint).await?
            }
        };
        Ok(Fetched {
            keys: KeySet::from_published_jwks(&self.algorithms, &answer.body)?,
            lifetime: freshness::lifetime(&answer.headers),
        })
    }

    /// Asks the issuer where its keys are (`OpenID` Connect Discovery 1.0, section 4).
    async fn discover(&self, issuer: &str, document: &Endpoint) -> Result<Endpoint, FetchError> {
        let answer = self.get(document).await?;
        let said = Object::parse(&answer.body).map_err(|_| FetchError::Json)?;
        // Section 4.3. Whoever serves another issuer's document does not speak for this one.
        if said.get("issuer").and_then(Value::text) != Some(issuer) {
            return Err(FetchError::OtherIssuer);
        }
        let endpoint = said.get("jwks_uri").and_then(Value::text);
        let endpoint = endpoint.ok_or(FetchError::NoLocation)?;
        let endpoint = Endpoint::parse(endpoint).map_err(|_| FetchError::RefusedLocation)?;
        // An issuer elsewhere has no business on this machine's plain ports.
        if document.is_https() && !endpoint.is_https() {
            return Err(FetchError::RefusedLocation);
        }
        Ok(endpoint)
    }

    async fn get(&self, endpoint: &Endpoint) -> Result<Answer, FetchError> {
        let url = Url::parse(&endpoint.uri().to_string());
        let url = url.map_err(|_| FetchError::RefusedLocation)?;
        let sent = self.client.get(url).send().await;
        let mut response = sent.map_err(|error| FetchError::of(&error))?;
        if response.status().is_redirection() {
            return Err(FetchError::Redirected);
        }
        if response.status() != StatusCode::OK {
            return Err(FetchError::Status);
        }
        // None was asked for, and a small body must not become a large one.
        if response.headers().contains_key(CONTENT_ENCODING) {
            return Err(FetchError::Encoded);
        }
        let announced = response.content_length().unwrap_or(0);
        if usize::try_from(announced).unwrap_or(usize::MAX) > MAX_ANSWER {
            return Err(FetchError::TooLarge);
        }
        let headers = std::mem::take(response.headers_mut());
        let mut body = Vec::new();
        while let Some(piece) = response.chunk().await.map_err(|e| FetchError::of(&e))? {
            if piece.len() > MAX_ANSWER.saturating_sub(body.len()) {
                return Err(FetchError::TooLarge);
            }
            body.extend_from_slice(&piece);
        }
        Ok(Answer { headers, body })
    }
}

struct Answer {
    headers: HeaderMap,
    body: Vec<u8>,
}

impl Location {
    /// Whether it is used without asking again. An unknown key is no reason to ask: it costs one
    /// request, not two.
    fn is_good(&self, cause: Cause, now: Instant) -> bool {
        let recent = now.saturating_duration_since(self.asked) < REDISCOVER;
        cause == Cause::UnknownKey || (recent && !self.doubtful)
    }
}

/// Why a fetch brought no keys.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub(super) enum FetchError {
    #[error("the key server's certificate was refused")]
    Certificate,
    #[error("the answer is compressed")]
    Encoded,
    #[error("the answer broke off")]
    Interrupted,
    #[error("the discovery document is not JSON, or a name stands twice in an object")]
    Json,
    #[error("the key set is refused: {0}")]
    Keys(#[from] KeyError),
    #[error("the discovery document names no key set")]
    NoLocation,
    #[error("the discovery document is another issuer's")]
    OtherIssuer,
    #[error("the answer is a redirect")]
    Redirected,
    #[error("the discovery document names a key set that is not fetched over https")]
    RefusedLocation,
    #[error("the status is not 200")]
    Status,
    #[error("the answer took too long")]
    TimedOut,
    #[error("the answer is larger than 256 KiB")]
    TooLarge,
    #[error("the key server was not reached")]
    Unreachable,
}

impl FetchError {
    fn of(error: &reqwest::Error) -> Self {
        if error.is_timeout() {
            return Self::TimedOut;
        }
        let certificate = tls::causes(error).any(|cause| {
            let error = cause.downcast_ref::<rustls::Error>();
            matches!(error, Some(rustls::Error::InvalidCertificate(_)))
        });
        if certificate {
            return Self::Certificate;
        }
        if error.is_connect() {
            return Self::Unreachable;
        }
        Self::Interrupted
    }

    /// The reason in one word, of a closed set: for logs and counters.
    pub(super) const fn reason(&self) -> &'static str {
        match self {
            Self::Certificate => "certificate",
            Self::Encoded => "encoded",
            Self::Interrupted => "interrupted",
            Self::Json => "malformed_json",
            Self::Keys(error) => of_keys(error),
            Self::NoLocation => "no_jwks_uri",
            Self::OtherIssuer => "other_issuer",
            Self::Redirected => "redirected",
            Self::RefusedLocation => "refused_jwks_uri",
            Self::Status => "status",
            Self::TimedOut => "timed_out",
            Self::TooLarge => "too_large",
            Self::Unreachable => "unreachable",
        }
    }
}

const fn of_keys(error: &KeyError) -> &'static str {
    match error {
        KeyError::Jwk { fault, .. } | KeyError::Key(fault) => match fault {
            KeyFault::Ambiguous => "ambiguous_keys",
            KeyFault::Private => "private_key",
            KeyFault::Symmetric => "symmetric_key",
            KeyFault::Member { .. }
            | KeyFault::Operations
            | KeyFault::Unfit { .. }
            | KeyFault::Unlisted
            | KeyFault::Use
            | KeyFault::WeakRsa => "refused_key",
        },
        KeyError::Json { .. } => "malformed_json",
        KeyError::NotASet => "not_a_key_set",
        KeyError::NothingUsable => "no_usable_key",
        KeyError::MixedFamilies
        | KeyError::NoAlgorithm
        | KeyError::NotAPrivateKey
        | KeyError::NotAPublicKey
        | KeyError::Pem
        | KeyError::PublicKeyForHmac { .. }
        | KeyError::SecretForPublicKey { .. }
        | KeyError::SecretIsPem
        | KeyError::Signing
        | KeyError::UnknownAlgorithm
        | KeyError::WeakSecret { .. } => "refused_key",
    }
}
