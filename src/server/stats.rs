//! Counts of connections, for metrics and for the cap.
//!
//! Invariant: a connection is counted as open from before it is served until after it is closed.

use std::sync::{
    Arc,
    atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed},
};

use crate::address::Client;

/// Why a connection was ended before it ended itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cut {
    /// A request was under way when the drain's time was up.
    Drain,
    /// No complete head in time.
    Header,
    /// No request in time.
    Idle,
    /// The client took no byte of its answer in time.
    Write,
}

/// Counts of one listener's connections.
#[derive(Debug, Default)]
pub struct ConnectionStats {
    open: AtomicUsize,
    accepted: AtomicU64,
    refused: AtomicU64,
    distrusted: AtomicU64,
    unannounced: AtomicU64,
    accept_failures: AtomicU64,
    cut_drain: AtomicU64,
    cut_header: AtomicU64,
    cut_idle: AtomicU64,
    cut_write: AtomicU64,
}

impl ConnectionStats {
    /// Connections open now.
    pub fn now_open(&self) -> usize {
        self.open.load(Relaxed)
    }

    /// Connections served so far.
    pub fn accepted(&self) -> u64 {
        self.accepted.load(Relaxed)
    }

    /// Connections closed at once because there were too many.
    pub fn refused(&self) -> u64 {
        self.refused.load(Relaxed)
    }

    /// Connections closed at once because they came from no trusted proxy.
    pub fn distrusted(&self) -> u64 {
        self.distrusted.load(Relaxed)
    }

    /// Connections of trusted proxies that were closed because they did not begin with a PROXY header.
    pub fn unannounced(&self) -> u64 {
        self.unannounced.load(Relaxed)
    }

    /// Times that accepting a connection failed.
    pub fn accept_failures(&self) -> u64 {
        self.accept_failures.load(Relaxed)
    }

    /// Connections ended for this reason.
    pub fn cut(&self, why: Cut) -> u64 {
        self.counter(why).load(Relaxed)
    }

    pub(super) fn count_cut(&self, why: Cut) {
        self.counter(why).fetch_add(1, Relaxed);
    }

    /// Counts a connection from no trusted proxy. The first is worth a line: it is either somebody who
    /// found the port, or a proxy that the configuration forgot.
    pub(super) fn count_distrusted(&self, peer: Client) {
        if self.distrusted.fetch_add(1, Relaxed) == 0 {
            tracing::warn!(
                peer.network = %peer,
                "closing connections that come from no trusted proxy; see server.trusted_proxies"
            );
        }
    }

    /// Counts a connection without a PROXY header, and reports the first.
    pub(super) fn count_unannounced(&self, peer: Client) {
        if self.unannounced.fetch_add(1, Relaxed) == 0 {
            tracing::warn!(
                peer.network = %peer,
                "closing connections that begin without a PROXY header; see server.proxy_protocol"
            );
        }
    }

    pub(super) fn accept_failed(&self) {
        self.accept_failures.fetch_add(1, Relaxed);
    }

    /// Counts a connection in, unless `max` are open.
    pub(super) fn open(self: &Arc<Self>, max: usize) -> Option<Open> {
        let room = |open: usize| (open < max).then_some(open + 1);
        if self.open.fetch_update(Relaxed, Relaxed, room).is_err() {
            self.refused.fetch_add(1, Relaxed);
            return None;
        }
        self.accepted.fetch_add(1, Relaxed);
        Some(Open(Arc::clone(self)))
    }

    fn counter(&self, why: Cut) -> &AtomicU64 {
        match why {
            Cut::Drain => &self.cut_drain,
            Cut::Header => &self.cut_header,
            Cut::Idle => &self.cut_idle,
            Cut::Write => &self.cut_write,
        }
    }
}

/// One open connection; counts it out on drop.
pub(super) struct Open(Arc<ConnectionStats>);

impl Drop for Open {
    fn drop(&mut self) {
        self.0.open.fetch_sub(1, Relaxed);
    }
}
