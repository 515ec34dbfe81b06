//! What an operator asks to be revoked, by command, by the admin API or in the configuration, and the
//! revocation that it means. Pure.
//!
//! Invariant: a request that names nothing known, or two things at once, becomes no revocation: one
//! that covers no token would pass for protection. Errors repeat none of its values.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::{Revocation, Target};
use crate::{
    auth::{
        claims::{MAX_ID, MAX_SUBJECT},
        token::MAX_KID,
    },
    ident::{IssuerId, TenantId},
};

/// One of: `issuer` with `jti`, with `subject` or with `kid`; `tenant`; or `issued_before` alone or
/// with `issuer`.
#[derive(Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RevocationRequest {
    /// The id of an issuer of the configuration (not its `iss`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub issuer: Option<String>,
    /// A token's `jti`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub jti: Option<String>,
    /// The `sub` of tokens.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub subject: Option<String>,
    /// The `kid` of a key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kid: Option<String>,
    /// The id of a tenant of the configuration.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tenant: Option<String>,
    /// Only tokens issued before this.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub issued_before: Option<Timestamp>,
    /// When the last of the tokens expires, where that is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires: Option<Timestamp>,
}

/// How long an issuer's tokens may live, which decides when a revocation has done its work.
#[derive(Debug, Clone)]
pub struct IssuerTerms {
    /// The issuer.
    pub id: IssuerId,
    /// How far away `exp` may be.
    pub max_ttl: Duration,
    /// How far its clock and ours may differ.
    pub leeway: Duration,
    /// The names of its keys, where those stand in the configuration.
    pub kids: Option<Vec<String>>,
}

/// Whom requests may name.
#[derive(Debug, Clone, Default)]
pub struct Terms {
    /// The issuers of the configuration.
    pub issuers: Vec<IssuerTerms>,
    /// Its tenants.
    pub tenants: Vec<TenantId>,
}

/// Why a request means nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum RequestError {
    /// `expires` has passed.
    #[error("`expires` lies in the past: those tokens are refused already")]
    Expired,
    /// `issued_before` has not come yet.
    #[error("`issued_before` lies in the future: tokens that do not exist yet would be refused")]
    Future,
    /// Not 1 to so many bytes.
    #[error("`{name}` must have 1 to {max} bytes")]
    Length {
        /// The member.
        name: &'static str,
        /// Its most bytes.
        max: usize,
    },
    /// Nothing is named.
    #[error(
        "name what to revoke: `issuer` with `jti`, `subject` or `kid`; or `tenant`; or `issued_before`"
    )]
    Nothing,
    /// Two targets at once.
    #[error("`{one}` and `{other}` stand together: revoke one at a time")]
    Several {
        /// One.
        one: &'static str,
        /// Another.
        other: &'static str,
    },
    /// A time beyond the calendar.
    #[error("a time lies beyond the calendar")]
    Time,
    /// A key of the configuration that has not this name, or none.
    #[error(
        "`kid` is not the name of a key of this issuer; a key without a name is revoked by taking it out of the configuration"
    )]
    UnknownKey,
    /// The issuer is not configured.
    #[error("`issuer` is not the id of an issuer of the configuration")]
    UnknownIssuer,
    /// The tenant is not configured.
    #[error("`tenant` is not the id of a tenant of the configuration")]
    UnknownTenant,
    /// The target is known within an issuer only.
    #[error("`{name}` needs `issuer`: two issuers may use the same one")]
    WithoutIssuer {
        /// The member.
        name: &'static str,
    },
}

impl RevocationRequest {
    /// The revocation that it means when it is asked for at this moment.
    ///
    /// A token's entry ends when no token of its issuer that exists now can be good any more, and a
    /// key's entry stays: whoever has the key makes new tokens. For all others `issued_before` is
    /// this moment, and as much later as the issuer's clock may run ahead.
    pub fn resolve(&self, terms: &Terms, now: Timestamp) -> Result<Revocation, RequestError> {
        if self.expires.is_some_and(|expires| expires <= now) {
            return Err(RequestError::Expired);
        }
        let target = self.target(terms)?;
        let (max_ttl, leeway) = terms.longest(target.issuer());
        self.check_instant(leeway, now)?;
        let issued_before = match &target {
            Target::Key { .. } | Target::Token { .. } => self.issued_before,
            Target::Everything { .. } | Target::Subject { .. } | Target::Tenant { .. } => {
                Some(self.issued_before.map_or_else(|| after(now, leeway), Ok)?)
            }
        };
        let newest = issued_before.map_or(now, |instant| instant.max(now));
        // The leeway three times: a token may have been issued that far ahead of now, live that much
        // longer than `max_ttl`, and be good that long after its end.
        let last = after(newest, max_ttl.saturating_add(leeway.saturating_mul(3)))?;
        let ends = match (&target, self.expires) {
            (_, Some(expires)) => Some(after(expires, leeway)?),
            (Target::Key { .. }, None) if issued_before.is_none() => None,
            (_, None) => Some(last),
        };
        Ok(Revocation {
            target,
            issued_before,
            ends,
        })
    }

