//! The sections `[limits]`, `[validation]`, `[reload]` and `[telemetry]`.
//!
//! Invariant: limits that contradict each other do not leave here. The
//! defaults stand in `config/default.toml`, not here.

use std::time::Duration;

use tracing::Level;

use crate::{
    config::cursor::Section,
    operation::Operation,
    payload::{DataUri, Field, ImageFormat, ImageTypes, Rules},
    reload::ReloadSettings,
    telemetry::{LogFormat, TelemetrySettings},
    tenant::Country,
    units::{GIB, KIB},
};

/// What `[limits]` says; part of it belongs to the reading of bodies, part to payloads.
pub(super) struct Limits {
    pub(super) max_body: u64,
    pub(super) max_lookup_body: u64,
    pub(super) body_memory: u64,
    pub(super) body_wait: Duration,
    pub(super) max_image: u64,
    pub(super) max_image_pixels: u64,
}

/// Reads `[limits]`.
pub(super) fn limits(mut section: Section<'_>) -> Option<Limits> {
    let max_body = section.size("max_body", KIB..=GIB);
    let max_lookup_body = section.size("max_lookup_body", 256..=GIB);
    let body_memory = section.size("body_memory", KIB..=1024 * GIB);
    let body_wait = section.duration("body_wait", Duration::ZERO..=Duration::from_secs(30));
    let max_image = section.size("max_image", KIB..=GIB);
    let max_image_pixels = section.count("max_image_pixels", 1..=10_000_000_000);
    if max_lookup_body > max_body && max_body.is_some() {
        let problem = "is larger than `max_body`";
        section.mistake("max_lookup_body", problem, "lower it, or raise `max_body`");
    }
    if body_memory < max_body && body_memory.is_some() {
        section.mistake(
            "body_memory",
            "is smaller than `max_body`, so the largest allowed body would never be read",
            "raise it, best to many times as much, or lower `max_body`",
        );
    }
    section.finish();
    Some(Limits {
        max_body: max_body?,
        max_lookup_body: max_lookup_body?,
        body_memory: body_memory?,
        body_wait: body_wait?,
        max_image: max_image?,
        max_image_pixels: max_image_pixels?,
    })
}

/// The words of `country`, here and of a tenant.
pub(super) const COUNTRIES: [(&str, Country); 2] = [("any", Country::Any), ("US", Country::Us)];

/// Reads `[validation]`, which makes the rules together with two of the limits.
pub(super) fn validation(mut section: Section<'_>, limits: Option<&Limits>) -> Option<Rules> {
    let fields: Vec<(&str, Field)> = Field::ALL
        .into_iter()
        .filter(|field| field.belongs_to(Operation::CreateOrUpdateCustomer))
        .map(|field| (field.name(), field))
        .collect();
    let required = section
        .required("required")
        .and_then(|f| f.list(true, |item| item.choice(&fields)));
    if required
        .as_ref()
        .is_some_and(|r| !r.contains(&Field::Email))
    {
        section.mistake(
            "required",
            "lacks \"email\", by which the vendor knows a customer",
            "add it",
        );
    }
    let country = section.choice("country", &COUNTRIES);
    let data_uri = section.choice(
        "data_uri",
        &[("strip", DataUri::Strip), ("refuse", DataUri::Refuse)],
    );
    let formats = ImageFormat::ALL.map(|format| (format.name(), format));
    let image_types = section
        .required("image_types")
        .and_then(|f| f.list(false, |item| item.choice(&formats)));
    section.finish();
    let limits = limits?;
    Some(Rules {
        required: required?,
        country: country?,
        data_uri: data_uri?,
        image_types: image_types?.into_iter().collect::<ImageTypes>(),
        max_image: limits.max_image,
        max_image_pixels: limits.max_image_pixels,
    })
}

/// Files are not looked at more often than this. The kernel's clock for files ticks every few
/// milliseconds, and what changes twice between two looks must not look alike.
const SHORTEST_WATCH: Duration = Duration::from_millis(100);

/// Reads `[reload]`.
pub(super) fn reload(mut section: Section<'_>) -> Option<ReloadSettings> {
    let watch = section.duration("watch", Duration::ZERO..=Duration::from_hours(1));
    let too_often = |every: &Duration| !every.is_zero() && *every < SHORTEST_WATCH;
    if watch.as_ref().is_some_and(too_often) {
        let mend = "write \"100ms\" or longer, or \"0s\" to switch it off";
        section.mistake("watch", "is shorter than 100ms", mend);
    }
    section.finish();
    let watch = Some(watch?).filter(|every| !every.is_zero());
    Some(ReloadSettings { watch })
}

/// Reads `[telemetry]`.
pub(super) fn telemetry(mut section: Section<'_>) -> Option<TelemetrySettings> {
    section.unavailable(&["otlp_endpoint"]);
    let format = section.choice(
        "log_format",
        &[("text", LogFormat::Text), ("json", LogFormat::Json)],
    );
    let level = section.choice(
        "log_level",
        &[
            ("error", Level::ERROR),
            ("warn", Level::WARN),
            ("info", Level::INFO),
            ("debug", Level::DEBUG),
            ("trace", Level::TRACE),
        ],
    );
    section.finish();
    Some(TelemetrySettings {
        format: format?,
        level: level?,
    })
}
