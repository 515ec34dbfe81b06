//! The only place that builds a response for a client.
//!
//! Invariant: a response is built from nothing. No header of the upstream is relayed, and an error
//! says fixed English, names of members and the upstream's checked message; never a value of the
//! request, never why a token was refused.

use std::{fmt::Write as _, time::Duration};

use http::{
    HeaderName, HeaderValue, Response, StatusCode,
    header::{AGE, ALLOW, CACHE_CONTROL, CONTENT_TYPE, ETAG, RETRY_AFTER, WWW_AUTHENTICATE},
};
use serde::Serialize;

use crate::{
    audit::receipt::Receipt,
    auth::{
        AuthError,
        dpop::{ALGORITHMS, DPOP_NONCE},
        permit::PermitError,
    },
    body::BodyError,
    caching::{CACHE_STATUS, CacheStatus, DCAMS_STALE},
    clock,
    customer::OwnershipError,
    error::{ErrorCode, GatewayError},
    ident::{RequestId, TenantId},
    limits::Policy,
    payload::{PayloadError, Violation},
    quota::{QuotaError, Standing},
    route::RouteError,
    segments::Segments,
    upstream::verdict::{self, Refusal},
};

/// The header that carries the gateway's id of a request.
pub const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
const AUDIT_RECEIPT: HeaderName = HeaderName::from_static("audit-receipt");
const RATELIMIT: HeaderName = HeaderName::from_static("ratelimit");
const RATELIMIT_POLICY: HeaderName = HeaderName::from_static("ratelimit-policy");

/// A success: the upstream's documented fields as JSON.
pub fn answer(body: Segments, id: RequestId) -> Response<Segments> {
    respond(StatusCode::OK, "application/json", body, id)
}

/// The body that a client has already, by its tag (RFC 9110, 15.4.5).
pub fn not_modified(id: RequestId) -> Response<Segments> {
    let kind = "application/json";
    let mut response = respond(StatusCode::NOT_MODIFIED, kind, Segments::default(), id);
    response.headers_mut().remove(CONTENT_TYPE);
    response
}

/// A response that says what part the cache had in it (RFC 9211), how old it is, and its tag.
pub fn with_cache(mut response: Response<Segments>, cached: &CacheStatus) -> Response<Segments> {
    let success = matches!(response.status(), StatusCode::OK | StatusCode::NOT_MODIFIED);
    let headers = response.headers_mut();
    headers.insert(AGE, HeaderValue::from(cached.age.as_secs()));
    if let Ok(status) = HeaderValue::try_from(cached.to_string()) {
        headers.insert(CACHE_STATUS, status);
    }
    if cached.is_stale() {
        headers.insert(DCAMS_STALE, HeaderValue::from_static("true"));
    }
    if let Some(tag) = cached.tag.filter(|_| success)
        && let Ok(tag) = HeaderValue::try_from(tag.to_string())
    {
        headers.insert(ETAG, tag);
    }
    response
}

