//! Sends lines by POST, to a server that takes them as they are or to a collector.
//!
//! Invariants: only the configured URL is called, and no redirect or proxy leads elsewhere; one batch
//! takes `timeout` at most, from connecting to the last byte, and of an answer 64 KiB are read at most.
//! What comes is hostile input: nothing of it is logged, and no failure holds any of it.

use std::time::Duration;

use http::{
    HeaderMap, HeaderName, HeaderValue, Method, StatusCode,
    header::{AUTHORIZATION, CONTENT_ENCODING, CONTENT_TYPE, RETRY_AFTER},
};
use jiff::{Timestamp, fmt::rfc2822};
use reqwest::{Request, Response, Url};
use tokio::time::timeout;

use super::{
    ShipSetupError,
    batch::Slice,
    failure::{Failure, NotTaken},
    otlp,
    settings::{ShipSettings, ShipToken},
};
use crate::{clock, endpoint::Endpoint, tls};

/// The longest answer that is read: a collector's is a few words.
const MAX_ANSWER: usize = 64 * 1024;
/// `draft-ietf-httpapi-idempotency-key-header`: a quoted string.
const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");

/// How lines are written into a body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Form {
    /// As they are.
    Lines,
    /// As records of OpenTelemetry.
    Records,
}

/// The way to one receiver.
pub(super) struct Poster {
    client: reqwest::Client,
    url: Url,
    form: Form,
    authorization: Option<HeaderValue>,
    timeout: Duration,
}

impl Poster {
    /// Builds the client; sends nothing.
    pub(super) fn new(
        settings: &ShipSettings,
        endpoint: &Endpoint,
        form: Form,
    ) -> Result<Self, ShipSetupError> {
        let url = Url::parse(&endpoint.uri().to_string());
        Ok(Self {
            client: tls::small_client(endpoint.is_https(), &settings.roots)?,
            url: url.map_err(|_error| ShipSetupError::Client)?,
            form,
            authorization: settings.token.as_ref().and_then(ShipToken::bearer),
            timeout: settings.timeout,
        })
    }

    /// Sends lines. They were taken where this says so, and may have been where not.
    pub(super) async fn send(&self, lines: Slice<'_>) -> Result<(), NotTaken> {
        timeout(self.timeout, self.exchange(lines))
            .await
            .unwrap_or(Err(Failure::TimedOut.into()))
    }

    async fn exchange(&self, lines: Slice<'_>) -> Result<(), NotTaken> {
        let sent = self.client.execute(self.request(lines)).await;
        let response = sent.map_err(|error| Failure::of(&error))?;
        judge(response.status()).map_err(|failure| NotTaken {
            failure,
            retry_after: retry_after(response.headers(), clock::now()),
        })?;
        match self.form {
            // Its status says it all, and its body is not read.
            Form::Lines => Ok(()),
            Form::Records => Ok(otlp::taken(&read(response).await?)?),
        }
    }

    fn request(&self, lines: Slice<'_>) -> Request {
        let mut request = Request::new(Method::POST, self.url.clone());
        let (kind, body) = match self.form {
            Form::Lines => ("application/x-ndjson", lines.bytes()),
            Form::Records => ("application/json", otlp::request(lines).into()),
        };
        *request.body_mut() = Some(body.into());
        let headers = request.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static(kind));
        // A node's name and two numbers always can stand in a header.
        if let Ok(key) = HeaderValue::from_str(&lines.key()) {
            headers.insert(IDEMPOTENCY_KEY, key);
        }
        if let Some(authorization) = &self.authorization {
            headers.insert(AUTHORIZATION, authorization.clone());
        }
        request
    }
}

fn judge(status: StatusCode) -> Result<(), Failure> {
    Err(match status.as_u16() {
        200..300 => return Ok(()),
        300..400 => Failure::Redirected,
        400 | 413 => Failure::Refused,
        401 | 403 => Failure::Unauthorized,
        429 => Failure::Limited,
        500..600 => Failure::Server,
        _ => Failure::Status,
    })
}

async fn read(mut response: Response) -> Result<Vec<u8>, Failure> {
    // None was asked for, and a small body must not become a large one.
    if response.headers().contains_key(CONTENT_ENCODING) {
        return Err(Failure::Encoded);
    }
    let mut body = Vec::new();
    while let Some(piece) = response.chunk().await.map_err(|e| Failure::of(&e))? {
        if piece.len() > MAX_ANSWER.saturating_sub(body.len()) {
            return Err(Failure::TooLarge);
        }
        body.extend_from_slice(&piece);
    }
    Ok(body)
}

/// For how long the receiver asks to be left alone (RFC 9110, section 10.2.3): seconds, or a date.
fn retry_after(headers: &HeaderMap, now: Timestamp) -> Option<Duration> {
    let text = headers.get(RETRY_AFTER)?.to_str().ok()?;
    if let Ok(seconds) = text.parse() {
        return Some(Duration::from_secs(seconds));
    }
    let date = rfc2822::DateTimeParser::new().parse_timestamp(text).ok()?;
    date.duration_since(now).try_into().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pause_is_given_in_seconds_or_as_a_date() {
        let now: Timestamp = "2026-11-23T08:00:00Z".parse().unwrap();
        for (text, pause) in [
            ("0", Some(0)),
            ("120", Some(120)),
            ("Mon, 23 Nov 2026 08:01:00 GMT", Some(60)),
            ("Mon, 23 Nov 2026 07:59:00 GMT", None),
            ("-1", None),
            ("soon", None),
            ("99999999999999999999", None),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(RETRY_AFTER, HeaderValue::from_static(text));
            let expected = pause.map(Duration::from_secs);
            assert_eq!(retry_after(&headers, now), expected, "{text}");
        }
    }
}
