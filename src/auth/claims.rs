//! What a token's claims say, once its signature is good. Pure: takes `now`, reads no clock.
//!
//! Invariant: every claim has the type that it must have, or the token is refused; a claim of the
//! wrong type never counts as absent. Most of all the customer claim: read as absent, it would turn
//! a token for one customer into a token for all of them.

use std::time::Duration;

use jiff::Timestamp;

use super::{
    AuthError, IssuerSettings,
    dpop::{Confirmation, Thumbprint},
    json::{Object, Value},
    permit::Binding,
};
use crate::{ident::TenantId, operation::Operations};

/// The longest `sub` in bytes: room for what identity providers use, and a bound for the cache.
pub(super) const MAX_SUBJECT: usize = 512;

/// The longest `jti` in bytes.
pub(super) const MAX_ID: usize = 256;

/// The longest value in bytes that a member can be bound to: that of an email address (RFC 5321
/// 4.5.3.1.3, without the brackets).
const MAX_BOUND: usize = 254;

/// The claims that matter, checked against the issuer that signed them; times not yet.
pub(super) struct Claims {
    pub(super) tenant: TenantId,
    pub(super) subject: Option<Box<str>>,
    pub(super) id: Option<Box<str>>,
    pub(super) operations: Operations,
    pub(super) bindings: Box<[Binding]>,
    pub(super) issued: Option<Timestamp>,
    pub(super) confirmation: Confirmation,
    pub(super) expires: Timestamp,
    pub(super) lifetime: Lifetime,
}

impl Claims {
    /// Reads the claims of a token that this issuer has signed.
    pub(super) fn read(object: &Object<'_>, issuer: &IssuerSettings) -> Result<Self, AuthError> {
        if object.get("iss").and_then(Value::text) != Some(&issuer.issuer) {
            return Err(AuthError::UnknownIssuer);
        }
        check_audience(object, &issuer.audiences)?;
        let expires = time(object, "exp")?.ok_or(AuthError::InvalidClaim)?;
        let issued = time(object, "iat")?;
        let times = Times {
            expires: expires.as_second(),
            not_before: time(object, "nbf")?.map(Timestamp::as_second),
            issued: issued.map(Timestamp::as_second),
        };
        Ok(Self {
            tenant: tenant(object, issuer)?,
            subject: text(object, "sub", MAX_SUBJECT)?,
            id: text(object, "jti", MAX_ID)?,
            operations: scopes(object)?,
            bindings: bindings(object, issuer)?,
            issued,
            confirmation: confirmation(object)?,
            expires,
            lifetime: Lifetime::new(&times, issuer.leeway, issuer.max_ttl)?,
        })
    }
}

fn check_audience(object: &Object<'_>, ours: &[String]) -> Result<(), AuthError> {
    let named = match object.get("aud") {
        Some(Value::Text(one)) => vec![one.as_ref()],
        Some(several @ Value::Array(_)) => several.texts().ok_or(AuthError::InvalidClaim)?,
        Some(Value::Object(_) | Value::Other | Value::Whole(_)) | None => {
            return Err(AuthError::InvalidClaim);
        }
    };
    if !named.iter().any(|name| ours.iter().any(|our| our == name)) {
        return Err(AuthError::WrongAudience);
    }
    Ok(())
}

/// What the token is bound to (RFC 7800). What cannot be checked is refused: a certificate's
/// thumbprint (RFC 8705), because the listener sees no client certificates, and all that is unknown.
fn confirmation(object: &Object<'_>) -> Result<Confirmation, AuthError> {
    let Some(bound) = object.get("cnf") else {
        return Ok(Confirmation::None);
    };
    bound
        .object()
        .and_then(|bound| bound.sole("jkt"))
        .and_then(Value::text)
        .and_then(Thumbprint::parse)
        .map(Confirmation::Key)
        .ok_or(AuthError::UncheckedConfirmation)
}

