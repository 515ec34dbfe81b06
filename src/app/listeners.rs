//! The two listeners, which may move while the gateway runs.
//!
//! Invariant: a new address is open before the old one closes, and what was accepted on the old one
//! is answered.

use std::{io, net::SocketAddr, sync::Arc};

use tokio::net::TcpListener;
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::field::display;

use super::live::{Lasting, Live, Operators, Public, Snapshot};
use crate::{
    config::mistake::Mistake,
    server::{self, ConnectionStats},
};

/// Both listeners, as they are open.
pub(super) struct Listeners {
    live: Arc<Live>,
    lasting: Arc<Lasting>,
    /// Counts the admin listener's connections, wherever it listens.
    operators: Arc<ConnectionStats>,
    public_tasks: TaskTracker,
    admin_tasks: TaskTracker,
    public: Listening,
    admin: Listening,
}

/// One open listener: where the configuration wants it, and how to close it.
struct Listening {
    configured: SocketAddr,
    stop: CancellationToken,
}

/// What is to be opened; none where it stays as it is.
pub(super) struct Moves {
    public: Option<(SocketAddr, TcpListener)>,
    admin: Option<(SocketAddr, TcpListener)>,
}

impl Listeners {
    /// Serves on these two.
    pub(super) fn open(
        live: Arc<Live>,
        lasting: Arc<Lasting>,
        public: TcpListener,
        admin: TcpListener,
    ) -> Self {
        let snapshot = live.current();
        let unopened = |configured| Listening {
            configured,
            stop: CancellationToken::new(),
        };
        let mut listeners = Self {
            public: unopened(snapshot.server.listen),
            admin: unopened(snapshot.operators.listen),
            live,
            lasting,
            operators: Arc::default(),
            public_tasks: TaskTracker::new(),
            admin_tasks: TaskTracker::new(),
        };
        listeners.public.stop = listeners.serve_public(public);
        listeners.admin.stop = listeners.serve_operators(admin);
        listeners
    }

    /// The tasks that end with the public listener, and with the operators'.
    pub(super) fn tasks(&self) -> (TaskTracker, TaskTracker) {
        (self.public_tasks.clone(), self.admin_tasks.clone())
    }

    /// Opens what this configuration has elsewhere. Until [`switch`](Self::switch) nobody is accepted
    /// there.
    pub(super) fn bind(&self, next: &Snapshot) -> Result<Moves, Vec<Mistake>> {
        let public = moved("server.listen", &self.public, next.server.listen);
        let admin = moved("admin.listen", &self.admin, next.operators.listen);
        match (public, admin) {
            (Ok(public), Ok(admin)) => Ok(Moves { public, admin }),
            (public, admin) => Err([public.err(), admin.err()].into_iter().flatten().collect()),
        }
    }

    /// Serves on the new addresses, and no longer on the old ones: idle connections end, requests
    /// under way are answered first.
    pub(super) fn switch(&mut self, moves: Moves) {
        if let Some((configured, listener)) = moves.public {
            let address = listener.local_addr().ok().map(display);
            tracing::info!(server.listen = address, "listening elsewhere");
            let stop = self.serve_public(listener);
            self.public.replace(configured, stop);
        }
        if let Some((configured, listener)) = moves.admin {
            let address = listener.local_addr().ok().map(display);
            tracing::info!(admin.listen = address, "listening elsewhere");
            let stop = self.serve_operators(listener);
            self.admin.replace(configured, stop);
        }
    }

    fn serve_public(&self, listener: TcpListener) -> CancellationToken {
        let stop = self.lasting.draining.child_token();
        let (live, stats) = (
            Arc::clone(&self.live),
            Arc::clone(&self.lasting.connections),
        );
        let settings = move || Arc::clone(&live.current().server);
        let handler = Public(Arc::clone(&self.live));
        let serving = server::serve(listener, settings, handler, stop.clone(), stats);
        self.public_tasks.spawn(serving);
        stop
    }

    fn serve_operators(&self, listener: TcpListener) -> CancellationToken {
        let stop = self.lasting.ending.child_token();
        let (live, stats) = (Arc::clone(&self.live), Arc::clone(&self.operators));
        let settings = move || Arc::clone(&live.current().operators);
        let handler = Operators(Arc::clone(&self.live));
        let serving = server::serve(listener, settings, handler, stop.clone(), stats);
        self.admin_tasks.spawn(serving);
        stop
    }
}

impl Listening {
    fn replace(&mut self, configured: SocketAddr, stop: CancellationToken) {
        self.configured = configured;
        std::mem::replace(&mut self.stop, stop).cancel();
    }
}

fn moved(
    key: &str,
    now: &Listening,
    wanted: SocketAddr,
) -> Result<Option<(SocketAddr, TcpListener)>, Mistake> {
    if wanted == now.configured {
        return Ok(None);
    }
    let refused = |error: io::Error| {
        let problem = format!("cannot be listened on ({})", error.kind());
        Mistake::new(
            "configuration",
            key,
            problem,
            "free it and reload again, or set another address",
        )
    };
    server::bind(wanted)
        .map(|listener| Some((wanted, listener)))
        .map_err(refused)
}
