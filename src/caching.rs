//! What a client wants of the status cache, what it knows already, and what an answer says of it.
//!
//! HTTP has no cache for a POST (RFC 9110, 9.3.3): ours is one of customers' statuses, and borrows HTTP's
//! words for it: `Cache-Control` in requests (RFC 9111, 5.2.1), `Cache-Status` (RFC 9211) and `Age`
//! in answers, `ETag` and `If-None-Match` (RFC 9110, 8.8.3 and 13.1.2).

use std::{fmt, ops::RangeInclusive, time::Duration};

use http::{
    HeaderMap, HeaderName,
    header::{CACHE_CONTROL, IF_NONE_MATCH},
};
use thiserror::Error;

/// What `[cache]` says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "each is one key of the configuration"
)]
pub struct CacheSettings {
    /// Whether statuses are kept at all.
    pub enabled: bool,
    /// How long each is fresh; zero for those that are not kept.
    pub pass_ttl: Duration,
    /// The same of FAIL.
    pub fail_ttl: Duration,
    /// The same of PENDING.
    pub pending_ttl: Duration,
    /// The same of DCAMS's word that it knows no such customer.
    pub not_found_ttl: Duration,
    /// The most by which each is fresh for less, in hundredths, so that what was learnt together is not
    /// asked for together.
    pub jitter: u8,
    /// How many are kept, and how many bytes they take, at most.
    pub max_entries: u64,
    /// See `max_entries`.
    pub max_bytes: u64,
    /// Whether a person's fields are kept too, for tenants that see them.
    pub full: bool,
    /// How long after it was fresh a status is still told while DCAMS cannot be asked.
    pub stale_if_error: Duration,
    /// How long after it was fresh it is told while it is asked for anew.
    pub stale_while_revalidate: Duration,
    /// Whether a PENDING that is asked for often is asked for anew before it is stale.
    pub refresh_pending: bool,
    /// Whether gateways share what they know, in Redis.
    pub shared: bool,
    /// For how long after a write another gateway may tell what was before it.
    pub node_lag: Duration,
    /// What becomes of a write that other gateways cannot be told of.
    pub untold_writes: UntoldWrites,
}

/// What becomes of a write that other gateways cannot be told of, because Redis is away.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum UntoldWrites {
    /// It goes on; they are told when Redis is back.
    Forward,
    /// It is refused.
    Refuse,
}

/// What `[tenants.cache]` says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TenantCaching {
    /// Whether its customers' statuses are kept.
    pub enabled: bool,
    /// Whether it is told what is not fresh any more.
    pub stale: bool,
    /// Whether its clients may ask for what is fresher than what is kept.
    pub no_cache: bool,
}

impl Default for TenantCaching {
    fn default() -> Self {
        Self {
            enabled: true,
            stale: true,
            no_cache: true,
        }
    }
}

/// How long a directive of a client may make something be, in seconds; beyond it, that is for ever.
const SECONDS: RangeInclusive<u64> = 0..=31_536_000;

/// What a client's `Cache-Control` asks for. Directives that are not known are passed over, as RFC 9111
/// (5.2.3) wants it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Wish {
    /// The oldest answer that is wanted: `max-age`, zero for `no-cache` and `no-store`.
    pub max_age: Option<Duration>,
    /// `only-if-cached`.
    pub only_cached: bool,
    /// `no-store`.
    pub no_store: bool,
}

impl Wish {
    /// Reads every `Cache-Control` there is.
    pub fn read(headers: &HeaderMap) -> Self {
        let mut wish = Self::default();
        for value in headers.get_all(CACHE_CONTROL) {
            // A directive's value may be quoted, and hold a comma then; none that is known here does.
            for directive in value.as_bytes().split(|byte| *byte == b',') {
                wish.add(directive.trim_ascii());
            }
        }
        wish
    }

