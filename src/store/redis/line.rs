//! One connection that is kept open: found, lost, found again.
//!
//! Invariant: nobody waits for a connection. Where there is none, or the one there was did not answer
//! in time, whoever asks is told so at once; looking for another one is one task's work alone.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use arc_swap::ArcSwapOption;
use aws_lc_rs::rand;
use redis::{Cmd, Pipeline, RedisError, Value};
use tokio::{
    sync::Notify,
    time::{Instant, sleep, timeout, timeout_at},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{
    dial::{Dialer, Fault, Live, fault},
    settings::Server,
};
use crate::clock;

/// How long to wait before looking again, at first and at most.
const PAUSES: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(2));

/// A connection that lived as long was sound: the next one is looked for at once.
const SOUND: Duration = Duration::from_secs(1);

/// How often a silent connection is asked for a sign of life, and how long that may take.
const PULSE: Duration = Duration::from_secs(1);

/// How a server is found.
pub(super) enum Finder {
    /// It is where it is.
    Fixed { server: Server, database: u16 },
    /// These know who it is now.
    Sentinels {
        sentinels: Vec<Server>,
        master: String,
        database: u16,
    },
}

/// Why a command has no answer.
pub(super) enum Trouble {
    /// The connection is down, and was before or is from now on.
    Away,
    /// The server answered with an error. The connection is as good as before.
    Said(RedisError),
}

/// What all connections of one store share.
pub(super) struct Shared {
    pub(super) dialer: Dialer,
    /// Told of each connection that is found or lost.
    pub(super) changed: Notify,
    /// How many connections there have been, and commands.
    pub(super) connections: AtomicU64,
    pub(super) round_trips: AtomicU64,
    pub(super) stop: CancellationToken,
}

/// The connection to one server.
pub(super) struct Line {
    finder: Finder,
    shared: Arc<Shared>,
    live: ArcSwapOption<Live>,
    /// Whether a task keeps it open.
    kept: AtomicBool,
    stop: CancellationToken,
}

impl Line {
    /// One that is not connected yet.
    pub(super) fn new(finder: Finder, shared: &Arc<Shared>) -> Self {
        Self {
            finder,
            live: ArcSwapOption::empty(),
            kept: AtomicBool::new(false),
            stop: shared.stop.child_token(),
            shared: Arc::clone(shared),
        }
    }

    /// Whether there is a connection.
    pub(super) fn is_up(&self) -> bool {
        self.live.load().is_some()
    }

    /// Gives it up for good.
    pub(super) fn close(&self) {
        self.stop.cancel();
        self.live.store(None);
    }

    /// Connects now; for whoever keeps it, or before it is kept.
    pub(super) async fn connect(&self) -> Result<(), Fault> {
        let live = match &self.finder {
            Finder::Fixed { server, database } => self.shared.dialer.data(server, *database).await,
            Finder::Sentinels {
                sentinels,
                master,
                database,
            } => {
                let found = master_of(&self.shared.dialer, sentinels, master, *database);
                found.await
            }
        };
        let live = live?;
        // Counted before it is used: who asks on it looks first whether the store is still the same.
        self.shared.connections.fetch_add(1, Relaxed);
        self.live.store(Some(Arc::new(live)));
        self.shared.changed.notify_one();
        Ok(())
    }

    /// One command, answered before `deadline` or not at all.
    pub(super) async fn ask(&self, command: &Cmd, deadline: Instant) -> Result<Value, Trouble> {
        let live = self.live.load_full().ok_or(Trouble::Away)?;
        // The time went by elsewhere: that is no sign of a bad connection.
        if clock::instant() >= deadline {
            return Err(Trouble::Away);
        }
        self.shared.round_trips.fetch_add(1, Relaxed);
        let answer = timeout_at(deadline, live.ask(command)).await;
        self.judge(&live, answer.ok())
    }

    /// One command for a key that this server is about to take over from another.
    pub(super) async fn ask_newcomer(
        &self,
        command: &Cmd,
        deadline: Instant,
    ) -> Result<Value, Trouble> {
        let live = self.live.load_full().ok_or(Trouble::Away)?;
        // The time went by elsewhere: that is no sign of a bad connection.
        if clock::instant() >= deadline {
            return Err(Trouble::Away);
        }
        self.shared.round_trips.fetch_add(1, Relaxed);
        let mut both = Pipeline::with_capacity(2);
        both.cmd("ASKING").ignore().add_command(command.clone());
        let mut connection = live.connection.clone();
        let sent = connection.send_packed_commands(&both, 1, 1);
        let answer = timeout_at(deadline, sent).await.ok();
        let answer = answer.map(|values| {
            let value = values?.into_iter().next().unwrap_or_default();
            value.extract_error()
        });
        self.judge(&live, answer)
    }

    /// Has a connection kept open until this is closed, by one task.
    pub(super) fn keep(self: &Arc<Self>, tasks: &TaskTracker) {
        if self.kept.swap(true, Relaxed) {
            return;
        }
        let line = Arc::clone(self);
        drop(tasks.spawn(async move {
            let stop = line.stop.clone();
            stop.run_until_cancelled(line.keep_open()).await;
            line.live.store(None);
        }));
    }

