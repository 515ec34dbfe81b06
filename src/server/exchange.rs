//! One request and its answer: counts them as under way, and sees to a body that was left unread.
//!
//! A handler may answer without reading the body. Where little of it is to come, that is read and
//! thrown away behind the answer, and the connection stays usable; otherwise the answer says
//! `Connection: close` (HTTP/1) or the stream is reset (HTTP/2).
//!
//! Invariant: the bytes of a body are never taken for a request, and an answer never waits for them.

use std::{
    convert::Infallible,
    pin::Pin,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use http::{
    HeaderValue, Method, Request, Response, StatusCode, Version,
    header::{CONNECTION, EXPECT},
};
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use tokio::{
    sync::Notify,
    time::{Instant, sleep_until, timeout},
};
use tokio_util::task::TaskTracker;

use super::{Handle, activity::UnderWay};
use crate::{address::Client, clock, segments::Segments};

/// Most of a body that is read only to be thrown away, and for how long.
const DISCARD: u64 = 64 * 1024;
const DISCARD_TIME: Duration = Duration::from_secs(1);

/// The largest piece of an answer that is handed to HTTP/2 at once, so that a client which grants no
/// window stops the body and is noticed.
const H2_PIECE: usize = 16 * 1024;

/// The body of a request, as it comes. What is left of it on drop is seen to by the server.
pub struct RequestBody {
    incoming: Option<Incoming>,
    left: Option<Arc<Left>>,
    touched: bool,
}

/// Where a dropped body leaves what was not read.
///
/// The lock is taken twice in a request's life, usually by the same task.
type Left = Mutex<Option<Unread>>;

struct Unread {
    incoming: Incoming,
    touched: bool,
}

impl RequestBody {
    fn new(incoming: Incoming) -> (Self, Option<Arc<Left>>) {
        let left = (!incoming.is_end_stream()).then(Arc::<Left>::default);
        let body = Self {
            incoming: Some(incoming),
            left: left.clone(),
            touched: false,
        };
        (body, left)
    }
}

impl Drop for RequestBody {
    fn drop(&mut self) {
        let Some(incoming) = self.incoming.take().filter(|body| !body.is_end_stream()) else {
            return;
        };
        if let Some(left) = &self.left {
            let touched = self.touched;
            *left.lock().unwrap_or_else(PoisonError::into_inner) =
                Some(Unread { incoming, touched });
        }
    }
}

impl Body for RequestBody {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        self.touched = true;
        let Some(incoming) = &mut self.incoming else {
            return Poll::Ready(None);
        };
        let polled = Pin::new(incoming).poll_frame(cx);
        if let Poll::Ready(None | Some(Err(_))) = polled {
            self.incoming = None;
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.incoming.as_ref().is_none_or(Body::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.incoming
            .as_ref()
            .map_or_else(|| SizeHint::with_exact(0), Body::size_hint)
    }
}

/// What the requests of one connection have in common.
pub(super) struct Shared<H> {
    pub(super) handler: H,
    pub(super) tracker: TaskTracker,
    pub(super) peer: Client,
}

/// Answers one request. `progress` is HTTP/2's.
pub(super) async fn answer<H: Handle>(
    shared: Shared<H>,
    request: Request<Incoming>,
    under_way: UnderWay,
    progress: Option<Arc<Progress>>,
) -> Result<Response<Answer>, Infallible> {
    let terms = Terms::of(&request);
    let (head, incoming) = request.into_parts();
    let (body, left) = RequestBody::new(incoming);
    let request = Request::from_parts(head, body);
    let mut response = shared.handler.handle(request, shared.peer).await;
    let unread = left.and_then(|left| left.lock().unwrap_or_else(PoisonError::into_inner).take());
    if let Some(unread) = unread {
        if terms.allow_discarding(&unread, &response) {
            shared
                .tracker
                .spawn(discard(unread.incoming, under_way.share()));
        } else if terms.closable {
            let close = HeaderValue::from_static("close");
            response.headers_mut().insert(CONNECTION, close);
            under_way.activity().left_unread();
        }
    }
    Ok(response.map(|segments| Answer {
        segments,
        progress,
        _under_way: under_way,
    }))
}

/// What a request's head says about leaving its body unread.
struct Terms {
    /// The client waits for our word before it sends the body, or goes on without it.
    expects: bool,
    /// A body is usual with this method; with another, two readers may differ on where it ends.
    usual: bool,
    /// HTTP/1: the connection can be closed after the answer, and must be if the body is not read.
    closable: bool,
}

impl Terms {
    fn of<B>(request: &Request<B>) -> Self {
        let usual = [Method::PATCH, Method::POST, Method::PUT];
        Self {
            expects: request.headers().contains_key(EXPECT),
            usual: usual.contains(request.method()),
            closable: request.version() < Version::HTTP_2,
        }
    }

    fn allow_discarding(&self, unread: &Unread, response: &Response<Segments>) -> bool {
        let left = unread.incoming.size_hint().exact();
        let undecided = self.expects && !unread.touched;
        // After a 400 without reading nothing about the message is to be relied on; after a 408 a
        // client that was too slow would be waited for once more.
        let distrusted = matches!(
            response.status(),
            StatusCode::BAD_REQUEST | StatusCode::REQUEST_TIMEOUT
        );
        let last = response.headers().contains_key(CONNECTION);
        let small = left.is_some_and(|left| left <= DISCARD);
        small && self.usual && !undecided && !distrusted && !last
    }
}

/// Reads what is left of a body, behind the answer. If that takes too long, hyper closes.
async fn discard(mut incoming: Incoming, under_way: UnderWay) {
    let to_the_end = async { while let Some(Ok(_)) = next(&mut incoming).await {} };
    if timeout(DISCARD_TIME, to_the_end).await.is_err() {
        under_way.activity().left_unread();
    }
}

async fn next(incoming: &mut Incoming) -> Option<Result<Frame<Bytes>, hyper::Error>> {
    std::future::poll_fn(|cx| Pin::new(&mut *incoming).poll_frame(cx)).await
}

/// The body of an answer; the request is under way until it is dropped.
pub(super) struct Answer {
    segments: Segments,
    progress: Option<Arc<Progress>>,
    _under_way: UnderWay,
}

impl Body for Answer {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let Some(progress) = &self.progress else {
            return Pin::new(&mut self.segments).poll_frame(cx);
        };
        progress.made();
        Poll::Ready(
            self.segments
                .pop(H2_PIECE)
                .map(|piece| Ok(Frame::data(piece))),
        )
    }

    fn is_end_stream(&self) -> bool {
        self.segments.is_empty()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.segments.len())
    }
}

/// How an HTTP/2 answer gets on. hyper asks its body for a piece only when the one before is on its
/// way, so a body that is not asked has a client that doesn't take it.
pub(super) struct Progress {
    created: Instant,
    millis: AtomicU64,
    begun: Notify,
}

impl Progress {
    pub(super) fn new() -> Self {
        Self {
            created: clock::instant(),
            millis: AtomicU64::new(0),
            begun: Notify::new(),
        }
    }

    fn made(&self) {
        let since = clock::instant().saturating_duration_since(self.created);
        let millis = u64::try_from(since.as_millis()).unwrap_or(u64::MAX);
        self.millis.store(millis, Relaxed);
        self.begun.notify_one();
    }

    /// Returns when the answer has begun and then stood still for `limit`.
    pub(super) async fn stalled(&self, limit: Duration) {
        self.begun.notified().await;
        loop {
            let due = self.created + Duration::from_millis(self.millis.load(Relaxed)) + limit;
            if due <= clock::instant() {
                return;
            }
            sleep_until(due).await;
        }
    }
}
