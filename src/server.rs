//! The listener: accepts connections, has hyper speak HTTP on them, and ends them in time.
//!
//! Invariants: the protocol is the configured one and never sniffed; no connection lives without
//! progress, silent ones included; an answer that was begun is finished before a drain's end; an
//! answer given before the body was read reaches the client. Nothing here knows what a request means.
//!
//! With the PROXY protocol the first bytes of a connection name its client, and only trusted proxies
//! are listened to at all.
//!
//! `activity` says when a connection is overdue (pure but for the clock), `connection` drives one,
//! `exchange` is one request with its answer, `watched` is the stream, `refusal` replaces the bare
//! answers that hyper gives to what it cannot parse, `proxy_protocol` parses that protocol's header.

mod activity;
mod connection;
mod exchange;
mod proxy_protocol;
mod refusal;
mod stats;
mod watched;

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use futures_util::FutureExt;
use http::{Request, Response, StatusCode};
use tokio::{
    net::{TcpListener, TcpSocket, TcpStream},
    time::{sleep, timeout},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use self::connection::Connections;
pub use self::{
    exchange::RequestBody,
    stats::{ConnectionStats, Cut},
};
use crate::{
    address::{Client, Networks},
    segments::Segments,
};

/// How the listener behaves.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServerSettings {
    /// Where it listens.
    pub listen: SocketAddr,
    /// What is spoken on it.
    pub protocol: Protocol,
    /// What stands before it.
    pub proxy_protocol: ProxyProtocol,
    /// Connections beyond this many are closed as soon as they are accepted.
    pub max_connections: usize,
    /// How long a new connection may be silent, and how long a head may take from its first byte.
    pub header_timeout: Duration,
    /// How long a connection may have no request under way.
    pub idle_timeout: Duration,
    /// How long a client may not take a byte of an answer that waits for it.
    pub write_timeout: Duration,
    /// How long a drain waits for requests under way before it cuts them.
    pub drain_timeout: Duration,
    /// Most header fields of a request on HTTP/1 (431).
    pub max_headers: usize,
    /// Most bytes of a request's head on HTTP/1, request line included (431).
    pub max_header_bytes: usize,
    /// Limits of HTTP/2.
    pub http2: Http2Settings,
}

/// What is spoken on a plain listener.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    /// HTTP/2 with prior knowledge, and nothing else.
    H2c,
    /// HTTP/1.1 and 1.0.
    Http1,
}

/// Whether connections begin with a header of the PROXY protocol.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ProxyProtocol {
    /// None does; one that did would be answered as the malformed request that it is.
    Off,
    /// All do, and only these may connect: whoever else could name any client.
    Required(Networks),
}

/// Limits of one HTTP/2 connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Http2Settings {
    /// Most requests under way.
    pub max_concurrent_streams: u32,
    /// Bytes a client may send on one stream before we read them.
    pub stream_window: u32,
    /// Bytes a client may send on all streams before we read them.
    pub connection_window: u32,
    /// Most bytes of a request's header list, by HTTP/2's own count (431).
    pub max_header_list: u32,
    /// How long without a frame until a ping is sent.
    pub keep_alive_interval: Duration,
    /// How long its answer may take.
    pub keep_alive_timeout: Duration,
}

/// What answers requests: the gateway, the simulator.
pub trait Handle: Clone + Send + Sync + 'static {
    /// Answers a request that came from `peer`: the other end of the connection, or whom that spoke
    /// for by the PROXY protocol. It may drop the body unread at any time; what that means for the
    /// connection is seen to here.
    fn handle(
        &self,
        request: Request<RequestBody>,
        peer: Client,
    ) -> impl Future<Output = Response<Segments>> + Send;

    /// Answers a head that could not be parsed: 400, 414 or 431. The connection closes after it.
    fn refuse(&self, status: StatusCode) -> Response<Segments> {
        let mut response = Response::new(Segments::default());
        *response.status_mut() = status;
        response
    }
}

/// A function that answers everyone alike.
impl<F, A> Handle for F
where
    F: Fn(Request<RequestBody>) -> A + Clone + Send + Sync + 'static,
    A: Future<Output = Response<Segments>> + Send,
{
    fn handle(
        &self,
        request: Request<RequestBody>,
        _peer: Client,
    ) -> impl Future<Output = Response<Segments>> + Send {
        self(request)
    }
}

/// How a drain ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use]
pub struct Drained {
    /// Connections that were cut with a request under way.
    pub cut: u64,
}

impl Drained {
    /// Whether every request under way was answered.
    pub const fn is_complete(self) -> bool {
        self.cut == 0
    }
}