/// A problem document for an error (RFC 9457), which a DCAMS client can read as an error too.
pub fn problem(error: &GatewayError, id: RequestId) -> Response<Segments> {
    let code = error.code();
    let detail = detail(error);
    let id_text = id.to_string();
    let document = Problem {
        kind: format!("urn:dcams-gateway:problem:{}", code.as_str()),
        title: code.title(),
        status: code.status(),
        code: code.as_str(),
        detail: &detail,
        request_id: &id_text,
        result: "Error",
        message: upstream_message(error).unwrap_or(&detail),
        errors: violations(error),
    };
    // Plain strings and numbers: serialising them into memory has nothing to fail on.
    let body = serde_json::to_vec(&document).unwrap_or_default();
    let status = StatusCode::from_u16(code.status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let mut response = respond(status, "application/problem+json", body.into(), id);
    let headers = response.headers_mut();
    for challenge in challenges(error) {
        headers.append(WWW_AUTHENTICATE, challenge);
    }
    if let GatewayError::Route(RouteError::MethodNotAllowed { allow }) = error {
        headers.insert(ALLOW, HeaderValue::from_static(allow));
    }
    if let Some(seconds) = retry_after(error) {
        headers.insert(RETRY_AFTER, HeaderValue::from(seconds));
    }
    response
}

/// A response whose outcome is on disk, with where that stands.
pub fn with_receipt(mut response: Response<Segments>, receipt: &Receipt) -> Response<Segments> {
    if let Ok(receipt) = HeaderValue::try_from(receipt.to_string()) {
        response.headers_mut().insert(AUDIT_RECEIPT, receipt);
    }
    response
}

/// A response with a nonce for the client's next proof (RFC 9449, 8).
pub fn with_nonce(mut response: Response<Segments>, nonce: HeaderValue) -> Response<Segments> {
    response.headers_mut().insert(DPOP_NONCE, nonce);
    response
}

/// A response to an authenticated caller, with its limits and how they stand
/// (draft-ietf-httpapi-ratelimit-headers-11). Nothing is added where there are none.
pub fn with_limits(mut response: Response<Segments>, standings: &[Standing]) -> Response<Segments> {
    if standings.is_empty() {
        return response;
    }
    let (mut policies, mut now) = (String::new(), String::new());
    for standing in standings {
        let (name, limit) = (standing.policy.name(), standing.limit);
        let comma = if now.is_empty() { "" } else { ", " };
        // Writing to a string cannot fail.
        let _ = write!(policies, "{comma}\"{name}\";q={limit}");
        if let Some(window) = standing.window {
            let _ = write!(policies, ";w={}", whole_seconds(window));
        }
        if let Some(unit) = unit(standing.policy) {
            let _ = write!(policies, ";qu=\"{unit}\"");
        }
        let (left, resets) = (standing.left, whole_seconds(standing.resets));
        let _ = write!(now, "{comma}\"{name}\";r={left};t={resets}");
    }
    for (name, text) in [(RATELIMIT_POLICY, policies), (RATELIMIT, now)] {
        if let Ok(value) = HeaderValue::try_from(text) {
            response.headers_mut().insert(name, value);
        }
    }
    response
}

/// What a policy counts, where that is not requests.
pub(crate) const fn unit(policy: Policy) -> Option<&'static str> {
    match policy {
        Policy::BytesDaily => Some("content-bytes"),
        Policy::Concurrency => Some("concurrent-requests"),
        Policy::Daily
        | Policy::Monthly
        | Policy::Rate
        | Policy::SubjectDaily
        | Policy::SubjectRate => None,
    }
}

/// Rounded up: so long is enough.
fn whole_seconds(duration: Duration) -> u64 {
    let more = u64::from(duration.subsec_nanos() > 0);
    duration.as_secs().saturating_add(more)
}

/// How a token's own tenant stands.
pub fn usage(tenant: &TenantId, standings: &[Standing], id: RequestId) -> Response<Segments> {
    let now = clock::now();
    let limit = |standing: &Standing| UsedLimit {
        policy: standing.policy.name(),
        unit: unit(standing.policy).unwrap_or("requests"),
        limit: standing.limit,
        used: standing.limit.saturating_sub(standing.left),
        left: standing.left,
        resets_at: standing.resets_at(now).map(|at| at.to_string()),
    };
    let document = Usage {
        tenant: tenant.as_str(),
        limits: standings.iter().map(limit).collect(),
    };
    // Plain strings and numbers: serialising them into memory has nothing to fail on.
    let body = serde_json::to_vec(&document).unwrap_or_default();
    respond(StatusCode::OK, "application/json", body.into(), id)
}

#[derive(Serialize)]
struct Usage<'a> {
    tenant: &'a str,
    limits: Vec<UsedLimit>,
}

#[derive(Serialize)]
struct UsedLimit {
    policy: &'static str,
    unit: &'static str,
    limit: u64,
    used: u64,
    left: u64,
    /// When all of it is there again; none for what is free as soon as a request ends.
    resets_at: Option<String>,
}

