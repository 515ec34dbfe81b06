//! The nodes of a cluster, each with a connection of its own, and which one has which slot.
//!
//! Invariant: a node that is away takes only its own slots with it. The map is learnt anew when a node
//! says that it is wrong, and again and again while a node is away, whose place another may take.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use arc_swap::ArcSwap;
use redis::{Cmd, Value};
use tokio::{
    sync::Notify,
    time::{Instant, sleep, timeout},
};
use tokio_util::task::TaskTracker;

use super::{
    dial::{Fault, fault},
    line::{Finder, Line, Shared, Trouble},
    settings::Server,
    slots::{Run, covers_all, redirected, runs},
};
use crate::clock;

/// How often the map is learnt anew though nobody said that it is wrong, and while a node is away.
const CALM: Duration = Duration::from_mins(1);
const ALARMED: Duration = Duration::from_millis(500);

/// How often a command follows a redirection.
const REDIRECTIONS: usize = 4;

/// While a slot moves, some of its keys are on both sides for an instant.
const MOVING: Duration = Duration::from_millis(1);

/// A cluster.
pub(super) struct Cluster {
    seeds: Vec<Server>,
    shared: Arc<Shared>,
    tasks: TaskTracker,
    map: ArcSwap<Map>,
    /// Every node that is connected to; held to add and remove, never across a wait. As many as
    /// the cluster has masters.
    nodes: Mutex<Vec<(Server, Arc<Line>)>>,
    outdated: Notify,
}

/// Who has which slots. Sorted; without overlaps.
#[derive(Default)]
struct Map {
    runs: Vec<(Run, Arc<Line>)>,
    whole: bool,
}

impl Map {
    fn of_slot(&self, slot: u16) -> Option<&(Run, Arc<Line>)> {
        let at = self.runs.partition_point(|(run, _)| run.last < slot);
        self.runs.get(at).filter(|(run, _)| run.first <= slot)
    }
}

impl Cluster {
    /// Learns the map from the first seed that answers, and connects to every master.
    pub(super) async fn open(
        seeds: Vec<Server>,
        shared: &Arc<Shared>,
        tasks: &TaskTracker,
    ) -> Result<Arc<Self>, (Server, Fault)> {
        let cluster = Arc::new(Self {
            seeds,
            shared: Arc::clone(shared),
            tasks: tasks.clone(),
            map: ArcSwap::default(),
            nodes: Mutex::new(Vec::new()),
            outdated: Notify::new(),
        });
        let (asked, learnt) = cluster.learn().await?;
        if !covers_all(&learnt) {
            return Err((asked, Fault::Gaps));
        }
        for run in &learnt {
            let line = cluster.line(&run.master);
            if !line.is_up() {
                let connected = line.connect().await;
                connected.map_err(|fault| (run.master.clone(), fault))?;
            }
        }
        cluster.adopt(learnt);
        let keeping = Arc::clone(&cluster).keep();
        drop(tasks.spawn(shared.stop.clone().run_until_cancelled_owned(keeping)));
        Ok(cluster)
    }

    /// Whether every slot can be asked for.
    pub(super) fn is_up(&self) -> bool {
        let map = self.map.load();
        map.whole && map.runs.iter().all(|(_, line)| line.is_up())
    }

    /// One command for a slot, wherever that is now.
    pub(super) async fn ask(
        &self,
        slot: u16,
        command: &Cmd,
        deadline: Instant,
    ) -> Result<Value, Trouble> {
        let (mut server, mut line) = {
            let map = self.map.load();
            let (run, line) = map.of_slot(slot).ok_or(Trouble::Away)?;
            (run.master.clone(), Arc::clone(line))
        };
        let mut newcomer = false;
        for _ in 0..REDIRECTIONS {
            let answer = if newcomer {
                line.ask_newcomer(command, deadline).await
            } else {
                line.ask(command, deadline).await
            };
            let Err(Trouble::Said(error)) = answer else {
                return answer;
            };
            match error.code() {
                Some("TRYAGAIN") if clock::instant() + MOVING < deadline => sleep(MOVING).await,
                Some(code @ ("MOVED" | "ASK")) => {
                    let to = error.detail().and_then(|to| redirected(to, &server));
                    newcomer = code == "ASK";
                    if !newcomer {
                        self.outdated.notify_one();
                    }
                    server = to.ok_or(Trouble::Away)?;
                    // One that is not connected to is found with the next map.
                    line = self.known(&server).ok_or(Trouble::Away)?;
                }
                Some(_) | None => return Err(Trouble::Said(error)),
            }
        }
        Err(Trouble::Away)
    }

