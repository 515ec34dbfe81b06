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
    inspect::{Seen, inspect},
    record::{ImageRecord, Images, Record, RecordedBody, Records},
    reply::Reply,
    storage::{self, Ask},
    strike::{Faults, Struck},
};

/// Everything that lasts longer than a request.
pub(super) struct State {
    // One lock for all: a decision reads logins and customers together, in microseconds.
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

/// A request whose body was read, and the faults that it meets.
pub(super) struct Met {
    /// What another path or method is answered; none for the storage API.
    elsewhere: Option<Reply>,
    /// Where the body is a JSON object.
    ask: Option<Ask>,
    seen: Seen,
    malformed: Option<String>,
    pub(super) struck: Struck,
    /// Cancelled when the faults are cleared.
    pub(super) released: CancellationToken,
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

    /// Reads a body, and decides which faults its request meets.
    pub(super) fn meet(&self, head: &Parts, body: &[u8]) -> Met {
        let storage = head.uri.path() == STORAGE_PATH && head.method == Method::POST;
        let inspection = inspect(body);
        let ask = inspection.document.as_ref().map(Ask::read);
        let service = ask.as_ref().and_then(|ask| ask.service.as_deref());
        let mut inner = self.lock();
        Met {
            elsewhere: (!storage).then(|| elsewhere(head)),
            struck: inner.faults.strike(service.filter(|_| storage)),
            released: inner.faults.released(),
            seen: inspection.seen,
            malformed: inspection.malformed,
            ask,
        }
    }

    /// Judges and records a request, does its work, and decides its answer.
    pub(super) fn take_turn(&self, mut arrival: Arrival, met: Met, body: &Bytes) -> Turn {
        let mut record = arrival.record.take();
        let (struck, released) = (met.struck, met.released);
        if let Some(record) = &mut record {
            record.body_complete = true;
            record.members = met.seen.members;
            record.members_total = met.seen.total;
            record.user_members = met.seen.user;
            record.pass_members = met.seen.pass;
            record.malformed = met.malformed;
            record.body = self.record_bodies.then(|| RecordedBody::new(body));
            record.faults.clone_from(&struck.names);
            if let Some(ask) = &met.ask {
                note(ask, record);
            }
        }
        let own = match (met.elsewhere, &met.ask) {
            (Some(reply), _) => Some(reply),
            (None, None) => Some(Reply::undocumented(self.lock().behaviour.malformed_json)),
            (None, Some(ask)) => self.work(ask, struck.work, record.as_mut()),
        };
        let reply = match &struck.answer {
            Some(kind) => instead(kind),
            None => own.unwrap_or_else(no_work),
        };
        if let Some(mut record) = record {
            record.status = sends_status(struck.delivery.as_ref()).then(|| reply.status.as_u16());
            self.push(record);
        }
        Turn {
            reply,
            struck,
            released,
        }
    }

    /// What the storage API answers to a JSON object; nothing where a fault hinders it.
    fn work(&self, ask: &Ask, work: bool, record: Option<&mut Record>) -> Option<Reply> {
        let mut guard = self.lock();
        let inner = &mut *guard;
        let behaviour = Arc::clone(&inner.behaviour);
        let (credentials, user_index) = ask.login(&inner.logins);
        let outcome =
            work.then(|| storage::decide(ask, credentials, &behaviour, &mut inner.customers));
        drop(guard);
        if let Some(record) = record {
            (record.credentials, record.user_index) = (credentials, user_index);
            record.stored = outcome.as_ref().is_some_and(|outcome| outcome.stored);
        }
        outcome.map(|outcome| storage::write(outcome.answer, ask, &behaviour))
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

/// Writes down what a body asks for.
fn note(ask: &Ask, record: &mut Record) {
    let image = |text: &Option<Arc<str>>| text.as_deref().map(ImageRecord::of);
    record.images = Images {
        front: image(&ask.front),
        back: image(&ask.back),
    };
    let service = ask.service.as_deref();
    record.service = service.map(|name| name.chars().take(64).collect());
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
        | FaultKind::Late { .. }
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