    fn add(&mut self, directive: &[u8]) {
        let (name, value) = match directive.iter().position(|byte| *byte == b'=') {
            Some(at) => directive.split_at(at),
            None => (directive, &[][..]),
        };
        let name = name.trim_ascii();
        let is = |known: &str| name.eq_ignore_ascii_case(known.as_bytes());
        if is("no-cache") || is("no-store") {
            self.max_age = Some(Duration::ZERO);
            self.no_store |= is("no-store");
        } else if is("only-if-cached") {
            self.only_cached = true;
        } else if is("max-age") {
            // One that is no number cannot be kept to but by what is new (RFC 9111, 4.2.1).
            let age = Duration::from_secs(seconds(value).unwrap_or(0));
            self.max_age = Some(self.max_age.map_or(age, |least| least.min(age)));
        }
    }

    /// The same, but that what is kept and fresh has to do, and what is found is kept.
    #[must_use]
    pub const fn without_freshness(self) -> Self {
        Self {
            max_age: None,
            no_store: false,
            ..self
        }
    }
}

/// The number behind `=`, bare or quoted.
fn seconds(value: &[u8]) -> Option<u64> {
    let value = value.strip_prefix(b"=")?.trim_ascii();
    let bare = value
        .strip_prefix(b"\"")
        .and_then(|value| value.strip_suffix(b"\""));
    let digits = str::from_utf8(bare.unwrap_or(value)).ok()?;
    let plain = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
    // Longer than any number that fits is longer than a year.
    plain.then(|| digits.parse().unwrap_or(u64::MAX).min(*SECONDS.end()))
}

/// An entity tag of ours: a keyed digest of an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tag(pub u64);

impl fmt::Display for Tag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\"{:016x}\"", self.0)
    }
}

/// The tags of answers that a client has (`If-None-Match`).
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Held {
    any: bool,
    tags: Vec<Tag>,
}

impl Held {
    /// Reads every `If-None-Match` there is; tags that are not ours are passed over.
    pub fn read(headers: &HeaderMap) -> Self {
        let mut held = Self::default();
        for value in headers.get_all(IF_NONE_MATCH) {
            for tag in value.as_bytes().split(|byte| *byte == b',') {
                let tag = tag.trim_ascii();
                held.any |= tag == b"*";
                // Weak or strong, it is the same answer (RFC 9110, 8.8.3.2).
                held.tags
                    .extend(ours(tag.strip_prefix(b"W/").unwrap_or(tag)));
            }
        }
        held
    }

    /// Whether the client has the answer with this tag.
    pub fn has(&self, tag: Tag) -> bool {
        self.any || self.tags.contains(&tag)
    }
}

fn ours(tag: &[u8]) -> Option<Tag> {
    let digits = tag.strip_prefix(b"\"")?.strip_suffix(b"\"")?;
    let digits = str::from_utf8(digits).ok()?;
    let lower = |byte: u8| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
    let plain = digits.len() == 16 && digits.bytes().all(lower);
    plain.then(|| u64::from_str_radix(digits, 16).ok().map(Tag))?
}

/// `Cache-Status` (RFC 9211).
pub const CACHE_STATUS: HeaderName = HeaderName::from_static("cache-status");

/// `Dcams-Stale: true` on an answer that is not fresh any more: ours, for who does not read `Cache-Status`.
pub const DCAMS_STALE: HeaderName = HeaderName::from_static("dcams-stale");

/// What part the cache had in an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CacheStatus {
    /// The part.
    pub course: Course,
    /// How long ago DCAMS said it.
    pub age: Duration,
    /// The answer's tag, where it has one.
    pub tag: Option<Tag>,
}

/// How an answer came about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Course {
    /// Nothing was kept, and the client wanted nothing else (`only-if-cached`).
    Absent,
    /// DCAMS was asked.
    Forwarded {
        /// Why.
        why: Why,
        /// Its answer's HTTP status, where there was one.
        status: Option<u16>,
        /// Whether it is kept.
        stored: bool,
    },
    /// It was kept, and is fresh.
    Hit {
        /// For how long still.
        left: Duration,
        /// Whether another gateway had asked.
        shared: bool,
    },
    /// Another request was asking DCAMS the same, and this one waited for its answer.
    Joined {
        /// Why it was asked.
        why: Why,
    },
    /// It was kept, and is told while it is asked for anew.
    Revalidating {
        /// For how long it is not fresh any more.
        past: Duration,
    },
    /// It was kept, and is told because DCAMS could not be asked.
    Stale {
        /// The HTTP status of DCAMS's failing answer, where there was one.
        status: Option<u16>,
    },
}