/// When another try is worth it, in seconds.
fn retry_after(error: &GatewayError) -> Option<u64> {
    if let GatewayError::Quota(QuotaError::Denied(denied)) = error {
        return Some(whole_seconds(denied.retry_after).max(1));
    }
    if let GatewayError::Body(BodyError::Overloaded { retry_after }) = error {
        return Some(retry_after.as_secs().max(1));
    }
    let code = error.code();
    if code == ErrorCode::Overloaded {
        // Room for used proofs is made second by second, as they run out.
        return Some(1);
    }
    // Mended by a key server or a disk that comes back, which takes people or processes.
    let absent = matches!(
        code,
        ErrorCode::AuditUnavailable | ErrorCode::IssuerUnavailable | ErrorCode::StateUnavailable
    );
    absent.then_some(5)
}

fn respond(
    status: StatusCode,
    content_type: &'static str,
    body: Segments,
    id: RequestId,
) -> Response<Segments> {
    let mut response = Response::new(body);
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    if let Ok(id) = HeaderValue::try_from(id.to_string()) {
        headers.insert(REQUEST_ID, id);
    }
    response
}

#[derive(Serialize)]
struct Problem<'a> {
    #[serde(rename = "type")]
    kind: String,
    title: &'a str,
    status: u16,
    code: &'a str,
    detail: &'a str,
    request_id: &'a str,
    result: &'a str,
    message: &'a str,
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    errors: &'a [Violation],
}

/// What the caller is told to do next: finer than the code's advice where the error says more.
fn detail(error: &GatewayError) -> String {
    match error {
        GatewayError::Authorize(PermitError::InsufficientScope { needed }) => {
            format!("this service needs the scope {needed}")
        }
        GatewayError::Authorize(PermitError::CustomerMismatch { pointer }) => {
            format!("use a token that was issued for this value of {pointer}")
        }
        GatewayError::Body(BodyError::Broken) => "the body ended before its length".to_owned(),
        GatewayError::Body(BodyError::TooLarge { limit }) => {
            format!("a body may have at most {limit} bytes with this token")
        }
        GatewayError::OverService(limit) => {
            format!("a body may have at most {limit} bytes with this service")
        }
        GatewayError::Quota(QuotaError::Denied(denied)) => {
            let policy = denied.policy.name();
            format!(
                "the limit {policy} has no room for this request; wait as long as Retry-After says, then try again"
            )
        }
        GatewayError::Payload(PayloadError::DuplicateMember(pointer)) => {
            format!("a member stands twice at {pointer}")
        }
        GatewayError::Payload(PayloadError::Invalid(found)) if found.len() == 1 => {
            "1 field is invalid".to_owned()
        }
        GatewayError::Payload(PayloadError::Invalid(found)) => {
            format!("{} fields are invalid", found.len())
        }
        GatewayError::Payload(PayloadError::MalformedJson { line, column }) => {
            format!("not valid JSON at line {line}, column {column}")
        }
        GatewayError::Route(RouteError::BadRequest { why }) => why.to_string(),
        GatewayError::Route(RouteError::Query) => {
            "send no query string: none has a meaning here".to_owned()
        }
        GatewayError::Withheld(_) => {
            "what was asked may have been done, and its answer is kept back; read the customer's status before writing again, when Retry-After has passed"
                .to_owned()
        }
        GatewayError::Address(_)
        | GatewayError::Audit(_)
        | GatewayError::Cache(_)
        | GatewayError::Authenticate(_)
        | GatewayError::Authorize(_)
        | GatewayError::Body(_)
        | GatewayError::Head(_)
        | GatewayError::Internal
        | GatewayError::Lease(_)
        | GatewayError::Own(_)
        | GatewayError::Payload(_)
        | GatewayError::Quota(QuotaError::Unavailable)
        | GatewayError::Refuse(_)
        | GatewayError::Route(_)
        | GatewayError::Send(_)
        | GatewayError::TenantDisabled => advice(error.code()).to_owned(),
    }
}

