//! What the simulator holds, shared by its connections, the control API and the tests.
//!
//! Invariant: a request is recorded before a byte of its answer is sent, so whoever has an answer
//! finds its record. The lock is held for a decision, never across an await or while an image is
//! read or written.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use http::{Method, StatusCode, request::Parts};
use jiff::Timestamp;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::{
    Login, STORAGE_PATH, SimulatorSettings,
    behaviour::Behaviour,
    customers::Customers,
    fault::{Fault, FaultError, FaultKind},
    inspect::inspect,
    record::{ImageRecord, Images, Record, RecordedBody, Records},
    reply::Reply,
    storage::{self, Ask},
    strike::{Faults, Struck},
};

/// Everything that lasts longer than a request.
pub(super) struct State {
    // One lock for all: a decision reads logins, faults and customers together, in microseconds.
    inner: Mutex<Inner>,
    /// The number of the newest record.
    arrived: watch::Sender<u64>,
    record_bodies: bool,
}

struct Inner {
    logins: Arc<[Login]>,
    behaviour: Arc<Behaviour>,
    customers: Customers,
    records: Records,
    faults: Faults,
}

/// How to answer one request.
pub(super) struct Turn {
    pub(super) reply: Reply,
    pub(super) struck: Struck,
    /// Cancelled when the faults are cleared.
    pub(super) released: CancellationToken,
}

