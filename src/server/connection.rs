//! Drives one connection: the PROXY header where there must be one, hyper on a watched stream, one
//! timer, and a close that loses no answer.
//!
//! Invariant: the timer is set when the connection opens and moved only when it fires or when something
//! is due sooner, so that a request on a kept-alive connection touches no timer here.

use std::{
    future::poll_fn,
    net::IpAddr,
    pin::{Pin, pin},
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll, Waker},
    time::Duration,
};

use bytes::{BufMut, Bytes, BytesMut};
use http::Request;
use hyper::{body::Incoming, server::conn, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::{Instant, Sleep, sleep_until, timeout},
};
use tokio_util::{
    sync::{CancellationToken, WaitForCancellationFuture},
    task::TaskTracker,
};

use super::{
    ConnectionStats, Cut, Handle, Protocol, ProxyProtocol, ServerSettings,
    activity::{Activity, UnderWay},
    exchange::{self, Answer, Progress, Shared},
    proxy_protocol::{self, Malformed, Origin},
    refusal,
    stats::Open,
    watched::{Refuse, Returned, Watched},
};
use crate::{address::Client, body::READ_BUFFER, clock};

/// How long, and for how many bytes, input is thrown away after the answer, so that a reset does not
/// overtake it.
pub(super) const LINGER: Duration = Duration::from_secs(2);
const LINGER_BYTES: usize = 64 * 1024;

/// Most streams that were reset before we took them (HTTP/2), and most that we reset ourselves.
const PENDING_RESETS: usize = 20;
const OWN_RESETS: usize = 256;

/// What all connections of a listener share.
pub(super) struct Connections<H> {
    pub(super) settings: Arc<ServerSettings>,
    pub(super) handler: H,
    pub(super) shutdown: CancellationToken,
    pub(super) stats: Arc<ConnectionStats>,
    pub(super) tracker: TaskTracker,
}

impl<H: Handle> Connections<H> {
    /// The same for connections that are accepted while these settings hold.
    pub(super) fn under(self: Arc<Self>, settings: Arc<ServerSettings>) -> Arc<Self> {
        if Arc::ptr_eq(&self.settings, &settings) {
            return self;
        }
        Arc::new(Self {
            settings,
            handler: self.handler.clone(),
            shutdown: self.shutdown.clone(),
            stats: Arc::clone(&self.stats),
            tracker: self.tracker.clone(),
        })
    }

    /// Serves one connection to its end.
    pub(super) async fn run(self: Arc<Self>, stream: TcpStream, peer: IpAddr, open: Open) {
        let activity = Arc::new(Activity::new(&self.settings));
        let arrived = match &self.settings.proxy_protocol {
            ProxyProtocol::Off => Some(Arrived {
                stream,
                ahead: Bytes::new(),
                peer: peer.into(),
            }),
            // On the heap: most listeners have no such connections.
            ProxyProtocol::Required(_) => Box::pin(self.receive(stream, peer, &activity)).await,
        };
        let Some(arrived) = arrived else { return };
        let (returned, ending) = match self.settings.protocol {
            Protocol::H2c => self.run_http2(arrived, &activity).await,
            Protocol::Http1 => self.run_http1(arrived, &activity).await,
        };
        if let Ending::Overdue(cut) = ending {
            self.stats.count_cut(cut);
        }
        if let Some(stream) = returned.take() {
            close(stream, ending, &activity).await;
        }
        drop(open);
    }