/// A time in whole seconds, as far as the calendar goes.
pub(super) fn time(object: &Object<'_>, name: &str) -> Result<Option<Timestamp>, AuthError> {
    let seconds = match object.get(name) {
        None => return Ok(None),
        Some(Value::Whole(seconds)) => *seconds,
        Some(Value::Array(_) | Value::Object(_) | Value::Other | Value::Text(_)) => {
            return Err(AuthError::InvalidClaim);
        }
    };
    i64::try_from(seconds)
        .ok()
        .and_then(|seconds| Timestamp::from_second(seconds).ok())
        .map(Some)
        .ok_or(AuthError::InvalidClaim)
}

/// A claim that is absent or a string of 1 to `max` bytes.
fn text(object: &Object<'_>, name: &str, max: usize) -> Result<Option<Box<str>>, AuthError> {
    let Some(value) = object.get(name) else {
        return Ok(None);
    };
    match value.text() {
        Some(text) if (1..=max).contains(&text.len()) => Ok(Some(text.into())),
        Some(_) | None => Err(AuthError::InvalidClaim),
    }
}

/// What the token is bound to: the customer's email first, which is the built-in rule, then what the
/// issuer's own rules say.
fn bindings(object: &Object<'_>, issuer: &IssuerSettings) -> Result<Box<[Binding]>, AuthError> {
    let customer = text(object, &issuer.customer_claim, MAX_BOUND)?;
    let mut bindings: Vec<Binding> = customer.map(Binding::customer).into_iter().collect();
    for rule in &issuer.bind {
        let value = text(object, &rule.claim, MAX_BOUND)?;
        if value.is_some() || rule.required {
            bindings.push(rule.bind(value));
        }
    }
    Ok(bindings.into())
}

fn tenant(object: &Object<'_>, issuer: &IssuerSettings) -> Result<TenantId, AuthError> {
    let name = object.get(&issuer.tenant_claim).and_then(Value::text);
    let name = name.ok_or(AuthError::InvalidClaim)?;
    // An issuer speaks for its own tenants only; what others are called is none of its business.
    issuer
        .tenants
        .get(name)
        .cloned()
        .ok_or(AuthError::ForeignTenant)
}

/// The services that `scope` (RFC 8693 4.2) or `scp` covers; both may stand if they agree.
fn scopes(object: &Object<'_>) -> Result<Operations, AuthError> {
    let scope = match object.get("scope") {
        None => None,
        Some(value) => {
            let list = value.text().ok_or(AuthError::InvalidClaim)?;
            Some(Operations::of_scopes(list.split(' ')))
        }
    };
    let scp = match object.get("scp") {
        None => None,
        Some(value) => {
            let list = value.texts().ok_or(AuthError::InvalidClaim)?;
            Some(Operations::of_scopes(list))
        }
    };
    match (scope, scp) {
        (Some(scope), Some(scp)) if scope != scp => Err(AuthError::InvalidClaim),
        (one, other) => Ok(one.or(other).unwrap_or_default()),
    }
}

/// The times of a token in seconds since 1970.
struct Times {
    expires: i64,
    not_before: Option<i64>,
    issued: Option<i64>,
}

/// When a token may be used: its times with the issuer's leeway and longest lifetime worked in, so
/// that a check is four comparisons and a cached token is checked as a new one is.
pub(super) struct Lifetime {
    starts: i64,
    issued: i64,
    nearest: i64,
    ends: i64,
}

impl Lifetime {
    fn new(times: &Times, leeway: Duration, max_ttl: Duration) -> Result<Self, AuthError> {
        // A token that ends before it begins was not made by a working issuer, leeway or not.
        let begins = times.not_before.max(times.issued);
        if begins.is_some_and(|begins| begins > times.expires) {
            return Err(AuthError::InvalidClaim);
        }
        let (leeway, max_ttl) = (seconds(leeway), seconds(max_ttl));
        // Refused from the start, and not only until its end has come near: a revocation lasts as
        // long as a token of this issuer may live.
        let lives = |issued| times.expires.saturating_sub(issued);
        let longest = max_ttl.saturating_add(leeway);
        if times.issued.is_some_and(|issued| lives(issued) > longest) {
            return Err(AuthError::LivesTooLong);
        }
        let earlier = |time: Option<i64>| time.map_or(i64::MIN, |t| t.saturating_sub(leeway));
        Ok(Self {
            starts: earlier(times.not_before),
            issued: earlier(times.issued),
            nearest: earlier(Some(times.expires.saturating_sub(max_ttl))),
            ends: times.expires.saturating_add(leeway),
        })
    }

