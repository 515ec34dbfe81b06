//! Everything a request can end with besides an answer, and the stable code that clients, metrics
//! and audit events share.
//!
//! Invariant: closed sets, one variant a step. Nothing here carries text of a request; what a
//! client is told stands in `reply.rs`.

use std::fmt;

use http::StatusCode;

use crate::{
    address::AddressError,
    audit::AuditUnavailable,
    auth::{AuthError, dpop::ProofError, permit::PermitError},
    body::BodyError,
    caching::CacheError,
    credential::pool::LeaseError,
    customer::OwnershipError,
    limits::Policy,
    payload::PayloadError,
    quota::{Denied, QuotaError},
    route::RouteError,
    upstream::{
        client::{Failure, SendError},
        verdict::Refusal,
    },
};

/// Why a request was not answered with a customer's data.
#[derive(Debug, Clone)]
pub enum GatewayError {
    /// The tenant may not be called from where the request came.
    Address(AddressError),
    /// It cannot be recorded, and was not done.
    Audit(AuditUnavailable),
    /// The token was refused.
    Authenticate(AuthError),
    /// The caller may not do this.
    Authorize(PermitError),
    /// The body did not arrive.
    Body(BodyError),
    /// The status cache stands in the way.
    Cache(CacheError),
    /// The head could not be parsed; the status is what the HTTP library makes of it.
    Head(StatusCode),
    /// A defect of the gateway: its handler panicked.
    Internal,
    /// No credential of the account could be had to send it with.
    Lease(LeaseError),
    /// The body is longer than its service may have; the bound is in bytes.
    OverService(u64),
    /// The customer is not the tenant's, or that cannot be told.
    Own(OwnershipError),
    /// The body is not what a service takes.
    Payload(PayloadError),
    /// A limit of the tenant's is reached, or that cannot be told.
    Quota(QuotaError),
    /// The upstream answered with a refusal, or with nothing that the vendor documents.
    Refuse(Refusal),
    /// The request is not one that is served here.
    Route(RouteError),
    /// The upstream could not be asked, or did not answer.
    Send(SendError),
    /// The token's tenant is switched off.
    TenantDisabled,
    /// It was sent, and how it ended cannot be recorded: the answer is kept back.
    Withheld(AuditUnavailable),
}

macro_rules! from {
    ($($variant:ident($error:ty)),+ $(,)?) => {$(
        impl From<$error> for GatewayError {
            fn from(error: $error) -> Self {
                Self::$variant(error)
            }
        }
    )+};
}

from! {
    Address(AddressError), Audit(AuditUnavailable), Authenticate(AuthError), Authorize(PermitError), Body(BodyError), Cache(CacheError), Lease(LeaseError),
    Own(OwnershipError), Payload(PayloadError), Quota(QuotaError),
    Refuse(Refusal), Route(RouteError), Send(SendError),
}

impl GatewayError {
    /// The stable code.
    pub fn code(&self) -> ErrorCode {
        match self {
            Self::Address(_) => ErrorCode::AddressNotAllowed,
            Self::Audit(_) | Self::Withheld(_) => ErrorCode::AuditUnavailable,
            Self::Authenticate(AuthError::Missing) => ErrorCode::MissingToken,
            Self::Authenticate(AuthError::Expired) => ErrorCode::ExpiredToken,
            Self::Authenticate(AuthError::Proof(error)) => of_proof(*error),
            Self::Authenticate(AuthError::KeysUnavailable) => ErrorCode::IssuerUnavailable,
            Self::Authenticate(_) => ErrorCode::InvalidToken,
            Self::Authorize(error) => match error {
                PermitError::CustomerMismatch { .. } => ErrorCode::CustomerMismatch,
                PermitError::InsufficientScope { .. } => ErrorCode::InsufficientScope,
                PermitError::ServiceNotAllowed => ErrorCode::ServiceNotAllowed,
            },
            Self::Body(error) => match error {
                BodyError::Broken => ErrorCode::BadRequest,
                BodyError::Overloaded { .. } => ErrorCode::Overloaded,
                BodyError::Timeout | BodyError::TooSlow => ErrorCode::RequestTimeout,
                BodyError::TooLarge { .. } => ErrorCode::PayloadTooLarge,
            },
            Self::Cache(CacheError::Absent) => ErrorCode::NotCached,
            Self::Head(StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE) => ErrorCode::HeadersTooLarge,
            Self::Head(StatusCode::URI_TOO_LONG) => ErrorCode::UriTooLong,
            Self::Head(_) => ErrorCode::BadRequest,
            Self::Internal => ErrorCode::InternalError,
            Self::Lease(LeaseError::NoneUsable) => ErrorCode::UpstreamCredentialsRejected,
            Self::Lease(LeaseError::OnTrial) => ErrorCode::UpstreamTimeout,
            Self::OverService(_) => ErrorCode::PayloadTooLarge,
            Self::Own(error) => match error {
                OwnershipError::AnotherTenants
                | OwnershipError::NotAtUpstream
                | OwnershipError::NotInLedger => ErrorCode::CustomerNotFound,
                OwnershipError::Existed | OwnershipError::Taken => ErrorCode::CustomerUnavailable,
                OwnershipError::Store(_) => ErrorCode::StateUnavailable,
            },
            Self::Payload(error) => match error {
                PayloadError::DuplicateMember(_) => ErrorCode::DuplicateMember,
                PayloadError::Invalid(_) => ErrorCode::InvalidPayload,
                PayloadError::MalformedJson { .. } => ErrorCode::MalformedJson,
                PayloadError::UnknownService => ErrorCode::UnknownService,
            },
            Self::Quota(QuotaError::Denied(Denied { policy, .. })) => of_policy(*policy),
            Self::Cache(CacheError::Untold) | Self::Quota(QuotaError::Unavailable) => {
                ErrorCode::StateUnavailable
            }
            Self::Refuse(refusal) => match refusal {
                Refusal::CredentialsRejected => ErrorCode::UpstreamCredentialsRejected,
                Refusal::Echo | Refusal::Malformed(_) => ErrorCode::UpstreamMalformed,
                Refusal::NotFound { .. } => ErrorCode::CustomerNotFound,
                Refusal::Refused { .. } => ErrorCode::InvalidPayload,
                Refusal::Unavailable { .. } => ErrorCode::UpstreamUnavailable,
            },
            Self::Route(error) => of_route(*error),
            Self::Send(error) => match error.failure() {
                Failure::Malformed => ErrorCode::UpstreamMalformed,
                Failure::Timeout => ErrorCode::UpstreamTimeout,
                Failure::Unavailable => ErrorCode::UpstreamUnavailable,
            },
            Self::TenantDisabled => ErrorCode::TenantDisabled,
        }
    }