    /// The revocation that it means for as long as it stands in the configuration. Without
    /// `issued_before` it covers tokens that are still to come as well.
    pub fn standing(&self, terms: &Terms, now: Timestamp) -> Result<Revocation, RequestError> {
        let target = self.target(terms)?;
        let (_, leeway) = terms.longest(target.issuer());
        self.check_instant(leeway, now)?;
        Ok(Revocation {
            target,
            issued_before: self.issued_before,
            ends: None,
        })
    }

    /// A slip in the year would refuse everybody's tokens for years.
    fn check_instant(&self, leeway: Duration, now: Timestamp) -> Result<(), RequestError> {
        let latest = after(now, leeway)?;
        if self.issued_before.is_some_and(|instant| instant > latest) {
            return Err(RequestError::Future);
        }
        Ok(())
    }

    fn target(&self, terms: &Terms) -> Result<Target, RequestError> {
        let issuer = match &self.issuer {
            Some(name) => Some(terms.issuer(name)?),
            None => None,
        };
        let named = [
            ("jti", &self.jti),
            ("subject", &self.subject),
            ("kid", &self.kid),
            ("tenant", &self.tenant),
        ];
        let mut named = named
            .into_iter()
            .filter_map(|(name, text)| Some((name, text.as_deref()?)));
        let Some((name, text)) = named.next() else {
            return match self.issued_before {
                Some(_) => Ok(Target::Everything { issuer }),
                None => Err(RequestError::Nothing),
            };
        };
        if let Some((other, _)) = named.next() {
            return Err(RequestError::Several { one: name, other });
        }
        if name == "tenant" {
            if issuer.is_some() {
                let (one, other) = ("tenant", "issuer");
                return Err(RequestError::Several { one, other });
            }
            let tenant = terms.tenant(text)?;
            return Ok(Target::Tenant { tenant });
        }
        let issuer = issuer.ok_or(RequestError::WithoutIssuer { name })?;
        // Whoever has a nameless key puts any name into the header, so to revoke one does nothing.
        if name == "kid" && !terms.may_have_key(&issuer, text) {
            return Err(RequestError::UnknownKey);
        }
        of_issuer(issuer, name, text)
    }
}

/// A target that is known within an issuer only.
fn of_issuer(issuer: IssuerId, name: &'static str, text: &str) -> Result<Target, RequestError> {
    let max = match name {
        "jti" => MAX_ID,
        "subject" => MAX_SUBJECT,
        _ => MAX_KID,
    };
    // A longer one stands in no token that is accepted, so it would cover nothing.
    if !(1..=max).contains(&text.len()) {
        return Err(RequestError::Length { name, max });
    }
    let text = text.into();
    Ok(match name {
        "jti" => Target::Token { issuer, jti: text },
        "subject" => Target::Subject {
            issuer,
            subject: text,
        },
        _ => Target::Key { issuer, kid: text },
    })
}

impl Terms {
    fn issuer(&self, name: &str) -> Result<IssuerId, RequestError> {
        let known = self.issuers.iter().find(|terms| terms.id.as_str() == name);
        let known = known.map(|terms| terms.id.clone());
        known.ok_or(RequestError::UnknownIssuer)
    }

    fn tenant(&self, name: &str) -> Result<TenantId, RequestError> {
        let known = self.tenants.iter().find(|tenant| tenant.as_str() == name);
        known.cloned().ok_or(RequestError::UnknownTenant)
    }

    /// Whether a revocation of this target covers anything at all.
    pub fn knows(&self, target: &Target) -> bool {
        let issuer = target.issuer();
        let knows_issuer =
            issuer.is_none_or(|issuer| self.issuers.iter().any(|terms| terms.id == *issuer));
        match target {
            Target::Tenant { tenant } => self.tenants.contains(tenant),
            Target::Everything { .. }
            | Target::Key { .. }
            | Target::Subject { .. }
            | Target::Token { .. } => knows_issuer,
        }
    }

    fn may_have_key(&self, issuer: &IssuerId, kid: &str) -> bool {
        let kids = self.issuers.iter().find(|terms| terms.id == *issuer);
        let kids = kids.and_then(|terms| terms.kids.as_ref());
        kids.is_none_or(|kids| kids.iter().any(|known| known == kid))
    }

    /// The longest lifetime and leeway of one issuer's tokens, or of all.
    fn longest(&self, issuer: Option<&IssuerId>) -> (Duration, Duration) {
        let concerned = || {
            let ours = |terms: &&IssuerTerms| issuer.is_none_or(|issuer| *issuer == terms.id);
            self.issuers.iter().filter(ours)
        };
        let max_ttl = concerned().map(|terms| terms.max_ttl).max();
        let leeway = concerned().map(|terms| terms.leeway).max();
        (max_ttl.unwrap_or_default(), leeway.unwrap_or_default())
    }
}

