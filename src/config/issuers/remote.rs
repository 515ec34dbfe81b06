//! Keys that an issuer publishes: where they are, and the table `[issuers.jwks]`.
//!
//! Invariant: nothing is fetched here; keys come over https, or from this machine; and no bound on
//! fetching can be set so that an issuer is called without a pause or old keys are believed for ever.

use std::{ops::RangeInclusive, time::Duration};

use jsonwebtoken::Algorithm;
use rustls_pki_types::CertificateDer;

use crate::{
    auth::jwks::{JwksSettings, JwksSource, Rhythm},
    config::{
        cursor::Section,
        destination::{endpoint, roots},
        field::Field,
    },
};

const TIMEOUT: Duration = Duration::from_secs(5);
const RHYTHM: Rhythm = Rhythm {
    cooldown: Duration::from_secs(30),
    min_refresh: Duration::from_mins(1),
    max_refresh: Duration::from_hours(1),
    max_stale: Duration::from_hours(24),
};

const SECOND: Duration = Duration::from_secs(1);
const TIMEOUTS: RangeInclusive<Duration> = Duration::from_millis(100)..=Duration::from_secs(30);
const COOLDOWNS: RangeInclusive<Duration> = SECOND..=Duration::from_mins(15);
const REFRESHES: RangeInclusive<Duration> = SECOND..=Duration::from_hours(24);
const STALE: RangeInclusive<Duration> = SECOND..=Duration::from_hours(30 * 24);

/// The table `[issuers.jwks]`.
pub(super) struct Details {
    timeout: Duration,
    rhythm: Rhythm,
    roots: Vec<CertificateDer<'static>>,
}

/// Whether keys of this kind are fetched.
pub(super) fn is_remote(kind: &str) -> bool {
    matches!(kind, "jwks_url" | "issuer_discovery")
}

/// Reads `[issuers.jwks]`, which stands beside keys that are fetched and beside no others.
pub(super) fn details(section: &mut Section<'_>, kind: Option<&str>) -> Option<Details> {
    if section.has("jwks")
        && let Some(kind) = kind.filter(|kind| !is_remote(kind))
    {
        let problem = format!("stands beside `{kind}`, which is not fetched");
        section.mistake("jwks", problem, "remove it");
    }
    let mut section = section.section("jwks");
    let mut duration = |key, default, bounds: &RangeInclusive<Duration>| {
        let field = section.optional(key);
        field.map_or(Some(default), |field| field.duration(bounds))
    };
    let timeout = duration("timeout", TIMEOUT, &TIMEOUTS);
    let cooldown = duration("cooldown", RHYTHM.cooldown, &COOLDOWNS);
    let min_refresh = duration("min_refresh", RHYTHM.min_refresh, &REFRESHES);
    let max_refresh = duration("max_refresh", RHYTHM.max_refresh, &REFRESHES);
    let max_stale = duration("max_stale", RHYTHM.max_stale, &STALE);
    let ca = section.optional("ca");
    let roots = ca.map_or(Some(Vec::new()), |field| roots(&field));
    if min_refresh > max_refresh && max_refresh.is_some() {
        let problem = "is longer than `max_refresh`";
        section.mistake("min_refresh", problem, "shorten it, or lengthen the other");
    }
    if max_refresh > max_stale && max_stale.is_some() {
        let problem = "is longer than `max_stale`, so good keys would be dropped between fetches";
        section.mistake("max_refresh", problem, "shorten it, or lengthen the other");
    }
    section.finish();
    Some(Details {
        timeout: timeout?,
        rhythm: Rhythm {
            cooldown: cooldown?,
            min_refresh: min_refresh?,
            max_refresh: max_refresh?,
            max_stale: max_stale?,
        },
        roots: roots?,
    })
}

/// How the keys of this issuer are fetched.
pub(super) fn settings(
    kind: &str,
    field: &Field<'_>,
    issuer: Option<&str>,
    algorithms: &[Algorithm],
    details: Option<Details>,
) -> Option<JwksSettings> {
    let source = if kind == "jwks_url" {
        const EXAMPLE: &str = "write it as \"https://idp.example/.well-known/jwks.json\"";
        let secure = "use https: whoever changes the keys on their way can sign as the issuer";
        endpoint(field, EXAMPLE, secure).map(JwksSource::Url)
    } else {
        field.flag()?;
        JwksSource::discovery(issuer?)
            .inspect_err(|error| {
                let problem = format!("needs a URL as `issuer`, and that one {error}");
                field.mistake(problem, "use `jwks_url` where the issuer's name is no URL");
            })
            .ok()
    };
    let details = details?;
    Some(JwksSettings {
        source: source?,
        algorithms: algorithms.to_vec(),
        timeout: details.timeout,
        rhythm: details.rhythm,
        roots: details.roots,
    })
}
