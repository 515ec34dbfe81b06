//! Reads a request's body into memory: within a limit, within a time, and within a budget that all
//! bodies of the process share.
//!
//! Invariant: bytes are charged to the budget before they are read, and stay charged for as long as
//! the [`BudgetPermit`] lives; the frames that are kept pin at most a tenth more memory than they
//! carry (`gather`). Trailers are dropped unread. It never looks at what the bytes say.

mod budget;
mod gather;

use std::{
    future::{Future, poll_fn},
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use http_body::{Body, Frame};
use tokio::time::{Instant, Sleep, sleep_until};

use self::gather::Gather;
pub use self::{
    budget::{BudgetPermit, ByteBudget},
    gather::READ_BUFFER,
};
use crate::clock;

/// Limits of a body. The three times are of one request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BodySettings {
    /// Most bytes of a body of createOrUpdateCustomer.
    pub max_body: u64,
    /// Most bytes of a body of the other services.
    pub max_lookup_body: u64,
    /// Bytes that all bodies of the process may hold together.
    pub body_memory: u64,
    /// How long a request waits for its share of `body_memory`.
    pub budget_wait: Duration,
    /// How long a body may take in all.
    pub body_timeout: Duration,
    /// How long a body may stand still.
    pub idle: Duration,
    /// Bytes a second that a body carries at least, over each ten seconds.
    pub min_rate: u64,
}

/// Why a body was not read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BodyError {
    /// The client went away, or what it sent breaks the message's framing.
    #[error("the body ended early or its framing is broken")]
    Broken,
    /// The process-wide budget is spent.
    #[error("no memory is left for another body")]
    Overloaded {
        /// When to try again.
        retry_after: Duration,
    },
    /// It came, but too slowly.
    #[error("the body came more slowly than allowed")]
    TooSlow,
    /// It is longer than allowed.
    #[error("the body is larger than {limit} bytes")]
    TooLarge {
        /// The limit it broke.
        limit: u64,
    },
    /// It stood still, or took too long in all.
    #[error("the body did not arrive in time")]
    Timeout,
}

/// A body as it came: frames, not one buffer. Made by [`read`] only.
///
/// It has no `Debug`: it holds a person's documents.
pub struct RawBody {
    frames: Vec<Bytes>,
    len: u64,
    permit: BudgetPermit,
}

impl RawBody {
    /// The bytes, in order.
    pub fn frames(&self) -> &[Bytes] {
        &self.frames
    }

    /// How many bytes there are.
    pub const fn len(&self) -> u64 {
        self.len
    }

    /// Whether there are none.
    pub const fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Frames and permit apart. The permit is dropped when the last frame may be.
    pub fn into_parts(self) -> (Vec<Bytes>, BudgetPermit) {
        (self.frames, self.permit)
    }
}

/// How long a body may be, and how long it says it is.
#[derive(Debug, Clone, Copy)]
pub struct Size {
    /// Its `Content-Length`.
    pub declared: Option<u64>,
    /// Most bytes of it.
    pub limit: u64,
}

/// Reads a whole body.
///
/// Waits at most `budget_wait` for memory, then at most `body_timeout` for bytes. `watch` is shown
/// the frames so far whenever one has come, while the processor's cache still has it.
pub async fn read<B>(
    body: B,
    size: Size,
    budget: &ByteBudget,
    settings: &BodySettings,
    mut watch: impl FnMut(&[Bytes]),
) -> Result<RawBody, BodyError>
where
    B: Body<Data = Bytes> + Unpin,
{
    let Size { declared, limit } = size;
    // Before a byte is read, and before the budget is asked: a refusal costs nothing.
    if declared.is_some_and(|length| length > limit) {
        return Err(BodyError::TooLarge { limit });
    }
    let mut permit = budget
        .charge(declared.unwrap_or(0), settings.budget_wait)
        .await?;
    let mut frames = Gather::new(declared);
    let mut body = body;
    let mut pace = Pace::new(clock::instant(), settings);
    while let Some(frame) = next_frame(&mut body, &mut pace).await? {
        let Ok(data) = frame.into_data() else {
            // Trailers end a message. Nothing of ours is ever in them.
            break;
        };
        let length = frames.len().saturating_add(length_of(&data));
        if length > limit {
            return Err(BodyError::TooLarge { limit });
        }
        permit.cover(length, limit, settings.budget_wait).await?;
        frames.push(data);
        watch(frames.frames());
    }
    if declared.is_some_and(|length| length != frames.len()) {
        return Err(BodyError::Broken);
    }
    let len = frames.len();
    Ok(RawBody {
        frames: frames.finish(),
        len,
        permit,
    })
}

async fn next_frame<B>(body: &mut B, pace: &mut Pace) -> Result<Option<Frame<Bytes>>, BodyError>
where
    B: Body<Data = Bytes> + Unpin,
{
    poll_fn(|cx| {
        // The body first: no timer is touched while bytes are there.
        match Pin::new(&mut *body).poll_frame(cx) {
            Poll::Ready(None) => Poll::Ready(Ok(None)),
            Poll::Ready(Some(Ok(frame))) => {
                pace.record(frame.data_ref().map_or(0, length_of));
                Poll::Ready(Ok(Some(frame)))
            }
            Poll::Ready(Some(Err(_))) => Poll::Ready(Err(BodyError::Broken)),
            Poll::Pending => pace.poll_late(cx).map(Err),
        }
    })
    .await
}

/// Over how many seconds `min_rate` is averaged.
const WINDOW: Duration = Duration::from_secs(10);

/// The three deadlines of one body behind one timer, which is set when the body first keeps us
/// waiting and moved only when it fires.
struct Pace {
    timer: Option<Pin<Box<Sleep>>>,
    idle: Duration,
    end: Instant,
    last: Instant,
    window_end: Instant,
    window_bytes: u64,
    window_least: u64,
}

impl Pace {
    fn new(now: Instant, settings: &BodySettings) -> Self {
        Self {
            timer: None,
            idle: settings.idle,
            end: now + settings.body_timeout,
            last: now,
            window_end: now + WINDOW,
            window_bytes: 0,
            window_least: settings.min_rate.saturating_mul(WINDOW.as_secs()),
        }
    }

    fn record(&mut self, bytes: u64) {
        self.last = clock::instant();
        self.window_bytes = self.window_bytes.saturating_add(bytes);
    }

    fn poll_late(&mut self, cx: &mut Context<'_>) -> Poll<BodyError> {
        loop {
            let due = self.due();
            let timer = self.timer.get_or_insert_with(|| Box::pin(sleep_until(due)));
            if timer.as_mut().poll(cx).is_pending() {
                return Poll::Pending;
            }
            let now = clock::instant();
            if let Some(late) = self.check(now) {
                return Poll::Ready(late);
            }
            let due = self.due();
            if let Some(timer) = self.timer.as_mut() {
                timer.as_mut().reset(due);
            }
        }
    }

    fn due(&self) -> Instant {
        self.end.min(self.last + self.idle).min(self.window_end)
    }

    /// What is broken at `now`; a window that was good enough gives way to the next.
    fn check(&mut self, now: Instant) -> Option<BodyError> {
        if now >= self.end || now >= self.last + self.idle {
            return Some(BodyError::Timeout);
        }
        if now >= self.window_end {
            if self.window_bytes < self.window_least {
                return Some(BodyError::TooSlow);
            }
            self.window_bytes = 0;
            self.window_end = now + WINDOW;
        }
        None
    }
}

fn length_of(bytes: &Bytes) -> u64 {
    u64::try_from(bytes.len()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests;
