//! The second place of the audit trail: `[audit.ship]`.
//!
//! Invariant: what leaves this machine is encrypted; what another kind of receiver needs does not stand
//! beside the one that is chosen. Nothing is sent here.

use std::{ops::RangeInclusive, time::Duration};

use crate::{
    audit::ship::{Bounds, Place, ShipSettings, ShipToken, Subject, What},
    config::{
        cursor::Section,
        destination::{endpoint, roots},
        field::Field,
        secret,
    },
    endpoint::{Endpoint, EndpointError},
    units::{KIB, MIB},
};

const TIMEOUT: Duration = Duration::from_secs(10);
const TIMEOUTS: RangeInclusive<Duration> = Duration::from_millis(100)..=Duration::from_mins(2);
const LINES: usize = 1_000;
const BYTES: usize = 1024 * 1024;
const WAIT: Duration = Duration::from_millis(200);
const WAITS: RangeInclusive<Duration> = Duration::ZERO..=Duration::from_mins(1);
const RETRIES: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(30));
const PAUSES: RangeInclusive<Duration> = Duration::from_millis(10)..=Duration::from_mins(10);

const HTTP: &str = "write it as \"https://siem.internal/dcams\"";
const NATS: &str = "write it as \"tls://nats.internal:4222\"";
const OTLP: &str = "write it as \"https://collector.internal:4318/v1/logs\"";
const SECURE: &str = "use https: who asked for what of whom stands in these lines";

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Http,
    Nats,
    Otlp,
}

/// Reads `[audit.ship]`, where there is one.
pub(super) fn ship(audit: &mut Section<'_>) -> Option<ShipSettings> {
    audit.known(&["ship"]);
    if !audit.has("ship") {
        return None;
    }
    let mut section = audit.section("ship");
    let kinds = [
        ("http", Kind::Http),
        ("otlp", Kind::Otlp),
        ("nats", Kind::Nats),
    ];
    let kind = section.choice("kind", &kinds);
    let what = section.choice("what", &[("events", What::Events), ("heads", What::Heads)]);
    let place = place(&mut section, kind);
    let token = match section.optional("token") {
        None => Some(None),
        Some(field) => token(&section, field).map(Some),
    };
    let roots = section.or("ca", Vec::new(), roots);
    let written = roots.as_ref().is_some_and(|roots| !roots.is_empty());
    if written && place.as_ref().is_some_and(|place| !is_encrypted(place)) {
        let mend = "remove it, or encrypt the connection";
        section.mistake("ca", "has no effect beside this `url`", mend);
    }
    let timeout = section.or("timeout", TIMEOUT, |f| f.duration(&TIMEOUTS));
    let batch = batch(&mut section);
    let retry = retry(&mut section);
    section.finish();
    Some(ShipSettings {
        place: place?,
        what: what?,
        token: token?,
        roots: roots?,
        timeout: timeout?,
        batch: batch?,
        retry: retry?,
    })
}

fn place(section: &mut Section<'_>, kind: Option<Kind>) -> Option<Place> {
    let url = section.required("url");
    if kind == Some(Kind::Nats) {
        let server = url.and_then(|f| nats(&f));
        let subject = section.required("subject").and_then(|f| subject(&f));
        return Some(Place::Nats {
            server: server?,
            subject: subject?,
        });
    }
    // Without a kind it is not known which keys are too many.
    let alone = match (section.optional("subject"), kind) {
        (Some(field), Some(_)) => {
            let mend = "remove it, or write kind = \"nats\"";
            field.mistake("has no effect beside this `kind`", mend);
            None
        }
        _ => Some(()),
    };
    let (kind, url) = (kind?, url?);
    let place = if kind == Kind::Otlp {
        if !url.text()?.ends_with("/v1/logs") {
            url.warning("does not end in the path of a collector's logs", OTLP);
        }
        Place::Otlp(endpoint(&url, OTLP, SECURE)?)
    } else {
        Place::Http(endpoint(&url, HTTP, SECURE)?)
    };
    alone.map(|()| place)
}

fn is_encrypted(place: &Place) -> bool {
    let (Place::Http(server) | Place::Otlp(server) | Place::Nats { server, .. }) = place;
    server.is_https()
}

/// A server of NATS, whose two schemes are kept to the rules of those of HTTP.
fn nats(field: &Field<'_>) -> Option<Endpoint> {
    let text = field.text()?;
    let (scheme, rest) = text.split_once("://").unwrap_or(("", ""));
    let parsed = match scheme {
        "tls" => Endpoint::parse(&format!("https://{rest}")),
        "nats" => Endpoint::parse(&format!("http://{rest}")),
        _ => Err(EndpointError::NotAbsolute),
    };
    let (problem, mend) = match parsed {
        Ok(server) if !server.has_query() && server.uri().path() == "/" => return Some(server),
        Ok(_) => ("has a path or a query".to_owned(), NATS),
        Err(EndpointError::Insecure) => (
            "is neither tls nor plain nats to a loopback address".to_owned(),
            "use tls: who asked for what of whom stands in these lines",
        ),
        Err(EndpointError::Userinfo) => (
            EndpointError::Userinfo.to_string(),
            "remove it; a URL is no place for a secret",
        ),
        Err(error) => (error.to_string(), NATS),
    };
    field.mistake(problem, mend);
    None
}

fn subject(field: &Field<'_>) -> Option<Subject> {
    Subject::parse(field.text()?)
        .inspect_err(|error| field.mistake(error.to_string(), "write it as \"audit.gw-1\""))
        .ok()
}

fn token(section: &Section<'_>, field: Field<'_>) -> Option<ShipToken> {
    let text = secret::text(section, "token", &secret::bytes(field)?)?;
    ShipToken::new(text)
        .inspect_err(|error| {
            section.mistake("token", error.to_string(), "put the token alone there");
        })
        .ok()
}

fn batch(section: &mut Section<'_>) -> Option<Bounds> {
    let lines = section.or("batch_lines", LINES, |f| f.count(&(1..=10_000)));
    let bytes = section.or("batch_bytes", BYTES, |f| {
        usize::try_from(f.size(&(KIB..=16 * MIB))?).ok()
    });
    let wait = section.or("batch_wait", WAIT, |f| f.duration(&WAITS));
    Some(Bounds {
        lines: lines?,
        bytes: bytes?,
        wait: wait?,
    })
}

fn retry(section: &mut Section<'_>) -> Option<(Duration, Duration)> {
    let first = section.or("retry_min", RETRIES.0, |f| f.duration(&PAUSES));
    let longest = section.or("retry_max", RETRIES.1, |f| f.duration(&PAUSES));
    if let (Some(first), Some(longest)) = (first, longest)
        && first > longest
    {
        let mend = "lower it, or raise `retry_max`";
        section.mistake("retry_min", "is longer than `retry_max`", mend);
        return None;
    }
    Some((first?, longest?))
}