    /// One word for the operator's log and the audit event, finer than the code; a client never
    /// sees it (a reason for a refused token would be an oracle).
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Address(error) => error.reason(),
            Self::Audit(why) | Self::Withheld(why) => of_audit(*why),
            Self::Authenticate(error) => error.reason(),
            Self::Authorize(error) => error.reason(),
            Self::Lease(error) => error.reason(),
            Self::Own(error) => error.reason(),
            Self::Quota(QuotaError::Denied(denied)) => denied.policy.name(),
            Self::Refuse(refusal) => refusal.reason(),
            Self::Send(error) => error.reason(),
            Self::Body(BodyError::TooSlow) => "body_too_slow",
            Self::Body(BodyError::Broken) => "body_cut_off",
            Self::Cache(CacheError::Untold) => "write_untold",
            Self::Body(_)
            | Self::Cache(CacheError::Absent)
            | Self::Head(_)
            | Self::Internal
            | Self::OverService(_)
            | Self::Payload(_)
            | Self::Quota(QuotaError::Unavailable)
            | Self::Route(_)
            | Self::TenantDisabled => self.code().as_str(),
        }
    }
}

const fn of_policy(policy: Policy) -> ErrorCode {
    match policy {
        Policy::Rate | Policy::SubjectRate => ErrorCode::RateLimited,
        Policy::Concurrency => ErrorCode::TooManyConcurrentRequests,
        Policy::BytesDaily | Policy::Daily | Policy::Monthly | Policy::SubjectDaily => {
            ErrorCode::QuotaExhausted
        }
    }
}

const fn of_route(error: RouteError) -> ErrorCode {
    match error {
        RouteError::BadRequest { .. } | RouteError::Query => ErrorCode::BadRequest,
        RouteError::ExpectationFailed => ErrorCode::ExpectationFailed,
        RouteError::LengthRequired => ErrorCode::LengthRequired,
        RouteError::MethodNotAllowed { .. } => ErrorCode::MethodNotAllowed,
        RouteError::NotFound => ErrorCode::NotFound,
        RouteError::UnsupportedMediaType => ErrorCode::UnsupportedMediaType,
    }
}

const fn of_proof(error: ProofError) -> ErrorCode {
    match error {
        ProofError::Full => ErrorCode::Overloaded,
        ProofError::NonceRequired => ErrorCode::UseDpopNonce,
        // No other proof would do: it is the token that cannot be used here.
        ProofError::NoPublicUrl => ErrorCode::InvalidToken,
        ProofError::BadSignature
        | ProofError::Doubled
        | ProofError::FromFuture
        | ProofError::InvalidClaim
        | ProofError::InvalidKey(_)
        | ProofError::Malformed
        | ProofError::Missing
        | ProofError::OtherKey
        | ProofError::OtherMethod
        | ProofError::OtherToken
        | ProofError::OtherUrl
        | ProofError::RefusedAlgorithm
        | ProofError::RefusedHeader
        | ProofError::RefusedType
        | ProofError::Replayed
        | ProofError::Stale
        | ProofError::TooLong => ErrorCode::InvalidDpopProof,
    }
}

const fn of_audit(why: AuditUnavailable) -> &'static str {
    match why {
        AuditUnavailable::Closed => "audit_closed",
        AuditUnavailable::Disk(_) => "audit_disk",
        AuditUnavailable::Full => "audit_full",
        AuditUnavailable::Slow => "audit_slow",
    }
}

