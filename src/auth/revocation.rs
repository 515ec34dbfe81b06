//! Decides whether a token was revoked. Pure: takes `now`, reads no clock and no store.
//!
//! Invariant: a revocation names what a token says of itself (its id, subject, key, tenant, issuer,
//! time of issue), never its bytes: ES256 signatures can be changed into others that verify too, so
//! a list of digests would be walked around. It is asked about on every request, so a token that was
//! verified earlier is refused as soon as a new one is.

pub mod request;

use std::{
    collections::{HashMap, HashSet},
    fmt,
    sync::Arc,
};

use arc_swap::ArcSwap;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::ident::{IssuerId, TenantId};

/// Which tokens are refused. Its text form (JSON) is what the store keeps, encrypted.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Revocation {
    /// What the tokens have in common.
    pub target: Target,
    /// Only tokens that were issued (`iat`) before this; a token that does not say when it was
    /// issued counts as older. None: all of them, whenever they were issued.
    pub issued_before: Option<Timestamp>,
    /// When the last such token has expired, and this entry ends. None: never.
    pub ends: Option<Timestamp>,
}

/// What revoked tokens have in common.
#[derive(Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Target {
    /// Every token, or every token of one issuer.
    Everything {
        /// The issuer; none means all of them.
        issuer: Option<IssuerId>,
    },
    /// Tokens signed under this `kid`.
    Key {
        /// The issuer.
        issuer: IssuerId,
        /// The `kid` of their header.
        kid: Box<str>,
    },
    /// Tokens for this `sub`.
    Subject {
        /// The issuer.
        issuer: IssuerId,
        /// The subject.
        subject: Box<str>,
    },
    /// Tokens for this tenant, of any issuer.
    Tenant {
        /// The tenant.
        tenant: TenantId,
    },
    /// The token of this `jti`.
    Token {
        /// The issuer.
        issuer: IssuerId,
        /// The token's id.
        jti: Box<str>,
    },
}

impl Revocation {
    /// Whether it has done its work.
    pub fn has_ended(&self, now: Timestamp) -> bool {
        self.ends.is_some_and(|ends| ends <= now)
    }

    /// The stricter of two for the same target, so that a second one never takes back the first.
    #[must_use]
    pub fn with(mut self, other: &Self) -> Self {
        self.issued_before = later(self.issued_before, other.issued_before);
        self.ends = later(self.ends, other.ends);
        self
    }

    fn covers(&self, marks: &Marks, now: Timestamp) -> bool {
        let older = |limit| marks.issued.is_none_or(|issued| issued < limit);
        !self.has_ended(now) && self.issued_before.is_none_or(older)
    }
}

/// The later of two times, where none stands for no end.
fn later(one: Option<Timestamp>, other: Option<Timestamp>) -> Option<Timestamp> {
    one.zip(other).map(|(one, other)| one.max(other))
}

impl fmt::Debug for Revocation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Revocation")
            .field("target", &self.target.kind())
            .field("issued_before", &self.issued_before)
            .field("ends", &self.ends)
            .finish()
    }
}

impl Target {
    /// What kind of target it is, in one word.
    pub const fn kind(&self) -> &'static str {
        match self {
            Self::Everything { .. } => "everything",
            Self::Key { .. } => "key",
            Self::Subject { .. } => "subject",
            Self::Tenant { .. } => "tenant",
            Self::Token { .. } => "token",
        }
    }

    /// The issuer that it is about.
    pub const fn issuer(&self) -> Option<&IssuerId> {
        match self {
            Self::Everything { issuer } => issuer.as_ref(),
            Self::Key { issuer, .. }
            | Self::Subject { issuer, .. }
            | Self::Token { issuer, .. } => Some(issuer),
            Self::Tenant { .. } => None,
        }
    }

    /// The tenant that it is about.
    pub const fn tenant(&self) -> Option<&TenantId> {
        match self {
            Self::Tenant { tenant } => Some(tenant),
            Self::Everything { .. }
            | Self::Key { .. }
            | Self::Subject { .. }
            | Self::Token { .. } => None,
        }
    }
}