#[expect(clippy::too_many_lines, reason = "one line a code")]
fn advice(code: ErrorCode) -> &'static str {
    match code {
        ErrorCode::AddressNotAllowed => {
            "call from an address of the tenant's, or ask the gateway's operator to allow this one"
        }
        ErrorCode::AuditUnavailable => {
            "nothing was sent to DCAMS; wait as long as Retry-After says, then try again"
        }
        ErrorCode::BadRequest => "send one unambiguous request",
        ErrorCode::CustomerMismatch => "use a token that was issued for this customer",
        ErrorCode::CustomerNotFound => "no customer with this email is known",
        ErrorCode::CustomerUnavailable => {
            "this customer is not yours to create; if it should be, ask the gateway's operator"
        }
        ErrorCode::DuplicateMember => "name each member once",
        ErrorCode::ExpectationFailed => "of expectations only 100-continue is understood",
        ErrorCode::ExpiredToken => "get a fresh token and send the request again",
        ErrorCode::HeadersTooLarge => "send fewer or shorter headers",
        ErrorCode::InsufficientScope => "get a token with the scope of this service",
        ErrorCode::InternalError => "try again; if it lasts, report the request id",
        ErrorCode::InvalidDpopProof => {
            "send a new DPoP proof for this URL and token, made now with the token's key"
        }
        ErrorCode::InvalidPayload => "DCAMS refused the data; its message says why",
        ErrorCode::InvalidToken => "get a token for this gateway from your issuer",
        ErrorCode::IssuerUnavailable => {
            "the token could not be checked; wait as long as Retry-After says, then try again"
        }
        ErrorCode::LengthRequired => "send Content-Length and no Transfer-Encoding",
        ErrorCode::MalformedJson => "send one JSON document in UTF-8",
        ErrorCode::MethodNotAllowed => "send a POST",
        ErrorCode::MissingToken => "send Authorization: Bearer with a token",
        ErrorCode::NotCached => "send it without only-if-cached",
        ErrorCode::NotFound | ErrorCode::UriTooLong => "send requests to /v3/stable/api/storage",
        ErrorCode::PayloadTooLarge => "send a smaller body",
        ErrorCode::Overloaded
        | ErrorCode::QuotaExhausted
        | ErrorCode::RateLimited
        | ErrorCode::TooManyConcurrentRequests => {
            "wait as long as Retry-After says, then try again"
        }
        ErrorCode::RequestTimeout => "send the body without pauses",
        ErrorCode::ServiceNotAllowed => {
            "ask the gateway's operator to open this service to the tenant, or to customer-bound tokens"
        }
        ErrorCode::StateUnavailable => {
            "nothing was done; wait as long as Retry-After says, then try again"
        }
        ErrorCode::TenantDisabled => "ask the gateway's operator to enable this tenant",
        ErrorCode::UnknownService => {
            "service is one of createOrUpdateCustomer, getStatus, getDocumentImages, updateStatus"
        }
        ErrorCode::UnsupportedMediaType => {
            "send Content-Type: application/json in UTF-8 and no Content-Encoding"
        }
        ErrorCode::UpstreamCredentialsRejected => {
            "nothing is wrong with the request; the gateway's operator has to act"
        }
        ErrorCode::UpstreamMalformed => "try again later; if it lasts, report the request id",
        ErrorCode::UpstreamTimeout => {
            "the outcome is unknown: read the customer's status before writing again"
        }
        ErrorCode::UpstreamUnavailable => "try again later",
        ErrorCode::UseDpopNonce => "make a new DPoP proof with the nonce of the DPoP-Nonce header",
    }
}

/// What DCAMS itself said, where it is relayed; or would say, where it is not asked.
fn upstream_message(error: &GatewayError) -> Option<&str> {
    if let GatewayError::Own(
        OwnershipError::AnotherTenants
        | OwnershipError::NotAtUpstream
        | OwnershipError::NotInLedger,
    ) = error
    {
        return Some(verdict::NOT_FOUND);
    }
    let GatewayError::Refuse(refusal) = error else {
        return None;
    };
    match refusal {
        Refusal::NotFound { message } | Refusal::Refused { message } => Some(message.as_str()),
        Refusal::CredentialsRejected
        | Refusal::Echo
        | Refusal::Malformed(_)
        | Refusal::Unavailable { .. } => None,
    }
}

fn violations(error: &GatewayError) -> &[Violation] {
    if let GatewayError::Payload(PayloadError::Invalid(found)) = error {
        return found;
    }
    &[]
}

