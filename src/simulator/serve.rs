//! The simulator's sockets: accepts connections, reads requests, sends answers.
//!
//! Invariant: bounded. At most 1,024 connections (more wait in the backlog), 64 MiB a body, two
//! minutes for a head or a body. It listens where it is told; its control API has no password, so
//! that ought to be loopback.

use std::{convert::Infallible, future, io, pin::Pin, sync::Arc, time::Duration};

use bytes::{Bytes, BytesMut};
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{Semaphore, mpsc},
    time::{sleep, timeout},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{
    control,
    deliver::{Delivery, Raw, nothing, plan},
    reply::Reply,
    state::{Arrival, State},
};
use crate::clock;

const MAX_CONNECTIONS: usize = 1_024;
const MAX_BODY: usize = 64 * 1024 * 1024;
const READ_TIMEOUT: Duration = Duration::from_mins(2);
/// What requests in flight get when the simulator stops.
const GRACE: Duration = Duration::from_secs(1);

/// Accepts connections until the shutdown.
pub(super) async fn accept(
    listener: TcpListener,
    state: Arc<State>,
    shutdown: CancellationToken,
    tracker: TaskTracker,
) {
    let slots = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    loop {
        let slot = tokio::select! {
            () = shutdown.cancelled() => return,
            // The semaphore is never closed.
            slot = Arc::clone(&slots).acquire_owned() => slot,
        };
        let stream = tokio::select! {
            () = shutdown.cancelled() => return,
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => stream,
                Err(error) => {
                    tracing::warn!(error.kind = ?error.kind(), "the simulator cannot accept");
                    // Out of file descriptors, most likely: without a pause this loop would spin.
                    sleep(Duration::from_millis(50)).await;
                    continue;
                }
            },
        };
        let (state, shutdown) = (Arc::clone(&state), shutdown.clone());
        let tasks = tracker.clone();
        tracker.spawn(async move {
            // A client that left is no news here; what it sent is recorded.
            drop(connection(stream, state, tasks, shutdown).await);
            drop(slot);
        });
    }
}

/// Serves one connection until it ends, a faulty answer takes it over, or the shutdown.
async fn connection(
    stream: TcpStream,
    state: Arc<State>,
    tracker: TaskTracker,
    shutdown: CancellationToken,
) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let (takeover, mut taken) = mpsc::channel::<Raw>(1);
    let stop = shutdown.clone();
    let service = service_fn(move |request| {
        let exchange = Exchange {
            state: Arc::clone(&state),
            takeover: takeover.clone(),
            tracker: tracker.clone(),
            shutdown: stop.clone(),
        };
        async move { Ok::<_, Infallible>(exchange.answer(request).await) }
    });
    let mut http = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(READ_TIMEOUT)
        .serve_connection(TokioIo::new(stream), service);
    tokio::select! {
        biased;
        Some(raw) = taken.recv() => {
            let stream = http.into_parts().io.into_inner();
            tokio::select! {
                sent = raw.send(stream) => return sent,
                () = shutdown.cancelled() => return Ok(()),
            }
        }
        served = &mut http => return served.map_err(io::Error::other),
        () = shutdown.cancelled() => {}
    }
    Pin::new(&mut http).graceful_shutdown();
    match timeout(GRACE, http).await {
        Ok(served) => served.map_err(io::Error::other),
        Err(_) => Ok(()),
    }
}

/// What answering one request needs.
struct Exchange {
    state: Arc<State>,
    /// Where a faulty answer goes.
    takeover: mpsc::Sender<Raw>,
    tracker: TaskTracker,
    shutdown: CancellationToken,
}

impl Exchange {
    async fn answer(&self, request: Request<Incoming>) -> Response<Full<Bytes>> {
        let (head, mut body) = request.into_parts();
        if control::owns(head.uri.path()) {
            let body = read(&mut body, control::MAX_BODY, |_| {}).await;
            return control::call(&self.state, &head, body.ok());
        }
        let mut arrival = Arrival::new(&self.state, &head, clock::now());
        if let Some(released) = self.state.stall() {
            arrival.give_up(None, Some("stall"));
            return self.hang(released).await;
        }
        let body = match read(&mut body, MAX_BODY, |bytes| arrival.count(bytes)).await {
            Ok(body) => body,
            Err(status) => {
                arrival.give_up(Some(status), None);
                return whole(Reply::error(status, "The body did not arrive (simulated)"));
            }
        };
        let met = self.state.meet(&head, &body);
        let late = (met.struck.late, met.released.clone());
        let state = Arc::clone(&self.state);
        let turn = move || state.take_turn(arrival, met, &body);
        let turn = if late.0.is_zero() {
            turn()
        } else {
            let shutdown = self.shutdown.clone();
            // On a task of its own, which goes on where the client does not wait for its answer.
            let work = self.tracker.spawn(async move {
                tokio::select! {
                    () = sleep(late.0) => {}
                    () = late.1.cancelled() => {}
                    () = shutdown.cancelled() => {}
                }
                turn()
            });
            match work.await {
                Ok(turn) => turn,
                // The runtime ends.
                Err(_) => return Response::default(),
            }
        };
        tokio::select! {
            () = sleep(turn.struck.delay) => {}
            () = turn.released.cancelled(), if !turn.struck.delay.is_zero() => {}
            () = self.shutdown.cancelled() => {}
        }
        match plan(turn.reply, turn.struck.delivery.as_ref()) {
            Delivery::Whole(response) => response,
            Delivery::Raw(raw) => self.take_over(raw).await,
            Delivery::Hang => self.hang(turn.released).await,
        }
    }

    /// Leaves the connection silent until the faults are cleared.
    async fn hang(&self, released: CancellationToken) -> Response<Full<Bytes>> {
        tokio::select! {
            () = released.cancelled() => {}
            () = self.shutdown.cancelled() => {}
        }
        self.take_over(nothing(false)).await
    }

    /// Hands the connection to a faulty answer; hyper never gets one.
    async fn take_over(&self, raw: Raw) -> Response<Full<Bytes>> {
        // The connection's own task receives; if it ended, so does this future.
        drop(self.takeover.send(raw).await);
        future::pending().await
    }
}

fn whole(reply: Reply) -> Response<Full<Bytes>> {
    match plan(reply, None) {
        Delivery::Whole(response) => response,
        Delivery::Hang | Delivery::Raw(_) => Response::default(),
    }
}

/// Reads a body in full, or says with which status it is given up.
async fn read(
    body: &mut Incoming,
    limit: usize,
    mut count: impl FnMut(usize),
) -> Result<Bytes, StatusCode> {
    let mut gathered = BytesMut::new();
    let reading = async {
        while let Some(frame) = body.frame().await {
            let frame = frame.map_err(|_| StatusCode::BAD_REQUEST)?;
            let Ok(data) = frame.into_data() else {
                continue;
            };
            count(data.len());
            if gathered.len() + data.len() > limit {
                return Err(StatusCode::PAYLOAD_TOO_LARGE);
            }
            gathered.extend_from_slice(&data);
        }
        Ok(())
    };
    timeout(READ_TIMEOUT, reading)
        .await
        .unwrap_or(Err(StatusCode::REQUEST_TIMEOUT))?;
    Ok(gathered.freeze())
}