fn after(instant: Timestamp, duration: Duration) -> Result<Timestamp, RequestError> {
    SignedDuration::try_from(duration)
        .ok()
        .and_then(|duration| instant.checked_add(duration).ok())
        .ok_or(RequestError::Time)
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: i64 = 1_800_000_000;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    fn terms() -> Terms {
        let issuer = |id: &str, hours, leeway| IssuerTerms {
            id: IssuerId::try_from(id).unwrap(),
            max_ttl: Duration::from_hours(hours),
            leeway: Duration::from_secs(leeway),
            kids: (id == "slow").then(|| vec!["known".to_owned()]),
        };
        Terms {
            issuers: vec![issuer("idp", 1, 30), issuer("slow", 24, 60)],
            tenants: vec![TenantId::try_from("acme").unwrap()],
        }
    }

    fn request(json: &str) -> RevocationRequest {
        serde_json::from_str(json).unwrap()
    }

    fn resolve(json: &str) -> Result<(&'static str, Option<i64>, Option<i64>), RequestError> {
        let revocation = request(json).resolve(&terms(), at(NOW))?;
        let second = |time: Option<Timestamp>| time.map(|time| time.as_second() - NOW);
        Ok((
            revocation.target.kind(),
            second(revocation.issued_before),
            second(revocation.ends),
        ))
    }

    #[test]
    fn an_entry_lasts_until_the_last_token_that_it_names_has_expired() {
        let hour = 3600;
        for (json, expected) in [
            (
                r#"{"issuer":"idp","jti":"x"}"#,
                ("token", None, Some(hour + 90)),
            ),
            (
                r#"{"issuer":"idp","jti":"x","expires":"2027-01-15T08:10:00Z"}"#,
                ("token", None, Some(600 + 30)),
            ),
            (r#"{"issuer":"idp","kid":"x"}"#, ("key", None, None)),
            (
                r#"{"issuer":"idp","subject":"x"}"#,
                ("subject", Some(30), Some(30 + hour + 90)),
            ),
            (
                r#"{"tenant":"acme"}"#,
                ("tenant", Some(60), Some(60 + 24 * hour + 180)),
            ),
            (
                r#"{"issued_before":"2027-01-15T07:00:00Z"}"#,
                ("everything", Some(-hour), Some(24 * hour + 180)),
            ),
            (
                r#"{"issuer":"idp","issued_before":"2027-01-15T07:00:00Z"}"#,
                ("everything", Some(-hour), Some(hour + 90)),
            ),
        ] {
            assert_eq!(resolve(json), Ok(expected), "{json}");
        }
    }

    #[test]
    fn a_request_that_covers_nothing_or_two_things_is_refused() {
        let long = format!(r#"{{"issuer":"idp","jti":"{}"}}"#, "x".repeat(257));
        let length = |name, max| RequestError::Length { name, max };
        let several = |one, other| RequestError::Several { one, other };
        for (json, expected) in [
            ("{}", RequestError::Nothing),
            (r#"{"issuer":"idp"}"#, RequestError::Nothing),
            (
                r#"{"jti":"x"}"#,
                RequestError::WithoutIssuer { name: "jti" },
            ),
            (
                r#"{"kid":"x"}"#,
                RequestError::WithoutIssuer { name: "kid" },
            ),
            (
                r#"{"issuer":"other","jti":"x"}"#,
                RequestError::UnknownIssuer,
            ),
            (
                r#"{"issuer":"https://idp.example/","jti":"x"}"#,
                RequestError::UnknownIssuer,
            ),
            (
                r#"{"issuer":"slow","kid":"other"}"#,
                RequestError::UnknownKey,
            ),
            (r#"{"tenant":"globex"}"#, RequestError::UnknownTenant),
            (
                r#"{"tenant":"acme","issuer":"idp"}"#,
                several("tenant", "issuer"),
            ),
            (
                r#"{"issuer":"idp","jti":"x","kid":"x"}"#,
                several("jti", "kid"),
            ),
            (r#"{"issuer":"idp","jti":""}"#, length("jti", 256)),
            (&long, length("jti", 256)),
            (
                r#"{"tenant":"acme","expires":"2027-01-15T08:00:00Z"}"#,
                RequestError::Expired,
            ),
            (
                r#"{"tenant":"acme","issued_before":"2027-01-15T08:01:01Z"}"#,
                RequestError::Future,
            ),
        ] {
            assert_eq!(resolve(json), Err(expected), "{json}");
        }
    }

    #[test]
    fn what_stands_in_the_configuration_does_not_end() {
        let standing = |json| request(json).standing(&terms(), at(NOW));
        let kept = standing(r#"{"issuer":"idp","subject":"x"}"#).unwrap();
        assert_eq!((kept.issued_before, kept.ends), (None, None));
        assert_eq!(standing("{}").err(), Some(RequestError::Nothing));
        let future = r#"{"tenant":"acme","issued_before":"2036-01-01T00:00:00Z"}"#;
        assert_eq!(standing(future).err(), Some(RequestError::Future));
    }
}