    /// Waits for the PROXY header, as long as a connection may be silent. Where it does not come there
    /// is nothing to serve.
    async fn receive(
        &self,
        mut stream: TcpStream,
        proxy: IpAddr,
        activity: &Activity,
    ) -> Option<Arrived> {
        let header = {
            let reading = pin!(read_header(&mut stream));
            self.before_due(reading, activity).await
        };
        match header {
            Ok(Ok(Some((origin, ahead)))) => {
                let peer = match origin {
                    Origin::Client(client) => client,
                    Origin::Proxy => proxy.into(),
                };
                Some(Arrived {
                    stream,
                    ahead,
                    peer,
                })
            }
            // A balancer that looks whether the port is open.
            Ok(Ok(None)) => None,
            Ok(Err(Malformed)) => {
                self.stats.count_unannounced(proxy.into());
                None
            }
            Err(cut) => {
                // In a drain nothing is lost with it: nobody was asked for anything.
                if cut == Cut::Header {
                    self.stats.count_cut(cut);
                }
                None
            }
        }
    }

    async fn before_due<F: Future>(
        &self,
        mut future: Pin<&mut F>,
        activity: &Activity,
    ) -> Result<F::Output, Cut> {
        let token = self.shutdown.child_token();
        let mut shutdown = pin!(token.cancelled());
        let mut watch = Watch::new(activity, self.settings.header_timeout);
        let mut draining = false;
        poll_fn(|cx| {
            // First, as in `drive`: what has arrived counts.
            if let Poll::Ready(output) = future.as_mut().poll(cx) {
                return Poll::Ready(Ok(output));
            }
            if !draining && shutdown.as_mut().poll(cx).is_ready() {
                draining = true;
                activity.draining();
            }
            watch.poll_overdue(cx).map(Err)
        })
        .await
    }

    async fn run_http1(
        &self,
        arrived: Arrived,
        activity: &Arc<Activity>,
    ) -> (Returned<TcpStream>, Ending) {
        let Arrived {
            stream,
            ahead,
            peer,
        } = arrived;
        let handler = self.handler.clone();
        let refuse: Refuse = Box::new(move |status| refusal::render(&handler.refuse(status)));
        let (watched, returned) = Watched::new(stream, ahead, Arc::clone(activity), Some(refuse));
        let service = service_fn(|request: Request<Incoming>| {
            let under_way = UnderWay::begin(activity);
            exchange::answer(self.shared(peer), request, under_way, None)
        });
        let connection = conn::http1::Builder::new()
            // A client that closes its sending side still gets its answer.
            .half_close(true)
            .max_headers(self.settings.max_headers)
            .max_header_size(self.settings.max_header_bytes)
            .max_buf_size(READ_BUFFER.max(self.settings.max_header_bytes))
            // It is hyper's keep-alive timeout too; ours tells the two apart.
            .header_read_timeout(None)
            .serve_connection(TokioIo::new(watched), service);
        let ending = self.drive(pin!(connection), activity).await;
        (returned, ending)
    }

    async fn run_http2(
        &self,
        arrived: Arrived,
        activity: &Arc<Activity>,
    ) -> (Returned<TcpStream>, Ending) {
        let Arrived {
            stream,
            ahead,
            peer,
        } = arrived;
        let (watched, returned) = Watched::new(stream, ahead, Arc::clone(activity), None);
        let streams = Streams {
            tracker: self.tracker.clone(),
            write_timeout: self.settings.write_timeout,
            next: Arc::default(),
        };
        let service = service_fn(|request: Request<Incoming>| {
            let under_way = UnderWay::begin(activity);
            let progress = streams.announce();
            exchange::answer(self.shared(peer), request, under_way, Some(progress))
        });
        let limits = &self.settings.http2;
        let connection = conn::http2::Builder::new(streams.clone())
            .timer(TokioTimer::new())
            .max_concurrent_streams(limits.max_concurrent_streams)
            .initial_stream_window_size(limits.stream_window)
            .initial_connection_window_size(limits.connection_window)
            .max_header_list_size(limits.max_header_list)
            .max_pending_accept_reset_streams(PENDING_RESETS)
            .max_local_error_reset_streams(OWN_RESETS)
            .max_send_buf_size(READ_BUFFER)
            .keep_alive_interval(limits.keep_alive_interval)
            .keep_alive_timeout(limits.keep_alive_timeout)
            .serve_connection(TokioIo::new(watched), service);
        let ending = self.drive(pin!(connection), activity).await;
        (returned, ending)
    }

