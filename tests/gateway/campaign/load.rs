//! Load: connections that are kept, requests that are ready bytes, and of each answer its status, its
//! code and its time.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    task::JoinSet,
    time::{sleep, sleep_until, timeout},
};
use tokio_util::sync::CancellationToken;

/// A connection to a gateway.
pub(super) struct Line {
    address: SocketAddr,
    stream: Option<TcpStream>,
    buffer: Vec<u8>,
}

/// An answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Reply {
    pub(super) status: u16,
    pub(super) code: String,
}

impl Reply {
    /// Whether DCAMS has answered: it knows no customer.
    pub(super) fn is_admitted(&self) -> bool {
        self.code == "customer_not_found"
    }
}

impl Line {
    pub(super) fn to(address: SocketAddr) -> Self {
        Self {
            address,
            stream: None,
            buffer: Vec::new(),
        }
    }

    pub(super) async fn open(address: SocketAddr) -> Self {
        let mut line = Self::to(address);
        line.connect().await.unwrap();
        line
    }

    async fn connect(&mut self) -> Option<&mut TcpStream> {
        if self.stream.is_none() {
            let stream = TcpStream::connect(self.address).await.ok()?;
            stream.set_nodelay(true).unwrap();
            self.buffer.clear();
            self.stream = Some(stream);
        }
        self.stream.as_mut()
    }

    /// What is answered; nothing where the connection breaks.
    pub(super) async fn ask(&mut self, request: &[u8]) -> Option<Reply> {
        let asked = timeout(Duration::from_secs(30), self.exchange(request)).await;
        let reply = asked.expect("no answer in half a minute");
        if reply.is_none() {
            self.stream = None;
        }
        reply
    }

    async fn exchange(&mut self, request: &[u8]) -> Option<Reply> {
        self.connect().await?.write_all(request).await.ok()?;
        loop {
            if let Some((reply, length)) = whole(&self.buffer) {
                self.buffer.drain(..length);
                return Some(reply);
            }
            let stream = self.stream.as_mut()?;
            if stream.read_buf(&mut self.buffer).await.ok()? == 0 {
                return None;
            }
        }
    }
}

fn whole(buffer: &[u8]) -> Option<(Reply, usize)> {
    let end = 4 + buffer.windows(4).position(|bytes| bytes == b"\r\n\r\n")?;
    let text = std::str::from_utf8(&buffer[..end]).unwrap();
    let length = text
        .lines()
        .find_map(|line| line.strip_prefix("content-length: "))
        .unwrap_or_else(|| panic!("no length: {text}"));
    let all = end + length.parse::<usize>().unwrap();
    let body = String::from_utf8_lossy(buffer.get(end..all)?);
    let code = body.split_once("\"code\":\"").map(|(_, rest)| rest);
    let code = code.and_then(|rest| rest.split('"').next());
    let reply = Reply {
        status: text[9..12].parse().unwrap(),
        code: code.unwrap_or_default().to_owned(),
    };
    Some((reply, all))
}

/// A gateway that is asked so often a second, over so many connections.
#[derive(Clone)]
pub(super) struct Target {
    pub(super) node: usize,
    pub(super) address: SocketAddr,
    pub(super) request: Arc<[u8]>,
    pub(super) rate: u32,
    pub(super) connections: usize,
}

/// One request. Times are counted from the load's begin.
#[derive(Debug, Clone)]
pub(super) struct Shot {
    pub(super) node: usize,
    pub(super) sent: Duration,
    pub(super) answered: Duration,
    /// None where the connection broke.
    pub(super) reply: Option<Reply>,
}

impl Shot {
    pub(super) fn is_admitted(&self) -> bool {
        self.reply.as_ref().is_some_and(Reply::is_admitted)
    }

    pub(super) fn took(&self) -> Duration {
        self.answered.saturating_sub(self.sent)
    }
}

/// Who is that late leaves a request out.
const LATE: Duration = Duration::from_millis(250);

/// Asks until it is told to stop, whatever is answered. What this machine cannot send in time is left
/// out.
pub(super) async fn fire(target: Target, begun: Instant, stop: CancellationToken) -> Vec<Shot> {
    let past = (begun.elapsed() * target.rate).as_secs();
    let next = Arc::new(AtomicU64::new(past));
    let mut gunners = JoinSet::new();
    for _ in 0..target.connections {
        let (target, next, stop) = (target.clone(), Arc::clone(&next), stop.clone());
        gunners.spawn(gunner(target, next, begun, stop));
    }
    gunners.join_all().await.into_iter().flatten().collect()
}

async fn gunner(
    target: Target,
    next: Arc<AtomicU64>,
    begun: Instant,
    stop: CancellationToken,
) -> Vec<Shot> {
    let mut line = Line::to(target.address);
    let mut shots = Vec::new();
    let period = Duration::from_secs(1).as_nanos() / u128::from(target.rate);
    let period = u64::try_from(period).unwrap();
    while !stop.is_cancelled() {
        let number = next.fetch_add(1, Relaxed);
        let due = begun + Duration::from_nanos(number * period);
        if due + LATE < Instant::now() {
            continue;
        }
        let waiting = stop.run_until_cancelled(sleep_until(due.into()));
        if waiting.await.is_none() {
            break;
        }
        let sent = begun.elapsed();
        let reply = line.ask(&target.request).await;
        let broken = reply.is_none();
        shots.push(Shot {
            node: target.node,
            sent,
            answered: begun.elapsed(),
            reply,
        });
        if broken {
            sleep(Duration::from_millis(50)).await;
        }
    }
    shots
}

/// The time that this share of all took at most.
pub(super) fn quantile(times: &mut [Duration], per_mille: usize) -> Duration {
    times.sort_unstable();
    let place = (times.len() * per_mille / 1000).min(times.len().saturating_sub(1));
    times.get(place).copied().unwrap_or_default()
}

/// The most that were admitted within any stretch of this length: sent and answered in it, so that they
/// were admitted in it for certain.
pub(super) fn most_within(shots: &[Shot], stretch: Duration) -> usize {
    let mut admitted: Vec<&Shot> = shots.iter().filter(|shot| shot.is_admitted()).collect();
    admitted.sort_unstable_by_key(|shot| shot.sent);
    let within = |first: usize| {
        let end = admitted[first].sent + stretch;
        let rest = admitted[first..].iter();
        rest.take_while(|shot| shot.sent <= end)
            .filter(|shot| shot.answered <= end)
            .count()
    };
    (0..admitted.len()).map(within).max().unwrap_or(0)
}
