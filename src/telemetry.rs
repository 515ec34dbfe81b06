//! Logging: where lines go, in which form, and from whom.
//!
//! Invariant: a dependency's own lines are kept at warnings, whatever the level, because what they
//! log below that is not ours to promise (a header, a length, a piece of a body). Ours name a
//! request and a tenant and hold nothing of a person and no secret at any level.

use std::{io, sync::OnceLock, time::Duration};

use tracing::{Level, Subscriber, level_filters::LevelFilter};
use tracing_subscriber::{
    Layer, Registry,
    filter::Targets,
    fmt::{self, MakeWriter},
    layer::SubscriberExt,
};

use crate::outbox::Outbox;

/// The `[telemetry]` section.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TelemetrySettings {
    /// How a line looks.
    pub format: LogFormat,
    /// The least severe level of the gateway's own lines.
    pub level: Level,
}

impl Default for TelemetrySettings {
    /// For commands that read no configuration.
    fn default() -> Self {
        Self {
            format: LogFormat::Text,
            level: Level::INFO,
        }
    }
}

/// How a log line looks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    /// One JSON object a line.
    Json,
    /// For people.
    Text,
}

/// Sends log lines to standard error from now on, through an [`Outbox`], so that no request waits for
/// whoever reads them; audit events go to standard output, so that the two never mix. A second call
/// changes nothing.
///
/// # Errors
/// Where the system gives no thread.
pub fn install(settings: TelemetrySettings) -> io::Result<()> {
    let outbox = Outbox::new("log", io::stderr())?;
    let writer = outbox.clone();
    let installed =
        tracing::subscriber::set_global_default(subscriber(settings, move || writer.clone()));
    if installed.is_ok() {
        drop(LINES.set(outbox));
    }
    Ok(())
}

/// Waits for a moment until standard error has taken what was logged.
pub fn flush() {
    if let Some(lines) = LINES.get() {
        lines.flush_within(Duration::from_secs(1));
    }
}

/// Where the lines of the process's subscriber go.
static LINES: OnceLock<Outbox> = OnceLock::new();

/// The subscriber that [`install`] makes global, writing to `writer`.
pub fn subscriber<W>(settings: TelemetrySettings, writer: W) -> impl Subscriber + Send + Sync
where
    W: for<'a> MakeWriter<'a> + Send + Sync + 'static,
{
    let from = Targets::new()
        .with_target("dcams_gateway", settings.level)
        // It repeats what a server says; what there is to say of that, we say.
        .with_target("async_nats", LevelFilter::OFF)
        .with_default(LevelFilter::WARN);
    let lines = fmt::layer().with_writer(writer);
    let lines: Box<dyn Layer<Registry> + Send + Sync> = match settings.format {
        LogFormat::Json => lines.json().flatten_event(true).with_filter(from).boxed(),
        LogFormat::Text => lines.with_ansi(false).with_filter(from).boxed(),
    };
    Registry::default().with(lines)
}
