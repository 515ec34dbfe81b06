//! A DCAMS of our own: answers the storage API as the vendor documents it, keeps customers in
//! memory, judges what reaches it, and plays faults.
//!
//! Invariant: an independent judge. It shares no reading or writing of bodies with the gateway, and
//! records every request before it answers. A value of `user` or `pass` is recorded nowhere, except
//! in whole bodies where it was started to record bodies.
//!
//! Its checks run in this order, each with the documented error: `user` and `pass` are there (400
//! `Missing a required input`) and accepted (401), `service` is there and known, `target.email` is
//! there and looks like an address (400), required fields are there, the customer exists (404).
//! A member that is not a string, or empty, counts as absent; of duplicates the last counts.
//! At most 10,000 customers are held; the one created longest ago is forgotten first.
//!
//! # Control API
//! | call | what it does |
//! |---|---|
//! | `GET /_sim/requests` | the last 10,000 requests ([`record::Record`]), newest last |
//! | `DELETE /_sim/requests` | forgets them; numbers go on |
//! | `POST /_sim/faults` | adds a fault ([`fault::FaultKind`]) |
//! | `GET`, `DELETE /_sim/faults` | the faults that wait; forgets them and lets go of calls that hang |
//! | `GET`, `PUT /_sim/behaviour` | the switches ([`behaviour::Behaviour`]) |
//! | `GET`, `PUT /_sim/credentials` | how many pairs are accepted; sets them |
//! | `GET`, `DELETE /_sim/customers` | how many customers there are; forgets them |
//!
//! A fault is `{"kind": …}` with the members of its kind, and any of
//! `times` (how many calls; without it and `share` one), `share` (above 0 to 1, evenly spread
//! and exact), `service` (that one only), `work` (whether DCAMS does its work before things go
//! wrong; default true, but false where the fault stands in for the answer). Several combine: all
//! delays (`late` before the work, `delay` after it), one in place of the answer, one in its delivery.
//!
//! | switch | values, the default first |
//! |---|---|
//! | `email_folding` | `exact`, `lowercase` |
//! | `initial_status` | `PASS`, `PENDING`, `FAIL` |
//! | `per_user` | `false`, `true` |
//! | `omitted_fields` | `keep`, `blank` |
//! | `missing_documents` | `null`, `absent`, `empty` |
//! | `required` | `[]`, any of `reference fn ln addr city state zip dob phone front back` |
//! | `errors_as_200`, `extra_fields` | `false`, `true` |
//! | `echo` | `none`, `message`, `reference`, `link`, `target` |
//! | `unknown_service`, `malformed_json`, `invalid_status` | `missing_input`, `unknown_message`, `server_error`, `html`, `empty_ok` |

use std::{fmt, io, net::SocketAddr, sync::Arc};

use serde::Deserialize;
use thiserror::Error;
use tokio::net::TcpListener;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use behaviour::Behaviour;
use fault::{Fault, FaultError};
use record::Record;
use state::State;

pub mod behaviour;
mod control;
mod customers;
mod deliver;
pub mod fault;
mod inspect;
pub mod record;
mod reply;
mod serve;
mod state;
mod storage;
mod strike;
#[cfg(test)]
mod tests;

/// The storage API's path.
pub const STORAGE_PATH: &str = "/v3/stable/api/storage";

/// A user name and password that the simulator accepts.
#[derive(Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Login {
    user: String,
    pass: String,
}

impl Login {
    /// A pair.
    pub fn new(user: impl Into<String>, pass: impl Into<String>) -> Self {
        Self {
            user: user.into(),
            pass: pass.into(),
        }
    }

    fn user(&self) -> &str {
        &self.user
    }

    fn is(&self, user: &str, pass: &str) -> bool {
        self.user == user && self.pass == pass
    }
}

impl fmt::Debug for Login {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[redacted]")
    }
}

/// How the simulator starts.
#[derive(Debug, Clone)]
pub struct SimulatorSettings {
    /// The pairs that it accepts.
    pub accepted: Vec<Login>,
    /// Whether records hold the bodies.
    pub record_bodies: bool,
    /// The switches.
    pub behaviour: Behaviour,
}