/// Every target that a verified token falls under; kept with it while it is remembered.
pub(super) struct Marks {
    issued: Option<Timestamp>,
    targets: Vec<Target>,
}

/// What a verified token says of itself.
pub(super) struct Named<'a> {
    pub(super) issuer: &'a IssuerId,
    pub(super) tenant: &'a TenantId,
    pub(super) subject: Option<&'a str>,
    pub(super) jti: Option<&'a str>,
    /// The key's name, as the token has it and as the issuer has it; one may lack it.
    pub(super) kids: [Option<&'a str>; 2],
    pub(super) issued: Option<Timestamp>,
}

impl Marks {
    pub(super) fn of(token: &Named<'_>) -> Self {
        let issuer = || token.issuer.clone();
        let tenant = token.tenant.clone();
        let mut targets = Vec::with_capacity(7);
        targets.push(Target::Everything { issuer: None });
        targets.push(Target::Everything {
            issuer: Some(issuer()),
        });
        targets.push(Target::Tenant { tenant });
        targets.extend(token.subject.map(|subject| Target::Subject {
            issuer: issuer(),
            subject: subject.into(),
        }));
        targets.extend(token.jti.map(|jti| Target::Token {
            issuer: issuer(),
            jti: jti.into(),
        }));
        targets.extend(token.kids.into_iter().flatten().map(|kid| Target::Key {
            issuer: issuer(),
            kid: kid.into(),
        }));
        let issued = token.issued;
        Self { issued, targets }
    }
}

/// The revocations in force, as every request sees them; a clone is the same list.
#[derive(Clone, Default)]
pub struct RevocationList(Arc<ArcSwap<Revoked>>);

impl RevocationList {
    pub(super) fn covers(&self, marks: &Marks, now: Timestamp) -> bool {
        self.0.load().covers(marks, now)
    }

    pub(super) fn replace(&self, revoked: Revoked) {
        self.0.store(Arc::new(revoked));
    }

    /// Puts more in force.
    pub(super) fn add(&self, revocations: &[Revocation]) {
        self.0.rcu(|known| {
            let mut revoked = Revoked::clone(known);
            revoked.extend(revocations.iter().cloned());
            revoked
        });
    }

    /// Sets what is in force for these targets: `revocations` and nothing else.
    pub(super) fn set(&self, targets: &HashSet<&Target>, revocations: &[Revocation]) {
        self.0.rcu(|known| {
            let mut revoked = Revoked::clone(known);
            for target in targets {
                revoked.0.remove(*target);
            }
            revoked.extend(revocations.iter().cloned());
            revoked
        });
    }

    pub(super) fn snapshot(&self) -> Arc<Revoked> {
        self.0.load_full()
    }
}

/// One state of the list, replaced as a whole.
#[derive(Clone, Default)]
pub(super) struct Revoked(HashMap<Target, Revocation>);

impl Revoked {
    pub(super) fn covers(&self, marks: &Marks, now: Timestamp) -> bool {
        // The common case costs one comparison.
        !self.0.is_empty()
            && marks
                .targets
                .iter()
                .filter_map(|target| self.0.get(target))
                .any(|revocation| revocation.covers(marks, now))
    }

    /// Adds one to what is there already of its target.
    pub(super) fn add(&mut self, revocation: Revocation) {
        let known = self.0.remove(&revocation.target);
        let joined = match known {
            Some(known) => revocation.with(&known),
            None => revocation,
        };
        self.0.insert(joined.target.clone(), joined);
    }

    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    pub(super) fn of(&self, target: &Target) -> Option<&Revocation> {
        self.0.get(target)
    }

    pub(super) fn targets(&self) -> HashSet<Target> {
        self.0.keys().cloned().collect()
    }
}