/// Why DCAMS is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Why {
    /// The customer's status is not kept, for this reason.
    Bypass(Bypass),
    /// It is not there.
    Miss,
    /// The client wants it newer.
    Requested,
    /// It is not fresh any more.
    Stale,
}

/// Why a status is not kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Bypass {
    /// The configuration says so, for all or for the tenant.
    Disabled,
    /// Its tenant sees a person's fields, which are not kept.
    Full,
    /// The customer is not the tenant's alone, so that others may change it.
    NotOwned,
    /// It is not known what other gateways did lately.
    OutOfTouch,
}

impl CacheStatus {
    /// The word in metrics and audit events.
    pub const fn word(&self) -> &'static str {
        match self.course {
            Course::Absent => "absent",
            Course::Forwarded { why, .. } => match why {
                Why::Bypass(Bypass::OutOfTouch) => "out_of_touch",
                Why::Bypass(_) => "bypass",
                Why::Miss => "miss",
                Why::Requested => "requested",
                Why::Stale => "expired",
            },
            Course::Hit { .. } => "hit",
            Course::Joined { .. } => "collapsed",
            Course::Revalidating { .. } => "revalidating",
            Course::Stale { .. } => "stale",
        }
    }

    /// Whether what is told is not fresh any more.
    pub const fn is_stale(&self) -> bool {
        matches!(
            self.course,
            Course::Revalidating { .. } | Course::Stale { .. }
        )
    }

    /// Whether the gateway answered out of what it knew.
    pub const fn is_kept(&self) -> bool {
        matches!(self.course, Course::Hit { .. }) || self.is_stale()
    }
}

/// The value of `Cache-Status`: one member, ours.
impl fmt::Display for CacheStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("dcams-gateway")?;
        match self.course {
            Course::Absent => f.write_str("; detail=only-if-cached"),
            Course::Forwarded {
                why,
                status,
                stored,
            } => {
                write!(f, "; fwd={}", why.word())?;
                write_status(f, status)?;
                if stored {
                    f.write_str("; stored")?;
                }
                if let Why::Bypass(bypass) = why {
                    write!(f, "; detail={}", bypass.word())?;
                }
                Ok(())
            }
            Course::Hit { left, shared } => {
                write!(f, "; hit; ttl={}", left.as_secs())?;
                f.write_str(if shared { "; detail=shared" } else { "" })
            }
            Course::Joined { why } => write!(f, "; fwd={}; collapsed", why.word()),
            Course::Revalidating { past } => {
                // What is past by a part of a second is past.
                let past = past.as_secs().max(1);
                write!(f, "; hit; ttl=-{past}; detail=stale-while-revalidate")
            }
            Course::Stale { status } => {
                f.write_str("; fwd=stale")?;
                write_status(f, status)?;
                f.write_str("; detail=stale-if-error")
            }
        }
    }
}

fn write_status(f: &mut fmt::Formatter<'_>, status: Option<u16>) -> fmt::Result {
    match status {
        Some(status) => write!(f, "; fwd-status={status}"),
        None => Ok(()),
    }
}

impl Why {
    const fn word(self) -> &'static str {
        match self {
            Self::Bypass(_) => "bypass",
            Self::Miss => "miss",
            Self::Requested => "request",
            Self::Stale => "stale",
        }
    }
}

impl Bypass {
    const fn word(self) -> &'static str {
        match self {
            Self::Disabled => "disabled",
            Self::Full => "full",
            Self::NotOwned => "not-owned",
            Self::OutOfTouch => "out-of-touch",
        }
    }
}

