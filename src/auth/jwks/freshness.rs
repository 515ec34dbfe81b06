//! How long an answer says that it is fresh (RFC 9111).
//!
//! Invariant: the result only ever moves the next fetch within the bounds that the operator set, so
//! nothing here needs to be believed. Pure.

use std::time::Duration;

use http::{
    HeaderMap,
    header::{AGE, CACHE_CONTROL},
};

/// `max-age` less what has passed of it already; nothing where the answer does not say.
pub(super) fn lifetime(headers: &HeaderMap) -> Option<Duration> {
    let lines = headers.get_all(CACHE_CONTROL).into_iter();
    let directives = lines
        .filter_map(|line| line.to_str().ok())
        .flat_map(|line| line.split(','));
    // Of several, the one that asks for the least.
    let lifetime = directives.filter_map(of_directive).min()?;
    let age = headers.get(AGE).and_then(|age| age.to_str().ok());
    Some(lifetime.saturating_sub(age.and_then(seconds).unwrap_or_default()))
}

fn of_directive(directive: &str) -> Option<Duration> {
    let (name, value) = directive.split_once('=').unwrap_or((directive, ""));
    let name = name.trim();
    if name.eq_ignore_ascii_case("no-cache") || name.eq_ignore_ascii_case("no-store") {
        return Some(Duration::ZERO);
    }
    if !name.eq_ignore_ascii_case("max-age") {
        return None;
    }
    // What cannot be read counts as over (section 4.2.1).
    Some(seconds(value.trim().trim_matches('"')).unwrap_or_default())
}

fn seconds(text: &str) -> Option<Duration> {
    let text = text.trim();
    if text.is_empty() || !text.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    // More than fits is a very long time (section 1.2.2).
    Some(Duration::from_secs(text.parse().unwrap_or(u64::MAX)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lifetime_is_max_age_less_age() {
        for (cache_control, age, expected) in [
            (vec![], None, None),
            (vec![], Some("10"), None),
            (vec!["public"], None, None),
            (vec!["s-maxage=600"], None, None),
            (vec!["max-age=600"], None, Some(600)),
            (
                vec!["public, MAX-AGE = 600 , must-revalidate"],
                None,
                Some(600),
            ),
            (vec!["max-age=\"600\""], None, Some(600)),
            (vec!["max-age=600"], Some("100"), Some(500)),
            (vec!["max-age=600"], Some("601"), Some(0)),
            (vec!["max-age=600"], Some("-1"), Some(600)),
            (vec!["max-age=600"], Some("soon"), Some(600)),
            (vec!["max-age=600", "max-age=60"], None, Some(60)),
            (vec!["max-age=600, max-age=60"], None, Some(60)),
            (vec!["max-age=600, no-cache"], None, Some(0)),
            (vec!["no-store"], None, Some(0)),
            (vec!["no-cache=\"set-cookie\", max-age=600"], None, Some(0)),
            (vec!["max-age=-1"], None, Some(0)),
            (vec!["max-age="], None, Some(0)),
            (vec!["max-age"], None, Some(0)),
            (vec!["max-age=1.5"], None, Some(0)),
            (
                vec!["max-age=99999999999999999999999"],
                None,
                Some(u64::MAX),
            ),
        ] {
            let mut headers = HeaderMap::new();
            for line in &cache_control {
                headers.append(CACHE_CONTROL, line.parse().unwrap());
            }
            if let Some(age) = age {
                headers.insert(AGE, age.parse().unwrap());
            }
            let expected = expected.map(Duration::from_secs);
            assert_eq!(lifetime(&headers), expected, "{cache_control:?} {age:?}");
        }
    }
}