    async fn keep_open(&self) {
        let mut failures = 0;
        let mut said = None;
        loop {
            if let Some(live) = self.live.load_full() {
                let since = clock::instant();
                tokio::select! {
                    () = live.broken.cancelled() => {}
                    () = live.late.notified() => {
                        if self.still_lives(&live).await {
                            continue;
                        }
                    }
                    () = self.watch_pulse(&live) => {}
                }
                self.lose(&live);
                if clock::instant().duration_since(since) >= SOUND {
                    (failures, said) = (0, None);
                }
            }
            if failures > 0 {
                sleep(pause(failures)).await;
            }
            failures = failures.saturating_add(1);
            if let Err(fault) = self.connect().await
                && said != Some(fault)
            {
                said = Some(fault);
                let redis = self.name();
                tracing::warn!(redis, reason = %fault, "no connection to Redis; trying on");
            }
        }
    }

    /// Returns when the server gives no sign of life.
    async fn watch_pulse(&self, live: &Live) {
        loop {
            sleep(PULSE).await;
            match timeout(PULSE, live.ask(&redis::cmd("PING"))).await {
                Ok(Ok(_)) => {}
                Ok(Err(_)) | Err(_) => return,
            }
        }
    }

    /// An answer came too late. Where the server gives a sign of life all the same it was busy for a
    /// moment, and the connection is used again as soon as it does.
    async fn still_lives(&self, live: &Arc<Live>) -> bool {
        let ping = redis::cmd("PING");
        let alive = timeout(PULSE, live.ask(&ping)).await;
        if !matches!(alive, Ok(Ok(_))) || live.broken.is_cancelled() {
            return false;
        }
        self.live.store(Some(Arc::clone(live)));
        self.shared.changed.notify_one();
        true
    }

    fn judge(
        &self,
        live: &Arc<Live>,
        answer: Option<Result<Value, RedisError>>,
    ) -> Result<Value, Trouble> {
        match answer {
            Some(Ok(value)) => Ok(value),
            Some(Err(error)) if !ends_connection(&error) => Err(Trouble::Said(error)),
            Some(Err(_)) => {
                self.lose(live);
                Err(Trouble::Away)
            }
            None => {
                self.set_aside(live);
                live.late.notify_one();
                Err(Trouble::Away)
            }
        }
    }

    /// Uses this connection no more. What others asked on it meanwhile may still be answered.
    fn lose(&self, live: &Arc<Live>) {
        self.set_aside(live);
        live.broken.cancel();
    }

    /// Uses it no more for now.
    fn set_aside(&self, live: &Arc<Live>) {
        let before = self.live.compare_and_swap(live, None);
        if before.as_ref().is_some_and(|now| Arc::ptr_eq(now, live)) {
            self.shared.changed.notify_one();
        }
    }

    /// What it is called in a log line.
    fn name(&self) -> String {
        match &self.finder {
            Finder::Fixed { server, .. } => server.to_string(),
            Finder::Sentinels { master, .. } => format!("master {master}"),
        }
    }
}

/// Whether another connection may be better than this one: another server may be master by now.
fn ends_connection(error: &RedisError) -> bool {
    matches!(
        error.code(),
        None | Some("READONLY" | "MASTERDOWN" | "LOADING" | "NOAUTH")
    )
}

/// The first sentinel that answers says where the master is, and the master says that it is one.
async fn master_of(
    dialer: &Dialer,
    sentinels: &[Server],
    master: &str,
    database: u16,
) -> Result<Live, Fault> {
    let mut worst = Fault::Unreachable;
    for sentinel in sentinels {
        match by_sentinel(dialer, sentinel, master, database).await {
            Ok(live) => return Ok(live),
            Err(fault) => worst = fault,
        }
    }
    Err(worst)
}

async fn by_sentinel(
    dialer: &Dialer,
    sentinel: &Server,
    master: &str,
    database: u16,
) -> Result<Live, Fault> {
    let asked = dialer.sentinel(sentinel).await?;
    let mut question = redis::cmd("SENTINEL");
    question.arg("GET-MASTER-ADDR-BY-NAME").arg(master);
    let answer = timeout(PULSE, asked.ask(&question)).await;
    let answer = answer.map_err(|_| Fault::TooSlow)?;
    let answer = answer.map_err(|error| fault(&error))?;
    if answer == Value::Nil {
        return Err(Fault::NoMaster);
    }
    let address: Result<(String, u16), _> = redis::from_redis_value(answer);
    let (host, port) = address.map_err(|_| Fault::Strange)?;
    let tls = sentinel.tls;
    let live = dialer.data(&Server { host, port, tls }, database).await?;
    let role = timeout(PULSE, live.ask(&redis::cmd("ROLE"))).await;
    let role = role.map_err(|_| Fault::TooSlow)?;
    let Value::Array(role) = role.map_err(|error| fault(&error))? else {
        return Err(Fault::Strange);
    };
    let master = matches!(role.first(), Some(Value::BulkString(word)) if word == b"master");
    master.then_some(live).ok_or(Fault::Replica)
}

/// From half of it to all of it, so that many gateways do not come at once.
fn pause(failures: u32) -> Duration {
    let (first, longest) = PAUSES;
    let whole = first
        .saturating_mul(1 << (failures - 1).min(10))
        .min(longest);
    let mut byte = [0];
    // Without randomness they come at once.
    rand::fill(&mut byte).unwrap_or_default();
    whole / 2 + whole / 2 * u32::from(u8::from_be_bytes(byte)) / 255
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pause_grows_to_two_seconds_and_is_never_twice_the_same_for_long() {
        for (failures, longest) in [(1, 50), (2, 100), (5, 800), (7, 2_000), (u32::MAX, 2_000)] {
            let longest = Duration::from_millis(longest);
            for _ in 0..100 {
                let pause = pause(failures);
                assert!(pause >= longest / 2 && pause <= longest, "{pause:?}");
            }
        }
        assert!((0..100).any(|_| pause(9) != pause(9)));
    }
}