/// Why the cache stands in a request's way.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum CacheError {
    /// The client wanted what is kept, or nothing, and nothing is.
    #[error("nothing is kept that this request could be answered with")]
    Absent,
    /// Other gateways could not be told of a write, which the configuration wants first.
    #[error("other gateways cannot be told of the write")]
    Untold,
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    fn headers(name: &HeaderName, values: &[&'static str]) -> HeaderMap {
        let values = values.iter().map(|value| HeaderValue::from_static(value));
        values.map(|value| (name.clone(), value)).collect()
    }

    fn wish(values: &[&'static str]) -> (Option<u64>, bool, bool) {
        let wish = Wish::read(&headers(&CACHE_CONTROL, values));
        let age = wish.max_age.map(|age| age.as_secs());
        (age, wish.only_cached, wish.no_store)
    }

    #[test]
    fn a_clients_cache_control_is_read_as_rfc_9111_says() {
        for (values, read) in [
            (&[][..], (None, false, false)),
            (&["no-cache"], (Some(0), false, false)),
            (&["No-Cache, only-if-cached"], (Some(0), true, false)),
            (&["max-age=30"], (Some(30), false, false)),
            (&["max-age=\"30\""], (Some(30), false, false)),
            (&["max-age=30", "MAX-AGE = 10 "], (Some(10), false, false)),
            (
                &["max-age=99999999999999999999"],
                (Some(31_536_000), false, false),
            ),
            (&["max-age=", "x"], (Some(0), false, false)),
            (&["max-age=-1"], (Some(0), false, false)),
            (&["no-store"], (Some(0), false, true)),
            (&["no-cachet, private=\"x\", ,"], (None, false, false)),
        ] {
            assert_eq!(wish(values), read, "{values:?}");
        }
    }

    #[test]
    fn a_client_has_an_answer_by_its_tag() {
        let tag = Tag(0xABC);
        assert_eq!(tag.to_string(), "\"0000000000000abc\"");
        for (values, has) in [
            (&[][..], false),
            (&["\"0000000000000abc\""], true),
            (&["W/\"0000000000000abc\""], true),
            (&["\"x\", \"0000000000000abc\""], true),
            (&["\"x\"", "\"0000000000000abc\""], true),
            (&["*"], true),
            (
                &["\"0000000000000ABC\"", "0000000000000abc", "\"abc\""],
                false,
            ),
        ] {
            let held = Held::read(&headers(&IF_NONE_MATCH, values));
            assert_eq!(held.has(tag), has, "{values:?}");
        }
    }

    #[test]
    fn cache_status_is_in_rfc_9211s_words() {
        let shown = |course| {
            let (age, tag) = (Duration::ZERO, None);
            CacheStatus { course, age, tag }.to_string()
        };
        let forwarded = |why, status, stored| {
            shown(Course::Forwarded {
                why,
                status,
                stored,
            })
        };
        let seconds = Duration::from_secs;
        let hit = |shared| {
            let left = seconds(7);
            shown(Course::Hit { left, shared })
        };
        for (shown, expected) in [
            (shown(Course::Absent), "; detail=only-if-cached"),
            (hit(false), "; hit; ttl=7"),
            (hit(true), "; hit; ttl=7; detail=shared"),
            (
                forwarded(Why::Miss, Some(200), true),
                "; fwd=miss; fwd-status=200; stored",
            ),
            (forwarded(Why::Stale, None, false), "; fwd=stale"),
            (
                forwarded(Why::Bypass(Bypass::NotOwned), Some(404), false),
                "; fwd=bypass; fwd-status=404; detail=not-owned",
            ),
            (
                shown(Course::Joined {
                    why: Why::Requested,
                }),
                "; fwd=request; collapsed",
            ),
            (
                shown(Course::Revalidating { past: seconds(0) }),
                "; hit; ttl=-1; detail=stale-while-revalidate",
            ),
            (
                shown(Course::Stale { status: Some(503) }),
                "; fwd=stale; fwd-status=503; detail=stale-if-error",
            ),
        ] {
            assert_eq!(shown, format!("dcams-gateway{expected}"));
        }
    }
}