/// How much of an answer the kernel holds for one connection.
///
/// It says that there is room again when about a third of it has been taken, so this also decides how
/// slow a client may be: with Linux's own 4 MiB, a client that takes 40 KiB a second would seem to
/// stand still for half a minute. With this it may take 6 KiB a second.
const SEND_BUFFER: u32 = 256 * 1024;

/// Handshakes that the kernel completes before they are accepted.
const BACKLOG: u32 = 1024;

/// Opens the listening socket that [`serve`] is made for.
pub fn bind(addr: SocketAddr) -> io::Result<TcpListener> {
    let socket = match addr {
        SocketAddr::V4(_) => TcpSocket::new_v4(),
        SocketAddr::V6(_) => TcpSocket::new_v6(),
    }?;
    // A restart need not wait for the connections of the process before.
    socket.set_reuseaddr(true)?;
    // What is accepted from it inherits this.
    socket.set_send_buffer_size(SEND_BUFFER)?;
    socket.bind(addr)?;
    socket.listen(BACKLOG)
}

/// Serves until `shutdown`, then drains: the listener closes, idle connections close, requests under
/// way are answered or, after `drain_timeout`, cut. Each connection keeps the settings that hold when
/// it is accepted.
pub async fn serve<H: Handle>(
    listener: TcpListener,
    settings: impl Fn() -> Arc<ServerSettings> + Send,
    handler: H,
    shutdown: CancellationToken,
    stats: Arc<ConnectionStats>,
) -> Drained {
    let mut connections = Arc::new(Connections {
        settings: settings(),
        handler,
        shutdown: shutdown.clone(),
        stats: Arc::clone(&stats),
        tracker: TaskTracker::new(),
    });
    let mut longest = connections.settings.drain_timeout;
    let mut backoff = Backoff::default();
    loop {
        let accepted = tokio::select! {
            biased;
            () = shutdown.cancelled() => break,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, peer)) => {
                backoff = Backoff::default();
                connections = connections.under(settings());
                longest = longest.max(connections.settings.drain_timeout);
                admit(stream, peer, &connections);
            }
            Err(error) => {
                stats.accept_failed();
                tokio::select! {
                    () = shutdown.cancelled() => break,
                    () = backoff.pause(&error) => {}
                }
            }
        }
    }
    // The kernel has completed these handshakes, so their clients count on an answer.
    tokio::task::yield_now().await;
    while let Some(Ok((stream, peer))) = listener.accept().now_or_never() {
        admit(stream, peer, &connections);
    }
    drop(listener);
    drain(&connections.tracker, longest, &stats).await
}

fn admit<H: Handle>(stream: TcpStream, peer: SocketAddr, connections: &Arc<Connections<H>>) {
    if let ProxyProtocol::Required(proxies) = &connections.settings.proxy_protocol
        && !proxies.contains(peer.ip())
    {
        connections.stats.count_distrusted(peer.ip().into());
        return;
    }
    let Some(open) = connections.stats.open(connections.settings.max_connections) else {
        return;
    };
    // Answers are written whole; waiting to fill a segment only delays them.
    stream.set_nodelay(true).ok();
    let connection = Arc::clone(connections).run(stream, peer.ip(), open);
    connections.tracker.spawn(connection);
}

/// Every connection knows `drain_timeout` itself; the extra time is for the last of them to linger.
async fn drain(tracker: &TaskTracker, drain_timeout: Duration, stats: &ConnectionStats) -> Drained {
    let before = stats.cut(Cut::Drain);
    tracker.close();
    let longest = drain_timeout + connection::LINGER + Duration::from_secs(1);
    if timeout(longest, tracker.wait()).await.is_err() {
        tracing::warn!(
            connections = stats.now_open(),
            "connections outlived the drain"
        );
    }
    Drained {
        cut: stats.cut(Cut::Drain).saturating_sub(before),
    }
}

/// Pauses after a failed accept: most such errors (no file descriptors, no memory) last, and a loop
/// without a pause would take a core from those who could end them.
#[derive(Default)]
struct Backoff {
    failures: u32,
}

impl Backoff {
    async fn pause(&mut self, error: &io::Error) {
        if self.failures == 0 {
            tracing::warn!(error.kind = %error.kind(), "accepting connections fails");
        }
        self.failures = self.failures.saturating_add(1);
        sleep(Self::delay(self.failures)).await;
    }

    /// 10 ms, doubling up to 1 s.
    fn delay(failures: u32) -> Duration {
        let doubled = Duration::from_millis(5).saturating_mul(1 << failures.min(10));
        doubled.min(Duration::from_secs(1))
    }
}

#[cfg(test)]
mod tests;
