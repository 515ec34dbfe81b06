//! The only file that reads the clock. Everything that decides takes `now` as an argument.

use jiff::Timestamp;
use tokio::time::Instant;

/// Wall-clock time, for tokens, dates and events.
#[expect(
    clippy::disallowed_methods,
    reason = "the one place where wall-clock time is read"
)]
pub fn now() -> Timestamp {
    Timestamp::now()
}

/// Monotonic time, for timeouts and durations; it follows tokio's paused clock in tests.
#[expect(
    clippy::disallowed_methods,
    reason = "the one place where monotonic time is read"
)]
pub fn instant() -> Instant {
    Instant::now()
}