macro_rules! codes {
    ($($variant:ident = $status:literal $name:literal $blame:ident $title:literal,)+) => {
        /// The stable code of a problem document (RFC 9457).
        #[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum ErrorCode {
            $(#[doc = $title] $variant,)+
        }

        impl ErrorCode {
            /// Every code there is.
            pub const ALL: &[Self] = &[$(Self::$variant),+];

            /// The code as clients see it.
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $name,)+ }
            }

            /// The HTTP status it is answered with.
            pub const fn status(self) -> u16 {
                match self { $(Self::$variant => $status,)+ }
            }

            /// A short sentence, the same for every occurrence (RFC 9457, `title`).
            pub const fn title(self) -> &'static str {
                match self { $(Self::$variant => $title,)+ }
            }

            /// Who has to act.
            pub const fn blame(self) -> Blame {
                match self { $(Self::$variant => Blame::$blame,)+ }
            }
        }
    };
}

codes! {
    AddressNotAllowed = 403 "address_not_allowed" Caller "The caller's address is not allowed",
    AuditUnavailable = 503 "audit_unavailable" Gateway "The gateway cannot record what it does",
    BadRequest = 400 "bad_request" Caller "The request is ambiguous or incomplete",
    CustomerMismatch = 403 "customer_mismatch" Caller "The token belongs to another customer",
    CustomerNotFound = 404 "customer_not_found" Caller "The customer is not known",
    CustomerUnavailable = 409 "customer_unavailable" Caller "The customer cannot be created here",
    DuplicateMember = 400 "duplicate_member" Caller "A JSON member stands twice",
    ExpectationFailed = 417 "expectation_failed" Caller "The expectation cannot be met",
    ExpiredToken = 401 "expired_token" Caller "The token has expired",
    HeadersTooLarge = 431 "headers_too_large" Caller "The request's head is too large",
    InsufficientScope = 403 "insufficient_scope" Caller "The token lacks a scope",
    InternalError = 500 "internal_error" Gateway "The gateway failed",
    InvalidDpopProof = 401 "invalid_dpop_proof" Caller "The DPoP proof is not valid",
    InvalidPayload = 400 "invalid_payload" Caller "The payload is invalid",
    InvalidToken = 401 "invalid_token" Caller "The token is not valid here",
    IssuerUnavailable = 503 "issuer_unavailable" Gateway "The issuer's keys are not available",
    LengthRequired = 411 "length_required" Caller "A Content-Length is required",
    MalformedJson = 400 "malformed_json" Caller "The body is not one JSON document",
    MethodNotAllowed = 405 "method_not_allowed" Caller "The method is not served here",
    MissingToken = 401 "missing_token" Caller "A bearer token is required",
    NotCached = 504 "not_cached" Caller "Nothing is kept that answers this",
    NotFound = 404 "not_found" Caller "Nothing is served at this path",
    Overloaded = 503 "overloaded" Gateway "The gateway is at its limit",
    PayloadTooLarge = 413 "payload_too_large" Caller "The body is too large",
    QuotaExhausted = 429 "quota_exhausted" Caller "A quota has no room left",
    RateLimited = 429 "rate_limited" Caller "Requests come faster than they may",
    RequestTimeout = 408 "request_timeout" Caller "The body did not arrive in time",
    ServiceNotAllowed = 403 "service_not_allowed" Caller "The service is not open to this caller",
    StateUnavailable = 503 "state_unavailable" Gateway "The gateway cannot reach its own state",
    TenantDisabled = 403 "tenant_disabled" Caller "The tenant is switched off",
    TooManyConcurrentRequests = 429 "too_many_concurrent_requests" Caller
        "More requests are under way than may be",
    UnknownService = 400 "unknown_service" Caller "The service is not known",
    UnsupportedMediaType = 415 "unsupported_media_type" Caller "The body must be plain JSON",
    UriTooLong = 414 "uri_too_long" Caller "The request target is too long",
    UpstreamCredentialsRejected = 502 "upstream_credentials_rejected" Gateway
        "DCAMS refused the gateway's credential",
    UpstreamMalformed = 502 "upstream_malformed" Upstream "DCAMS's answer cannot be relayed",
    UpstreamTimeout = 504 "upstream_timeout" Upstream "DCAMS did not answer in time",
    UpstreamUnavailable = 502 "upstream_unavailable" Upstream "DCAMS cannot be reached or is failing",
    UseDpopNonce = 401 "use_dpop_nonce" Caller "The DPoP proof needs a nonce",
}

impl fmt::Debug for ErrorCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Who has to act on an error; metrics call it `outcome`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Blame {
    /// The caller: the request has to change.
    Caller,
    /// The operator of the gateway.
    Gateway,
    /// The vendor.
    Upstream,
}

impl Blame {
    /// The word in metrics and logs.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Caller => "refused",
            Self::Gateway => "gateway_error",
            Self::Upstream => "upstream_error",
        }
    }
}