impl Default for SimulatorSettings {
    /// Accepts `demo-user` with `demo-pass`, records no bodies, answers as documented.
    fn default() -> Self {
        Self {
            accepted: vec![Login::new("demo-user", "demo-pass")],
            record_bodies: false,
            behaviour: Behaviour::default(),
        }
    }
}

/// Starts simulators.
#[derive(Debug)]
pub struct Simulator;

impl Simulator {
    /// Serves on this listener until the shutdown. The simulator runs on tasks of its own; the
    /// handle watches and steers it, and dropping the handle changes nothing.
    pub fn start(
        listener: TcpListener,
        settings: SimulatorSettings,
        shutdown: CancellationToken,
    ) -> io::Result<SimulatorHandle> {
        let address = listener.local_addr()?;
        let state = Arc::new(State::new(settings));
        let tracker = TaskTracker::new();
        tracker.spawn(serve::accept(
            listener,
            Arc::clone(&state),
            shutdown,
            tracker.clone(),
        ));
        tracker.close();
        Ok(SimulatorHandle {
            address,
            state,
            tracker,
        })
    }
}

/// Why the simulator did not run.
#[derive(Debug, Error)]
pub enum SimulatorError {
    /// The address cannot be listened on.
    #[error("cannot listen on {address} ({source}): choose a free address with --listen")]
    Listen {
        /// Which address.
        address: SocketAddr,
        /// What the system said.
        source: io::Error,
    },
}

/// Runs a simulator on this address until the shutdown, for the `simulator` command.
pub async fn run(
    listen: SocketAddr,
    settings: SimulatorSettings,
    shutdown: CancellationToken,
) -> Result<(), SimulatorError> {
    let failed = |source| SimulatorError::Listen {
        address: listen,
        source,
    };
    let listener = TcpListener::bind(listen).await.map_err(failed)?;
    let handle = Simulator::start(listener, settings, shutdown).map_err(failed)?;
    if !handle.address.ip().is_loopback() {
        tracing::warn!("the simulator's control API has no password: keep it off open networks");
    }
    tracing::info!(address = %handle.address, "simulator.listening");
    handle.join().await;
    Ok(())
}

/// Watches and steers a simulator from within the process. A clone steers the same simulator, as
/// does its control API.
#[derive(Clone)]
pub struct SimulatorHandle {
    address: SocketAddr,
    state: Arc<State>,
    tracker: TaskTracker,
}

impl SimulatorHandle {
    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The URL of its storage API.
    pub fn url(&self) -> String {
        format!("http://{}{STORAGE_PATH}", self.address)
    }

    /// Resolves when the simulator has stopped and its last connection has ended.
    pub async fn join(&self) {
        self.tracker.wait().await;
    }

    /// The requests that arrived, newest last.
    pub fn requests(&self) -> Vec<Record> {
        self.state.records()
    }

    /// Forgets the requests; their numbers go on.
    pub fn clear_requests(&self) {
        self.state.clear_records();
    }

    /// Resolves when `count` requests have arrived since the start, cleared ones too.
    pub async fn arrived(&self, count: u64) {
        self.state.arrived(count).await;
    }

    /// Adds a fault.
    pub fn add_fault(&self, fault: Fault) -> Result<(), FaultError> {
        self.state.arm(fault)
    }

    /// The faults that wait for calls.
    pub fn faults(&self) -> Vec<Fault> {
        self.state.faults()
    }

    /// Forgets the faults and lets go of calls that hang.
    pub fn clear_faults(&self) {
        self.state.clear_faults();
    }

    /// The switches as they are.
    pub fn behaviour(&self) -> Behaviour {
        (*self.state.behaviour()).clone()
    }

    /// Sets all switches.
    pub fn set_behaviour(&self, behaviour: Behaviour) {
        self.state.set_behaviour(behaviour);
    }

    /// Sets the pairs that are accepted from now on.
    pub fn set_credentials(&self, accepted: Vec<Login>) {
        self.state.set_logins(accepted);
    }

    /// How many customers it holds.
    pub fn customers(&self) -> usize {
        self.state.customers()
    }

    /// Forgets the customers.
    pub fn clear_customers(&self) {
        self.state.clear_customers();
    }
}

impl fmt::Debug for SimulatorHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SimulatorHandle")
            .field("address", &self.address)
            .finish_non_exhaustive()
    }
}