    /// Every master there is.
    pub(super) fn masters(&self) -> Vec<Arc<Line>> {
        let nodes = self.nodes.lock().unwrap_or_else(PoisonError::into_inner);
        nodes.iter().map(|(_, line)| Arc::clone(line)).collect()
    }

    /// Learns the map anew where that is due.
    async fn keep(self: Arc<Self>) {
        loop {
            let pause = if self.is_up() { CALM } else { ALARMED };
            // Also when a connection was lost: whoever notices that is told by `watch_over`.
            drop(timeout(pause, self.outdated.notified()).await);
            if let Ok((_, learnt)) = self.learn().await {
                self.adopt(learnt);
                self.shared.changed.notify_one();
            }
            // Thousands of requests may say at once that it is wrong.
            sleep(Duration::from_millis(20)).await;
        }
    }

    /// Has the map learnt anew soon.
    pub(super) fn doubt(&self) {
        self.outdated.notify_one();
    }

    /// The map, from the first node that gives one: those that are connected to, or else a seed.
    async fn learn(&self) -> Result<(Server, Vec<Run>), (Server, Fault)> {
        let mut question = redis::cmd("CLUSTER");
        question.arg("SLOTS");
        let nodes = {
            let nodes = self.nodes.lock().unwrap_or_else(PoisonError::into_inner);
            nodes.clone()
        };
        for (server, line) in nodes {
            let deadline = clock::instant() + Duration::from_secs(1);
            if let Ok(answer) = line.ask(&question, deadline).await
                && let Some(runs) = runs(&answer, &server)
            {
                return Ok((server, runs));
            }
        }
        let mut failed = None;
        for seed in &self.seeds {
            match self.learn_from(seed, &question).await {
                Ok(runs) => return Ok((seed.clone(), runs)),
                Err(fault) => failed = Some((seed.clone(), fault)),
            }
        }
        Err(failed.unwrap_or_else(|| {
            let (host, port, tls) = (String::new(), 0, false);
            (Server { host, port, tls }, Fault::Unreachable)
        }))
    }

    async fn learn_from(&self, seed: &Server, question: &Cmd) -> Result<Vec<Run>, Fault> {
        let live = self.shared.dialer.data(seed, 0).await?;
        let answer = timeout(Duration::from_secs(1), live.ask(question)).await;
        let answer = answer.map_err(|_| Fault::TooSlow)?.map_err(|error| {
            let not_one = error.detail().is_some_and(|text| text.contains("cluster"));
            if not_one {
                Fault::NoCluster
            } else {
                fault(&error)
            }
        })?;
        runs(&answer, seed).ok_or(Fault::Strange)
    }

    /// Puts a map in force, and lets go of the nodes that have no part in it.
    fn adopt(&self, learnt: Vec<Run>) {
        let whole = covers_all(&learnt);
        let runs: Vec<(Run, Arc<Line>)> = learnt
            .into_iter()
            .map(|run| {
                let line = self.line(&run.master);
                line.keep(&self.tasks);
                (run, line)
            })
            .collect();
        let mut nodes = self.nodes.lock().unwrap_or_else(PoisonError::into_inner);
        nodes.retain(|(server, line)| {
            let stays = runs.iter().any(|(run, _)| run.master == *server);
            if !stays {
                line.close();
            }
            stays
        });
        drop(nodes);
        self.map.store(Arc::new(Map { runs, whole }));
    }

    fn known(&self, server: &Server) -> Option<Arc<Line>> {
        let nodes = self.nodes.lock().unwrap_or_else(PoisonError::into_inner);
        let found = nodes.iter().find(|(known, _)| known == server);
        found.map(|(_, line)| Arc::clone(line))
    }

    /// The connection to a node, which nobody keeps yet where it is new.
    fn line(&self, server: &Server) -> Arc<Line> {
        let mut nodes = self.nodes.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, line)) = nodes.iter().find(|(known, _)| known == server) {
            return Arc::clone(line);
        }
        let finder = Finder::Fixed {
            server: server.clone(),
            database: 0,
        };
        let line = Arc::new(Line::new(finder, &self.shared));
        nodes.push((server.clone(), Arc::clone(&line)));
        line
    }
}