impl State {
    pub(super) fn new(settings: SimulatorSettings) -> Self {
        Self {
            inner: Mutex::new(Inner {
                logins: settings.accepted.into(),
                behaviour: Arc::new(settings.behaviour),
                customers: Customers::default(),
                records: Records::default(),
                faults: Faults::default(),
            }),
            arrived: watch::Sender::new(0),
            record_bodies: settings.record_bodies,
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Where this request stalls before its body: what ends the stall.
    pub(super) fn stall(&self) -> Option<CancellationToken> {
        let mut inner = self.lock();
        let stalls = inner.faults.stalls();
        stalls.then(|| inner.faults.released())
    }

    /// Judges and records a request whose body arrived, and decides its answer.
    pub(super) fn take_turn(&self, mut arrival: Arrival, head: &Parts, body: &Bytes) -> Turn {
        let Some(mut record) = arrival.record.take() else {
            return self.turn(Reply::empty(StatusCode::OK), None);
        };
        let storage = head.uri.path() == STORAGE_PATH && head.method == Method::POST;
        let inspection = inspect(body);
        record.body_complete = true;
        record.members = inspection.seen.members;
        record.members_total = inspection.seen.total;
        record.user_members = inspection.seen.user;
        record.pass_members = inspection.seen.pass;
        record.malformed = inspection.malformed;
        record.body = self.record_bodies.then(|| RecordedBody::new(body));
        let ask = inspection.document.as_ref().map(Ask::read);
        if let Some(ask) = &ask {
            let image = |text: &Option<Arc<str>>| text.as_deref().map(ImageRecord::of);
            record.images = Images {
                front: image(&ask.front),
                back: image(&ask.back),
            };
            let service = ask.service.as_deref();
            record.service = service.map(|name| name.chars().take(64).collect());
        }
        let turn = match &ask {
            _ if !storage => self.turn(elsewhere(head), None),
            None => self.undocumented_body(),
            Some(ask) => self.storage_turn(ask, &mut record),
        };
        record.faults.clone_from(&turn.struck.names);
        record.status =
            sends_status(turn.struck.delivery.as_ref()).then(|| turn.reply.status.as_u16());
        self.push(record);
        turn
    }

    /// A request to the storage API with a JSON object for a body.
    fn storage_turn(&self, ask: &Ask, record: &mut Record) -> Turn {
        let mut guard = self.lock();
        let inner = &mut *guard;
        let struck = inner.faults.strike(ask.service.as_deref());
        let released = inner.faults.released();
        let behaviour = Arc::clone(&inner.behaviour);
        (record.credentials, record.user_index) = ask.login(&inner.logins);
        let outcome = struck
            .work
            .then(|| storage::decide(ask, record.credentials, &behaviour, &mut inner.customers));
        drop(guard);
        record.stored = outcome.as_ref().is_some_and(|outcome| outcome.stored);
        let reply = match (&struck.answer, outcome) {
            (Some(kind), _) => instead(kind),
            (None, Some(outcome)) => storage::write(outcome.answer, ask, &behaviour),
            (None, None) => no_work(),
        };
        Turn {
            reply,
            struck,
            released,
        }
    }

    /// A request to the storage API whose body is not a JSON object.
    fn undocumented_body(&self) -> Turn {
        let choice = self.lock().behaviour.malformed_json;
        self.turn(Reply::undocumented(choice), None)
    }

    fn turn(&self, reply: Reply, service: Option<&str>) -> Turn {
        let mut inner = self.lock();
        let struck = inner.faults.strike(service);
        let reply = match &struck.answer {
            Some(kind) => instead(kind),
            None => reply,
        };
        Turn {
            reply,
            struck,
            released: inner.faults.released(),
        }
    }

    fn push(&self, record: Record) {
        // The number is sent under the lock: it must never be seen to go back.
        let mut inner = self.lock();
        let sequence = inner.records.push(record);
        self.arrived.send_replace(sequence);
    }

    pub(super) fn records(&self) -> Vec<Record> {
        self.lock().records.list()
    }

    pub(super) fn clear_records(&self) {
        self.lock().records.clear();
    }

    /// Resolves when this many requests have arrived since the start.
    pub(super) async fn arrived(&self, count: u64) {
        let mut arrived = self.arrived.subscribe();
        // The sender is in `self`, so the wait cannot fail.
        drop(arrived.wait_for(|last| *last >= count).await);
    }

    pub(super) fn arm(&self, fault: Fault) -> Result<(), FaultError> {
        self.lock().faults.arm(fault)
    }

    pub(super) fn faults(&self) -> Vec<Fault> {
        self.lock().faults.list().to_vec()
    }

    pub(super) fn clear_faults(&self) {
        self.lock().faults.clear();
    }

    pub(super) fn behaviour(&self) -> Arc<Behaviour> {
        Arc::clone(&self.lock().behaviour)
    }

    pub(super) fn set_behaviour(&self, behaviour: Behaviour) {
        self.lock().behaviour = Arc::new(behaviour);
    }

    pub(super) fn logins(&self) -> usize {
        self.lock().logins.len()
    }

    pub(super) fn set_logins(&self, logins: Vec<Login>) {
        self.lock().logins = logins.into();
    }

    pub(super) fn customers(&self) -> usize {
        self.lock().customers.len()
    }

    pub(super) fn clear_customers(&self) {
        self.lock().customers.clear();
    }
}

/// A request that is still arriving. Dropped before its turn, it is recorded as incomplete.
pub(super) struct Arrival {
    state: Arc<State>,
    record: Option<Record>,
}

impl Arrival {
    pub(super) fn new(state: &Arc<State>, head: &Parts, now: Timestamp) -> Self {
        Self {
            state: Arc::clone(state),
            record: Some(Record::arrived(head, now)),
        }
    }

    /// Counts bytes of the body.
    pub(super) fn count(&mut self, bytes: usize) {
        if let Some(record) = &mut self.record {
            let bytes = u64::try_from(bytes).unwrap_or(u64::MAX);
            record.body_bytes = record.body_bytes.saturating_add(bytes);
        }
    }

    /// Records the request as one whose body did not arrive in full.
    pub(super) fn give_up(mut self, status: Option<StatusCode>, fault: Option<&'static str>) {
        if let Some(record) = &mut self.record {
            record.status = status.map(|status| status.as_u16());
            record.faults.extend(fault);
        }
    }
}

impl Drop for Arrival {
    fn drop(&mut self) {
        if let Some(record) = self.record.take() {
            self.state.push(record);
        }
    }
}

/// What a fault answers in place of DCAMS.
fn instead(kind: &FaultKind) -> Reply {
    match kind {
        FaultKind::Error { error } => error.reply(),
        FaultKind::ErrorWith200 { error } => Reply::error(StatusCode::OK, error.message()),
        FaultKind::Html { status } => Reply::html(code(*status)),
        FaultKind::Malformed {} => Reply::raw(
            StatusCode::OK,
            "application/json",
            r#"{"result":"Success","reference":"#,
        ),
        FaultKind::Redirect { status, location } => {
            let mut reply = Reply::empty(code(*status));
            reply.headers.push(("location", location.clone()));
            reply
        }
        FaultKind::Status {
            status,
            message,
            retry_after,
        } => {
            let mut reply = Reply::error(code(*status), message);
            let seconds = retry_after.map(|seconds| ("retry-after", seconds.to_string()));
            reply.headers.extend(seconds);
            reply
        }
        FaultKind::Empty {}
        | FaultKind::Close {}
        | FaultKind::Delay { .. }
        | FaultKind::Drip { .. }
        | FaultKind::Hang {}
        | FaultKind::Headers { .. }
        | FaultKind::NotHttp {}
        | FaultKind::Oversize { .. }
        | FaultKind::Reset {}
        | FaultKind::ResetInBody { .. }
        | FaultKind::Stall {}
        | FaultKind::Truncate { .. } => Reply::empty(StatusCode::OK),
    }
}

/// Whether a status line reaches the client.
fn sends_status(delivery: Option<&FaultKind>) -> bool {
    !matches!(
        delivery,
        Some(
            FaultKind::Close {} | FaultKind::Hang {} | FaultKind::NotHttp {} | FaultKind::Reset {}
        )
    )
}

/// A fault that hinders the work, yet has no answer of its own.
fn no_work() -> Reply {
    Reply::error(StatusCode::INTERNAL_SERVER_ERROR, "Simulated fault")
}

/// Another path or method than the storage API's; what DCAMS would say is undocumented.
fn elsewhere(head: &Parts) -> Reply {
    if head.uri.path() == STORAGE_PATH {
        let mut reply = Reply::error(
            StatusCode::METHOD_NOT_ALLOWED,
            "The storage API takes POST only (simulated)",
        );
        reply.headers.push(("allow", "POST".to_owned()));
        return reply;
    }
    Reply::error(
        StatusCode::NOT_FOUND,
        "The simulator serves /v3/stable/api/storage, and its controls under /_sim (simulated)",
    )
}

/// A fault's status was checked when it was set.
fn code(status: u16) -> StatusCode {
    StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR)
}