    fn shared(&self, peer: Client) -> Shared<H> {
        Shared {
            handler: self.handler.clone(),
            tracker: self.tracker.clone(),
            peer,
        }
    }

    async fn drive<C: Graceful>(&self, mut connection: Pin<&mut C>, activity: &Activity) -> Ending {
        // A token of its own: waiting on the shared one would be one lock for all connections.
        let token = self.shutdown.child_token();
        let mut shutdown = pin!(token.cancelled());
        let mut waiting: Option<Waker> = None;
        let mut watch = Watch::new(activity, self.settings.header_timeout);
        let mut draining = false;
        poll_fn(|cx| {
            loop {
                // First, so that a request which has arrived is taken before a drain or a deadline.
                if connection.as_mut().poll(cx).is_ready() {
                    return Poll::Ready(Ending::Finished);
                }
                if !draining && is_cancelled(shutdown.as_mut(), &token, &mut waiting, cx) {
                    draining = true;
                    activity.draining();
                    connection.as_mut().graceful_shutdown();
                    continue;
                }
                match watch.poll_overdue(cx) {
                    Poll::Ready(Cut::Idle) if !watch.asked && !draining => {
                        watch.asked = true;
                        activity.asked_to_end();
                        self.stats.count_cut(Cut::Idle);
                        connection.as_mut().graceful_shutdown();
                    }
                    // It was asked, and has had its moment; counted then, or a drain's.
                    Poll::Ready(Cut::Idle) => return Poll::Ready(Ending::Finished),
                    Poll::Ready(cut) => return Poll::Ready(Ending::Overdue(cut)),
                    Poll::Pending => return Poll::Pending,
                }
            }
        })
        .await
    }
}

/// A connection that is ready for HTTP.
struct Arrived {
    stream: TcpStream,
    /// What of HTTP was read already.
    ahead: Bytes,
    peer: Client,
}

/// Reads the PROXY header, and what comes with it; nothing where the proxy left without a word.
async fn read_header(stream: &mut TcpStream) -> Result<Option<(Origin, Bytes)>, Malformed> {
    // Room for a usual header of either version; it grows to `MAX`, 4 KiB, before it is too much.
    let mut bytes = BytesMut::with_capacity(256);
    loop {
        let room = proxy_protocol::MAX.saturating_sub(bytes.len());
        match stream.read_buf(&mut (&mut bytes).limit(room)).await {
            Ok(0) | Err(_) if bytes.is_empty() => return Ok(None),
            Ok(0) | Err(_) => return Err(Malformed),
            Ok(_) => {}
        }
        if let Some(header) = proxy_protocol::parse(&bytes)? {
            let ahead = bytes.split_off(header.length).freeze();
            return Ok(Some((header.origin, ahead)));
        }
    }
}

/// Polls only where the waker is new: a request wakes its connection several times, and each poll
/// takes the locks of the token and of its list of waiters.
fn is_cancelled(
    cancelled: Pin<&mut WaitForCancellationFuture<'_>>,
    token: &CancellationToken,
    waiting: &mut Option<Waker>,
    cx: &mut Context<'_>,
) -> bool {
    if waiting.as_ref().is_some_and(|w| w.will_wake(cx.waker())) {
        return token.is_cancelled();
    }
    let ready = cancelled.poll(cx).is_ready();
    *waiting = Some(cx.waker().clone());
    ready
}

/// How a connection came to its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ending {
    /// By itself, or after it was asked to.
    Finished,
    /// It was due and had to go.
    Overdue(Cut),
}

