//! Quotas of real processes under load: raced for, killed, cut off from Redis, and next to a tenant that
//! asks far too often. DCAMS's side, which is the simulator's record, is what counts.
//!
//! Each has a short form here, and a long one in `scripts/campaign` that prints its figures.

mod kill;
mod load;
mod loud;
mod nodes;
mod race;
mod waiting;

use std::{env, fs, path::Path, time::Duration};

use dcams_gateway::{
    clock,
    operation::Operation,
    simulator::{Login, SimulatorHandle},
};
use jiff::{Timestamp, tz::TimeZone};
use serde_json::Value;
use tempfile::TempDir;
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::{
    program::Served,
    support::{OTHER_USER, PASS, USER, answer, client, load as read, lookup, write_secrets},
    wire::{head, token_of},
};

/// A simulator, and everything that has arrived there.
struct Dcams {
    simulator: SimulatorHandle,
    arrived: Vec<Timestamp>,
    _stop: DropGuard,
}

impl Dcams {
    async fn start() -> Self {
        dcams_gateway::auth::install_crypto();
        let stop = CancellationToken::new();
        let guard = stop.clone().drop_guard();
        let simulator = crate::support::simulator(Login::new(USER, PASS), stop).await;
        simulator.set_credentials([USER, OTHER_USER].map(|user| Login::new(user, PASS)).into());
        Self {
            simulator,
            arrived: Vec::new(),
            _stop: guard,
        }
    }

    /// When each request came, so far; how many that is.
    fn count(&mut self) -> usize {
        let records = self.simulator.requests();
        self.simulator.clear_requests();
        for record in records {
            let time = record.time.parse().unwrap();
            // What came between the two lines above is known by its number alone.
            let number = usize::try_from(record.sequence).unwrap();
            self.arrived.resize(number.max(self.arrived.len()), time);
        }
        self.arrived.len()
    }
}

/// The folder of a gateway, with what its configuration names.
fn folder() -> TempDir {
    let folder = TempDir::new().unwrap();
    write_secrets(folder.path());
    folder
}

/// The bytes of a getStatus of this tenant's, with a body of at least so many; and its token.
fn request(folder: &Path, url: &str, (tenant, size): (&str, usize)) -> (Vec<u8>, String) {
    let config = read(folder, url, &[]);
    let token = token_of(&config, tenant, &Operation::ALL, None);
    let body = format!("{:size$}", lookup(Operation::GetStatus).to_string());
    let request = head(&token, body.len(), "") + &body;
    (request.into_bytes(), token)
}

/// What `/v1/usage` says is used of a limit.
async fn used(served: &Served, token: &str, policy: &str) -> u64 {
    let url = format!("http://{}/v1/usage", served.gateway);
    let asked = client().get(url).bearer_auth(token).send().await.unwrap();
    let document = answer(asked).await.json();
    let limits = document["limits"].as_array().unwrap();
    let limit = limits.iter().find(|limit| limit["policy"] == policy);
    let used = limit.map(|limit| &limit["used"]).and_then(Value::as_u64);
    used.unwrap_or_else(|| panic!("no {policy} in {document}"))
}

/// A time zone in which it is about noon, so that no day ends in a campaign.
fn noon() -> String {
    let hour = TimeZone::UTC.to_datetime(clock::now()).hour();
    // East of Greenwich is below zero in these names.
    match 12 - hour {
        0 => "Etc/GMT".to_owned(),
        east @ 1.. => format!("Etc/GMT-{east}"),
        west => format!("Etc/GMT+{}", -west),
    }
}

/// How often or long, unless a variable says otherwise.
fn number(variable: &str, short: u32) -> u32 {
    env::var(variable).map_or(short, |text| text.parse().unwrap())
}

/// So many percent.
fn percent(part: usize, whole: usize) -> f64 {
    float(part) * 100.0 / float(whole.max(1))
}

fn float(number: usize) -> f64 {
    f64::from(u32::try_from(number).unwrap())
}

fn milliseconds(time: Duration) -> f64 {
    time.as_secs_f64() * 1000.0
}

/// Writes a configuration down, for who reads tokens out of it.
fn configure(folder: &Path, toml: &str) {
    fs::write(folder.join("more.toml"), toml).unwrap();
}