impl Extend<Revocation> for Revoked {
    fn extend<T: IntoIterator<Item = Revocation>>(&mut self, revocations: T) {
        for revocation in revocations {
            self.add(revocation);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const AT: i64 = 1_800_000_000;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    fn issuer(name: &str) -> IssuerId {
        IssuerId::try_from(name).unwrap()
    }

    fn tenant(name: &str) -> TenantId {
        TenantId::try_from(name).unwrap()
    }

    /// The marks of a token of issuer `idp`, tenant `acme`, subject `ann`, id `t1`, key `k1`.
    fn marks(issued: Option<i64>) -> Marks {
        Marks::of(&Named {
            issuer: &issuer("idp"),
            tenant: &tenant("acme"),
            subject: Some("ann"),
            jti: Some("t1"),
            kids: [Some("k1"), Some("k2")],
            issued: issued.map(at),
        })
    }

    fn revoked(target: Target, issued_before: Option<i64>, ends: Option<i64>) -> Revoked {
        let mut revoked = Revoked::default();
        revoked.add(Revocation {
            target,
            issued_before: issued_before.map(at),
            ends: ends.map(at),
        });
        revoked
    }

    fn everything(of: Option<&str>) -> Target {
        let issuer = of.map(issuer);
        Target::Everything { issuer }
    }

    fn of_tenant(name: &str) -> Target {
        let tenant = tenant(name);
        Target::Tenant { tenant }
    }

    fn subject(of: &str, subject: &str) -> Target {
        let (issuer, subject) = (issuer(of), subject.into());
        Target::Subject { issuer, subject }
    }

    fn token(of: &str, jti: &str) -> Target {
        let (issuer, jti) = (issuer(of), jti.into());
        Target::Token { issuer, jti }
    }

    fn key(of: &str, kid: &str) -> Target {
        let (issuer, kid) = (issuer(of), kid.into());
        Target::Key { issuer, kid }
    }

    #[test]
    fn a_revocation_covers_what_it_names_and_nothing_else() {
        for (target, covered) in [
            (everything(None), true),
            (everything(Some("idp")), true),
            (everything(Some("other")), false),
            (of_tenant("acme"), true),
            (of_tenant("globex"), false),
            (subject("idp", "ann"), true),
            (subject("other", "ann"), false),
            (subject("idp", "Ann"), false),
            (token("idp", "t1"), true),
            (token("other", "t1"), false),
            (token("idp", "ann"), false),
            (key("idp", "k1"), true),
            (key("idp", "k2"), true),
            (key("other", "k1"), false),
            (key("idp", "t1"), false),
        ] {
            let kind = target.kind();
            let revoked = revoked(target, None, None);
            assert_eq!(revoked.covers(&marks(Some(AT)), at(AT)), covered, "{kind}");
        }
        assert!(!Revoked::default().covers(&marks(Some(AT)), at(AT)));
    }

    #[test]
    fn only_tokens_issued_before_the_instant_are_covered_and_those_that_do_not_say() {
        let acme = of_tenant("acme");
        let revoked = revoked(acme, Some(AT), None);
        for (issued, covered) in [(Some(AT - 1), true), (Some(AT), false), (None, true)] {
            assert_eq!(
                revoked.covers(&marks(issued), at(AT + 5)),
                covered,
                "{issued:?}"
            );
        }
    }

    #[test]
    fn an_entry_ends_when_it_says() {
        let acme = of_tenant("acme");
        let revoked = revoked(acme, None, Some(AT));
        assert!(revoked.covers(&marks(None), at(AT - 1)));
        assert!(!revoked.covers(&marks(None), at(AT)));
    }

    #[test]
    fn a_second_revocation_never_weakens_the_first() {
        let acme = of_tenant("acme");
        for (first, second, expected) in [
            (
                (Some(10), Some(20)),
                (Some(5), Some(15)),
                (Some(10), Some(20)),
            ),
            (
                (Some(5), Some(15)),
                (Some(10), Some(20)),
                (Some(10), Some(20)),
            ),
            ((None, Some(20)), (Some(10), None), (None, None)),
        ] {
            let mut set = revoked(acme.clone(), first.0, first.1);
            set.add(Revocation {
                target: acme.clone(),
                issued_before: second.0.map(at),
                ends: second.1.map(at),
            });
            let joined = &set.0[&acme];
            let found = (joined.issued_before, joined.ends);
            assert_eq!(found, (expected.0.map(at), expected.1.map(at)));
        }
    }
}
