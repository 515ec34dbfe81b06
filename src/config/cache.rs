//! What is kept of customers' statuses: `[cache]`, and `[tenants.cache]` of each tenant.
//!
//! Invariant: bounds in which everything that is kept has room and an end; what needs Redis is not asked
//! for without it. The defaults of `[cache]` stand in `config/default.toml`.

use std::{ops::RangeInclusive, time::Duration};

use crate::{
    caching::{CacheSettings, TenantCaching, UntoldWrites},
    config::{cursor::Section, field::Field},
    store::{Backend, StateSettings},
    units::{GIB, MIB},
};

/// How long something may be kept.
const KEPT: RangeInclusive<Duration> = Duration::ZERO..=Duration::from_hours(24);
/// How far gateways may be behind each other.
const LAGS: RangeInclusive<Duration> = Duration::from_millis(100)..=Duration::from_mins(1);

/// Reads `[cache]`.
pub(super) fn cache(
    mut section: Section<'_>,
    state: Option<&StateSettings>,
) -> Option<CacheSettings> {
    let enabled = section.required("enabled").and_then(|f| f.flag());
    let mut ttl = |key| section.duration(key, KEPT);
    let (pass_ttl, fail_ttl) = (ttl("pass_ttl"), ttl("fail_ttl"));
    let (pending_ttl, not_found_ttl) = (ttl("pending_ttl"), ttl("not_found_ttl"));
    let (stale_if_error, stale_while) = (ttl("stale_if_error"), ttl("stale_while_revalidate"));
    let jitter = section
        .required("jitter")
        .and_then(|f| f.percent(&(0..=50)));
    let max_entries = section.count("max_entries", 1_000..=100_000_000);
    let max_bytes = section.size("max_bytes", MIB..=1024 * GIB);
    let full = section.required("full").and_then(|f| f.flag());
    let refresh_pending = section.required("refresh_pending").and_then(|f| f.flag());
    let shared = section.required("shared").and_then(|f| f.flag());
    let node_lag = section.duration("node_lag", LAGS);
    let untold_writes = section.choice(
        "untold_writes",
        &[
            ("forward", UntoldWrites::Forward),
            ("refuse", UntoldWrites::Refuse),
        ],
    );
    let alone = state.is_some_and(|state| matches!(state.backend, Backend::Embedded { .. }));
    if shared == Some(true) && alone {
        let problem = "needs a Redis to share what is kept in";
        let mend = "remove it, or write backend = \"redis\" under [state]";
        section.mistake("shared", problem, mend);
    }
    section.finish();
    Some(CacheSettings {
        enabled: enabled?,
        pass_ttl: pass_ttl?,
        fail_ttl: fail_ttl?,
        pending_ttl: pending_ttl?,
        not_found_ttl: not_found_ttl?,
        jitter: jitter?,
        max_entries: max_entries?,
        max_bytes: max_bytes?,
        full: full?,
        stale_if_error: stale_if_error?,
        stale_while_revalidate: stale_while?,
        refresh_pending: refresh_pending?,
        shared: shared?,
        node_lag: node_lag?,
        untold_writes: untold_writes?,
    })
}

/// Reads `[tenants.cache]`.
pub(super) fn of_tenant(mut section: Section<'_>) -> Option<TenantCaching> {
    let whole = TenantCaching::default();
    let enabled = section.or("enabled", whole.enabled, Field::flag);
    let stale = section.or("stale", whole.stale, Field::flag);
    let no_cache = section.or("no_cache", whole.no_cache, |f| {
        f.choice(&[("allow", true), ("ignore", false)])
    });
    section.finish();
    Some(TenantCaching {
        enabled: enabled?,
        stale: stale?,
        no_cache: no_cache?,
    })
}