/// Closes a connection that hyper is done with.
async fn close(mut stream: TcpStream, ending: Ending, activity: &Activity) {
    if ending == Ending::Overdue(Cut::Write) {
        // What it did not take would otherwise stay with the kernel, for minutes.
        stream.set_zero_linger().ok();
        return;
    }
    if ending != Ending::Finished || !activity.needs_linger() {
        return;
    }
    stream.shutdown().await.ok();
    let _ = timeout(LINGER, async {
        // On the heap: the future of every connection would be as large as this array.
        let mut sink = vec![0; 4096];
        let mut left = LINGER_BYTES;
        while left > 0 {
            match stream.read(&mut sink).await {
                Ok(0) | Err(_) => return,
                Ok(count) => left = left.saturating_sub(count),
            }
        }
    })
    .await;
}

/// The one timer of a connection.
struct Watch<'a> {
    activity: &'a Activity,
    timer: Pin<Box<Sleep>>,
    armed: Instant,
    /// When to look again where nothing is due.
    again: Duration,
    asked: bool,
}

impl<'a> Watch<'a> {
    fn new(activity: &'a Activity, again: Duration) -> Self {
        let armed = clock::instant() + again;
        Self {
            activity,
            timer: Box::pin(sleep_until(armed)),
            armed,
            again,
            asked: false,
        }
    }

    fn poll_overdue(&mut self, cx: &mut Context<'_>) -> Poll<Cut> {
        self.activity.watcher.register(cx.waker());
        if let Some(due) = self.activity.deadline()
            && due.at < self.armed
        {
            self.arm(due.at);
        }
        while self.timer.as_mut().poll(cx).is_ready() {
            let now = clock::instant();
            match self.activity.deadline() {
                Some(due) if due.at <= now => {
                    self.arm(now + self.again);
                    return Poll::Ready(due.cut);
                }
                Some(due) => self.arm(due.at),
                None => self.arm(now + self.again),
            }
        }
        Poll::Pending
    }

    fn arm(&mut self, at: Instant) {
        self.armed = at;
        self.timer.as_mut().reset(at);
    }
}

/// What hyper's two kinds of connection have in common, without a trait of its own.
trait Graceful: Future<Output = hyper::Result<()>> {
    fn graceful_shutdown(self: Pin<&mut Self>);
}

type Stream = TokioIo<Watched<TcpStream>>;

impl<S> Graceful for conn::http1::Connection<Stream, S>
where
    S: hyper::service::HttpService<Incoming, ResBody = Answer>,
    S::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    fn graceful_shutdown(self: Pin<&mut Self>) {
        Self::graceful_shutdown(self);
    }
}

impl<S> Graceful for conn::http2::Connection<Stream, S, Streams>
where
    S: hyper::service::HttpService<Incoming, ResBody = Answer>,
    S::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    Streams: hyper::rt::bounds::Http2ServerConnExec<S::Future, Answer>,
{
    fn graceful_shutdown(self: Pin<&mut Self>) {
        Self::graceful_shutdown(self);
    }
}

/// Runs the requests of one HTTP/2 connection, and resets those whose client doesn't take the answer:
/// the watched stream sees only whether the connection's bytes are taken.
#[derive(Clone)]
struct Streams {
    tracker: TaskTracker,
    write_timeout: Duration,
    /// The progress of the request that hyper is about to run. hyper calls the service and runs what
    /// it returned in one go, in the connection's task, so the lock is never contended.
    next: Arc<Mutex<Option<Arc<Progress>>>>,
}

impl Streams {
    fn announce(&self) -> Arc<Progress> {
        let progress = Arc::new(Progress::new());
        *self.next.lock().unwrap_or_else(PoisonError::into_inner) = Some(Arc::clone(&progress));
        progress
    }
}

impl<F> hyper::rt::Executor<F> for Streams
where
    F: Future<Output = ()> + Send + 'static,
{
    fn execute(&self, stream: F) {
        let next = self
            .next
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        let Some(progress) = next else {
            self.tracker.spawn(stream);
            return;
        };
        let limit = self.write_timeout;
        self.tracker.spawn(async move {
            tokio::select! {
                biased;
                () = stream => {}
                () = progress.stalled(limit) => {}
            }
        });
    }
}