    /// Whether the token may be used at this moment; the end itself is too late (RFC 7519 4.1.4).
    pub(super) fn check(&self, now: Timestamp) -> Result<(), AuthError> {
        let now = now.as_second();
        if now < self.starts {
            return Err(AuthError::NotYetValid);
        }
        if now < self.issued {
            return Err(AuthError::IssuedInFuture);
        }
        if now < self.nearest {
            return Err(AuthError::LivesTooLong);
        }
        // Last, so that "expired" is said only of a token that had nothing else wrong with it.
        if now >= self.ends {
            return Err(AuthError::Expired);
        }
        Ok(())
    }
}

fn seconds(duration: Duration) -> i64 {
    i64::try_from(duration.as_secs()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const EXP: i64 = 10_000;

    fn lifetime(not_before: Option<i64>, issued: Option<i64>) -> Lifetime {
        let times = Times {
            expires: EXP,
            not_before,
            issued,
        };
        Lifetime::new(&times, Duration::from_secs(30), Duration::from_hours(1)).unwrap()
    }

    fn at(second: i64, nanosecond: i32) -> Timestamp {
        Timestamp::new(second, nanosecond).unwrap()
    }

    #[test]
    fn each_time_is_exact_to_the_second_and_the_leeway() {
        let life = lifetime(None, None);
        assert_eq!(life.check(at(EXP + 29, 999_999_999)), Ok(()));
        assert_eq!(life.check(at(EXP + 30, 0)), Err(AuthError::Expired));
        assert_eq!(
            life.check(at(EXP - 3631, 999_999_999)),
            Err(AuthError::LivesTooLong)
        );
        assert_eq!(life.check(at(EXP - 3630, 0)), Ok(()));

        let life = lifetime(Some(9_000), Some(8_000));
        assert_eq!(life.check(at(8_970, 0)), Ok(()));
        assert_eq!(
            life.check(at(8_969, 999_999_999)),
            Err(AuthError::NotYetValid)
        );

        let life = lifetime(None, Some(9_000));
        assert_eq!(life.check(at(8_970, 0)), Ok(()));
        assert_eq!(life.check(at(8_969, 0)), Err(AuthError::IssuedInFuture));
    }

    #[test]
    fn a_token_that_begins_after_its_end_is_refused() {
        for (not_before, issued) in [(Some(EXP + 1), None), (None, Some(EXP + 1))] {
            let times = Times {
                expires: EXP,
                not_before,
                issued,
            };
            let life = Lifetime::new(&times, Duration::from_secs(30), Duration::from_hours(1));
            assert_eq!(life.err(), Some(AuthError::InvalidClaim));
        }
    }

    #[test]
    fn a_token_that_lives_too_long_is_refused_however_near_its_end_is() {
        let of = |issued| {
            let times = Times {
                expires: EXP,
                not_before: None,
                issued: Some(issued),
            };
            Lifetime::new(&times, Duration::from_secs(30), Duration::from_hours(1)).err()
        };
        assert_eq!(of(EXP - 3630), None);
        assert_eq!(of(EXP - 3631), Some(AuthError::LivesTooLong));
    }

    #[test]
    fn durations_beyond_all_bounds_do_not_overflow() {
        let times = Times {
            expires: i64::MAX,
            not_before: Some(i64::MIN),
            issued: Some(0),
        };
        let life = Lifetime::new(&times, Duration::MAX, Duration::MAX).unwrap();
        assert_eq!(life.check(Timestamp::MAX), Ok(()));
        assert_eq!(life.check(Timestamp::MIN), Ok(()));
    }
}