const BEARER: &str = r#"Bearer realm="dcams-gateway""#;
const DPOP: &str = r#"DPoP realm="dcams-gateway""#;

/// The challenges of RFC 6750, section 3, and RFC 9449, section 7.1.
fn challenges(error: &GatewayError) -> Vec<HeaderValue> {
    let bearer = |error| format!("{BEARER}, error=\"{error}\"");
    let dpop = |error| format!("{DPOP}, error=\"{error}\", algs=\"{ALGORITHMS}\"");
    let code = error.code();
    let texts = if let GatewayError::Authorize(PermitError::InsufficientScope { needed }) = error {
        vec![format!(
            "{}, scope=\"{needed}\"",
            bearer("insufficient_scope")
        )]
    } else if let GatewayError::Authenticate(AuthError::BoundKey | AuthError::NotBound) = error {
        // A good token under the wrong scheme, of an issuer whose tokens are bound, or not yet.
        vec![bearer("invalid_token"), dpop("invalid_token")]
    } else if matches!(code, ErrorCode::InvalidDpopProof | ErrorCode::UseDpopNonce) {
        vec![dpop(code.as_str())]
    } else if code == ErrorCode::MissingToken {
        vec![BEARER.to_owned()]
    } else if code == ErrorCode::ExpiredToken {
        let invalid = bearer("invalid_token");
        vec![format!("{invalid}, error_description=\"expired\"")]
    } else if code == ErrorCode::InvalidToken {
        // One challenge for every forgery: which check failed is nobody's business.
        vec![bearer("invalid_token")]
    } else {
        Vec::new()
    };
    // Fixed words and names of scopes, which are all fit for a header.
    texts
        .into_iter()
        .filter_map(|text| HeaderValue::try_from(text).ok())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::auth::dpop::ProofError;

    fn told(error: AuthError) -> (u16, Vec<String>) {
        let response = problem(&GatewayError::Authenticate(error), RequestId::mint());
        let challenges = response.headers().get_all(WWW_AUTHENTICATE).iter();
        let challenges = challenges.map(|c| c.to_str().unwrap().to_owned());
        (response.status().as_u16(), challenges.collect())
    }

    #[test]
    fn a_bad_proof_and_a_missing_nonce_are_challenged_for_dpop_with_all_algorithms() {
        let algs = r#"algs="ES256 ES384 EdDSA PS256 PS384 PS512 RS256 RS384 RS512""#;
        for (error, name) in [
            (ProofError::Replayed, "invalid_dpop_proof"),
            (ProofError::Missing, "invalid_dpop_proof"),
            (ProofError::NonceRequired, "use_dpop_nonce"),
        ] {
            let challenge = format!(r#"DPoP realm="dcams-gateway", error="{name}", {algs}"#);
            assert_eq!(told(error.into()), (401, vec![challenge]));
        }
    }

    #[test]
    fn a_token_under_the_wrong_scheme_is_told_both() {
        for error in [AuthError::BoundKey, AuthError::NotBound] {
            let (status, challenges) = told(error);
            assert_eq!(status, 401);
            let [bearer, dpop] = challenges.try_into().unwrap();
            assert!(bearer.starts_with("Bearer ") && bearer.contains("invalid_token"));
            assert!(dpop.starts_with("DPoP ") && dpop.contains("invalid_token"));
        }
    }

    #[test]
    fn what_makes_a_token_a_forgery_is_not_told() {
        let (status, challenges) = told(AuthError::BadSignature);
        assert_eq!((status, challenges.len()), (401, 1));
        for error in [
            AuthError::UncheckedConfirmation,
            AuthError::UnknownKey,
            AuthError::WrongAudience,
        ] {
            assert_eq!(told(error), (status, challenges.clone()));
        }
    }

    #[test]
    fn a_full_memory_of_proofs_asks_to_come_back() {
        let error = GatewayError::Authenticate(ProofError::Full.into());
        let response = problem(&error, RequestId::mint());
        assert_eq!(response.status(), StatusCode::SERVICE_UNAVAILABLE);
        assert_eq!(response.headers()[RETRY_AFTER], "1");
        assert!(!response.headers().contains_key(WWW_AUTHENTICATE));
    }
}
