//! The store's tables in Redis.
//!
//! An update reads, decides here, and swaps: a script writes only where the entry still is what was
//! read. Invariant: Redis sees sealed values under pseudonyms; an entry that does not open is an error
//! and is written over by nobody; a Redis that has lost what was in it is refused, not taken for a new one.

use std::{
    collections::{HashMap, hash_map},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use aws_lc_rs::rand;
use futures_util::future::{join_all, try_join_all};
use redis::Value;
use tokio::{
    sync::oneshot,
    time::{Instant, interval},
};
use tokio_util::{
    sync::{CancellationToken, DropGuard},
    task::TaskTracker,
};

use super::{
    Redis, Script,
    settings::RedisSettings,
    undo::{Undo, Undoing},
};
use crate::{
    clock,
    ident::Pseudonym,
    store::{
        Change, Decide, Former, OpenError, StoreError, Table,
        seal::{DoesNotOpen, Sealer},
    },
};

/// The form of what is written. A higher one is refused.
pub(in crate::store) const SCHEMA: u32 = 1;

/// Updates of as many keys belong to a request, which does not wait long.
const SMALL: usize = 8;

/// How many entries of a table are asked for at once.
const PAGE: usize = 200;

/// How often it is looked whether the store is still the same.
const LOOK: Duration = Duration::from_secs(1);

/// Under which place the check of the key is sealed.
const CHECK: (&str, &[u8]) = ("meta", b"key-check");

/// Makes the store where there is none, and says what it is.
static FOUND: Script = Script::new(
    "if redis.call('EXISTS', KEYS[1]) == 0 then
       redis.call('HSET', KEYS[1], 'schema', ARGV[1], 'key-check', ARGV[2])
     end
     return redis.call('HMGET', KEYS[1], 'schema', 'key-check')",
);

/// Writes an entry that still is what was read; an empty text stands for none, in both.
static SWAP: Script = Script::new(
    "local now = redis.call('GET', KEYS[1])
     if (now or '') ~= ARGV[1] then return {0, now} end
     if ARGV[2] == '' then redis.call('DEL', KEYS[1]) else redis.call('SET', KEYS[1], ARGV[2]) end
     return {1}",
);

/// The same in a table of one hash, which counts its changes.
static SWAP_FIELD: Script = Script::new(
    "local now = redis.call('HGET', KEYS[1], ARGV[3])
     if (now or '') ~= ARGV[1] then return {0, now} end
     if ARGV[2] == '' then redis.call('HDEL', KEYS[1], ARGV[3])
     else redis.call('HSET', KEYS[1], ARGV[3], ARGV[2]) end
     redis.call('INCR', KEYS[2])
     return {1}",
);

/// The tables. A clone is the same.
#[derive(Clone)]
pub(in crate::store) struct Entries(Arc<Inner>);

struct Inner {
    tables: Arc<Tables>,
    undoing: Undoing,
    tasks: TaskTracker,
    _stop: DropGuard,
}

/// What is asked of Redis.
pub(super) struct Tables {
    redis: Redis,
    sealer: Sealer,
    /// The check of the key, as it is stored: no other store has the same.
    check: Vec<u8>,
    /// The connection on which it was seen last, by its number.
    seen_on: AtomicU64,
    lost: AtomicBool,
}

/// What came of a swap.
enum Swapped {
    Done,
    /// The entry is this one by now.
    Differs(Option<Vec<u8>>),
}

/// An update that did not happen, or may have.
pub(super) struct Unsure {
    pub(super) error: StoreError,
    /// What was to be written last.
    written: Option<Vec<u8>>,
}

impl From<StoreError> for Unsure {
    fn from(error: StoreError) -> Self {
        let written = None;
        Self { error, written }
    }
}

impl Entries {
    /// Connects, and sees whether the store there is one of this key.
    pub(in crate::store) async fn open(
        settings: &RedisSettings,
        key: &[u8; 32],
    ) -> Result<Self, OpenError> {
        let sealer = Sealer::derive(key).map_err(|_| OpenError::System("cryptography"))?;
        let redis = Redis::connect(settings).await?;
        let check = found(&redis, &sealer).await?;
        super::info::warn(&redis).await;
        let tables = Arc::new(Tables {
            seen_on: AtomicU64::new(redis.connections()),
            redis,
            sealer,
            check,
            lost: AtomicBool::new(false),
        });
        let (tasks, stop) = (TaskTracker::new(), CancellationToken::new());
        let undoing = Undoing::start(Arc::clone(&tables), &tasks, &stop);
        let looking = keep_looking(Arc::clone(&tables));
        drop(tasks.spawn(stop.clone().run_until_cancelled_owned(looking)));
        Ok(Self(Arc::new(Inner {
            tables,
            undoing,
            tasks,
            _stop: stop.drop_guard(),
        })))
    }

    pub(in crate::store) fn redis(&self) -> &Redis {
        &self.0.tables.redis
    }

    /// Whether what was in it is gone.
    pub(in crate::store) fn is_lost(&self) -> bool {
        self.0.tables.lost.load(Relaxed)
    }

    pub(in crate::store) async fn get(
        &self,
        table: Table,
        key: &Pseudonym,
    ) -> Result<Option<Vec<u8>>, StoreError> {
        let tables = &self.0.tables;
        let deadline = tables.deadline(table, 1);
        tables.trust(deadline).await?;
        let sealed = tables.read(table, key, deadline).await?;
        let opened = tables.opened(table, key, sealed.as_deref())?;
        if opened.is_none() {
            // So that the time does not tell an absent entry from one that is there.
            tables.sealer.open_decoy()?;
        }
        Ok(opened)
    }

    pub(in crate::store) async fn scan(
        &self,
        table: Table,
    ) -> Result<Vec<(Pseudonym, Vec<u8>)>, StoreError> {
        let tables = &self.0.tables;
        tables.trust(tables.deadline(table, PAGE)).await?;
        let sealed = match table {
            Table::Customers | Table::Usage => tables.scan_keys(table).await?,
            Table::Credentials | Table::Revocations => tables.scan_hash(table).await?,
        };
        let open = |(key, sealed): (Pseudonym, Vec<u8>)| {
            let value = tables.opened(table, &key, Some(&sealed))?;
            Ok((key, value.unwrap_or_default()))
        };
        sealed.into_iter().map(open).collect()
    }

    /// How many changes a table has seen.
    pub(in crate::store) async fn version(&self, table: Table) -> Result<u64, StoreError> {
        let tables = &self.0.tables;
        let deadline = tables.deadline(table, 1);
        tables.trust(deadline).await?;
        let key = tables.counter(table);
        let mut get = redis::cmd("GET");
        get.arg(&key);
        let answer = tables.redis.ask(&key, &get, deadline).await?;
        let Some(digits) = bytes(answer)? else {
            return Ok(0);
        };
        let number = std::str::from_utf8(&digits).ok();
        number
            .and_then(|digits| digits.parse().ok())
            .ok_or(StoreError::Damaged)
    }

    pub(in crate::store) async fn update(
        &self,
        table: Table,
        keys: Vec<Pseudonym>,
        change: Decide,
        undo: Option<Decide>,
    ) -> Result<Former, StoreError> {
        let (done, answer) = oneshot::channel();
        let (tables, undoing) = (Arc::clone(&self.0.tables), self.0.undoing.clone());
        // By itself: once asked for it happens, whoever has left.
        drop(self.0.tasks.spawn(async move {
            let updated = tables.update(table, &keys, &change).await;
            let (result, unsure) = match updated {
                Ok(former) => (Ok(former), None),
                Err(Unsure { error, written }) => (Err(error), written),
            };
            let certain = result.is_ok();
            let heard = done.send(result).is_ok();
            let (Some(undo), Some(key)) = (undo, keys.first()) else {
                return;
            };
            if certain && !heard {
                // It happened, so whatever has become of it is asked.
                if tables.update(table, &keys, &undo).await.is_err() {
                    undoing.later(Undo {
                        table,
                        key: *key,
                        written: None,
                        change: undo,
                    });
                }
            } else if unsure.is_some() {
                undoing.later(Undo {
                    table,
                    key: *key,
                    written: unsure,
                    change: undo,
                });
            }
        }));
        answer.await.unwrap_or(Err(StoreError::Unavailable))
    }
}

impl Tables {
    pub(super) const fn redis(&self) -> &Redis {
        &self.redis
    }

    async fn update(
        &self,
        table: Table,
        keys: &[Pseudonym],
        change: &Decide,
    ) -> Result<Former, Unsure> {
        let deadline = self.deadline(table, keys.len());
        self.trust(deadline).await?;
        let distinct = places(keys);
        let reads = distinct
            .iter()
            .map(|(key, _)| self.read(table, key, deadline));
        let reads = try_join_all(reads).await?;
        // All of them, before any is written.
        let opened = distinct.iter().zip(&reads);
        let opened = opened.map(|((key, _), sealed)| self.opened(table, key, sealed.as_deref()));
        let opened = opened.collect::<Result<Vec<_>, _>>()?;
        let swaps = distinct.iter().zip(reads).zip(opened);
        let swaps = swaps.map(|(((key, places), sealed), value)| {
            self.decide_and_swap(table, key, places, (sealed, value), change, deadline)
        });
        let mut former = vec![None; keys.len()];
        // Each is tried, also where another one failed.
        for outcome in join_all(swaps).await {
            for (place, value) in outcome? {
                if let Some(slot) = former.get_mut(place) {
                    *slot = value;
                }
            }
        }
        Ok(Former(former))
    }

    /// What the entry held at each of its places, when it is what was decided.
    async fn decide_and_swap(
        &self,
        table: Table,
        key: &Pseudonym,
        places: &[usize],
        (mut sealed, mut value): (Option<Vec<u8>>, Option<Vec<u8>>),
        change: &Decide,
        deadline: Instant,
    ) -> Result<Vec<(usize, Option<Vec<u8>>)>, Unsure> {
        loop {
            let (former, next) = decided(places, value, change);
            let Some(next) = next else {
                return Ok(former);
            };
            let next = self.sealed(table, key, next)?;
            let swapped = self.swap(table, key, sealed, &next, deadline).await;
            let swapped = swapped.map_err(|error| Unsure {
                error,
                written: Some(next),
            })?;
            match swapped {
                Swapped::Done => return Ok(former),
                Swapped::Differs(now) => {
                    value = self.opened(table, key, now.as_deref())?;
                    sealed = now;
                }
            }
        }
    }

    /// Takes back what an update wrote, where that stands there still.
    pub(super) async fn take_back(&self, undo: &Undo) -> Result<(), StoreError> {
        let Undo {
            table,
            key,
            written,
            change,
        } = undo;
        let deadline = self.deadline(*table, PAGE);
        self.trust(deadline).await?;
        let now = self.read(*table, key, deadline).await?;
        // An entry is never sealed to the same bytes twice: this is that update, and nothing since.
        if written.is_some() && now != *written {
            return Ok(());
        }
        let value = self.opened(*table, key, now.as_deref())?;
        if let (_, Some(next)) = decided(&[0], value, change) {
            let next = self.sealed(*table, key, next)?;
            self.swap(*table, key, now, &next, deadline).await?;
        }
        Ok(())
    }

    /// That Redis holds what it held: a connection that is new may lead to an empty one.
    async fn trust(&self, deadline: Instant) -> Result<(), StoreError> {
        let connections = self.redis.connections();
        if self.seen_on.load(Relaxed) != connections || self.lost.load(Relaxed) {
            self.look(deadline).await?;
            self.seen_on.store(connections, Relaxed);
        }
        Ok(())
    }

    async fn look(&self, deadline: Instant) -> Result<(), StoreError> {
        let key = meta(&self.redis);
        let mut get = redis::cmd("HGET");
        get.arg(&key).arg("key-check");
        let answer = self.redis.ask(&key, &get, deadline).await?;
        let same = matches!(&answer, Value::BulkString(check) if *check == self.check);
        let was_lost = self.lost.swap(!same, Relaxed);
        if !same && !was_lost {
            tracing::error!(
                "Redis has lost the state that was in it, or has another one: nothing is read or \
                 written there; restore it, or restart every gateway to begin with an empty one"
            );
        }
        if same && was_lost {
            tracing::info!("Redis has the state again that was in it");
        }
        same.then_some(()).ok_or(StoreError::Damaged)
    }

    async fn read(
        &self,
        table: Table,
        key: &Pseudonym,
        deadline: Instant,
    ) -> Result<Option<Vec<u8>>, StoreError> {
        let name = self.name(table, key);
        let mut get = match table {
            Table::Customers | Table::Usage => redis::cmd("GET"),
            Table::Credentials | Table::Revocations => redis::cmd("HGET"),
        };
        get.arg(&name);
        if !has_own_keys(table) {
            get.arg(key.to_string());
        }
        let answer = self.redis.ask(&name, &get, deadline).await?;
        bytes(answer)
    }

    async fn swap(
        &self,
        table: Table,
        key: &Pseudonym,
        from: Option<Vec<u8>>,
        to: &[u8],
        deadline: Instant,
    ) -> Result<Swapped, StoreError> {
        let name = self.name(table, key);
        let mut args = vec![from.unwrap_or_default(), to.to_vec()];
        let answer = if has_own_keys(table) {
            self.redis
                .invoke_before(deadline, &SWAP, &[name], &args)
                .await?
        } else {
            args.push(key.to_string().into_bytes());
            let keys = [name, self.counter(table)];
            self.redis
                .invoke_before(deadline, &SWAP_FIELD, &keys, &args)
                .await?
        };
        let Value::Array(parts) = answer else {
            return Err(StoreError::Unavailable);
        };
        let mut parts = parts.into_iter();
        if parts.next() == Some(Value::Int(1)) {
            return Ok(Swapped::Done);
        }
        bytes(parts.next().unwrap_or_default()).map(Swapped::Differs)
    }

    async fn scan_hash(&self, table: Table) -> Result<Vec<(Pseudonym, Vec<u8>)>, StoreError> {
        let name = self.table(table);
        let mut found = HashMap::new();
        let mut cursor = b"0".to_vec();
        loop {
            let mut page = redis::cmd("HSCAN");
            page.arg(&name).arg(&cursor).arg("COUNT").arg(PAGE);
            let deadline = self.deadline(table, PAGE);
            let answer = self.redis.ask(&name, &page, deadline).await?;
            let read = redis::from_redis_value(answer);
            let (next, fields): (Vec<u8>, Vec<(String, Vec<u8>)>) =
                read.map_err(|_| StoreError::Damaged)?;
            for (field, value) in fields {
                let key = field.parse().map_err(|_| StoreError::Damaged)?;
                found.insert(key_order(key), (key, value));
            }
            if next == b"0" {
                return Ok(found.into_values().collect());
            }
            cursor = next;
        }
    }

    /// For tests and for looking at a small store: it goes over every key of every node.
    async fn scan_keys(&self, table: Table) -> Result<Vec<(Pseudonym, Vec<u8>)>, StoreError> {
        let prefix = self.table(table);
        let mut found = HashMap::new();
        for line in self.redis.lines() {
            let mut cursor = b"0".to_vec();
            loop {
                let mut page = redis::cmd("SCAN");
                page.arg(&cursor)
                    .arg("MATCH")
                    .arg(pattern(&prefix))
                    .arg("COUNT")
                    .arg(PAGE);
                let deadline = self.deadline(table, PAGE);
                let answer = self.redis.ask_line(&line, &page, deadline).await?;
                let read = redis::from_redis_value(answer);
                let (next, names): (Vec<u8>, Vec<Vec<u8>>) =
                    read.map_err(|_| StoreError::Damaged)?;
                for name in names {
                    let text = name.strip_prefix(prefix.as_slice());
                    let text = text.and_then(|text| std::str::from_utf8(text).ok());
                    let key: Pseudonym = text
                        .and_then(|t| t.parse().ok())
                        .ok_or(StoreError::Damaged)?;
                    if let Some(value) = self.read(table, &key, deadline).await? {
                        found.insert(key_order(key), (key, value));
                    }
                }
                if next == b"0" {
                    break;
                }
                cursor = next;
            }
        }
        Ok(found.into_values().collect())
    }

    fn opened(
        &self,
        table: Table,
        key: &Pseudonym,
        sealed: Option<&[u8]>,
    ) -> Result<Option<Vec<u8>>, StoreError> {
        let open = |sealed: &[u8]| self.sealer.open(table.name(), &key.to_bytes(), sealed);
        let opened = sealed.map(open).transpose();
        opened.map_err(|DoesNotOpen| StoreError::Damaged)
    }

    /// A value as it is stored; nothing for none.
    fn sealed(
        &self,
        table: Table,
        key: &Pseudonym,
        value: Option<Vec<u8>>,
    ) -> Result<Vec<u8>, StoreError> {
        let Some(value) = value else {
            return Ok(Vec::new());
        };
        let sealed = self.sealer.seal(table.name(), &key.to_bytes(), &value);
        sealed.map_err(|_| StoreError::Unavailable)
    }

    /// A request waits for `timeout` at most; what operators ask for, and long work, may take longer.
    fn deadline(&self, table: Table, keys: usize) -> Instant {
        let settings = self.redis.settings();
        let of_request = has_own_keys(table) && keys <= SMALL;
        clock::instant()
            + if of_request {
                settings.timeout
            } else {
                settings.patience()
            }
    }

    /// Where an entry is: a key of its own, so that a cluster spreads them, or its table's hash.
    fn name(&self, table: Table, key: &Pseudonym) -> Vec<u8> {
        let mut name = self.table(table);
        if has_own_keys(table) {
            name.extend_from_slice(key.to_string().as_bytes());
        }
        name
    }

    fn table(&self, table: Table) -> Vec<u8> {
        let prefix = self.redis.prefix();
        let name = table.name();
        match table {
            Table::Customers | Table::Usage => format!("{prefix}{name}:"),
            Table::Credentials | Table::Revocations => format!("{prefix}{{{name}}}"),
        }
        .into_bytes()
    }

    fn counter(&self, table: Table) -> Vec<u8> {
        let (prefix, name) = (self.redis.prefix(), table.name());
        format!("{prefix}{{{name}}}:version").into_bytes()
    }
}

/// Makes the store where there is none, and sees that it is one of ours.
async fn found(redis: &Redis, sealer: &Sealer) -> Result<Vec<u8>, OpenError> {
    let mut id = [0; 16];
    rand::fill(&mut id).map_err(|_| OpenError::System("random bytes"))?;
    let check = sealer.seal(CHECK.0, CHECK.1, &id);
    let check = check.map_err(|_| OpenError::System("random bytes"))?;
    let args = [SCHEMA.to_string().into_bytes(), check.clone()];
    let limit = redis.settings().connect_timeout;
    let deadline = clock::instant() + limit;
    let answer = redis
        .invoke_before(deadline, &FOUND, &[meta(redis)], &args)
        .await;
    let prefix = redis.prefix().to_owned();
    let answer = answer.map_err(|_| OpenError::RedisRefuses)?;
    let read: Result<(Option<u32>, Option<Vec<u8>>), _> = redis::from_redis_value(answer);
    let Ok((Some(found), Some(stored))) = read else {
        return Err(OpenError::RedisDamaged(prefix));
    };
    if found > SCHEMA {
        return Err(OpenError::RedisNewer { prefix, found });
    }
    let opened = sealer.open(CHECK.0, CHECK.1, &stored);
    opened.map_err(|DoesNotOpen| OpenError::RedisKey(prefix))?;
    if stored == check {
        tracing::info!(
            prefix = redis.prefix(),
            "made an empty state store in Redis"
        );
    }
    Ok(stored)
}

/// Looks once a second whether the store is still the same, while there is a connection.
async fn keep_looking(tables: Arc<Tables>) {
    let mut ticks = interval(LOOK);
    loop {
        ticks.tick().await;
        if tables.redis.is_up() {
            // Whoever asks is told of what is wrong; the log was.
            tables
                .look(clock::instant() + LOOK)
                .await
                .unwrap_or_default();
        }
    }
}

fn meta(redis: &Redis) -> Vec<u8> {
    format!("{}meta", redis.prefix()).into_bytes()
}

/// Each key once, with all of its places.
fn places(keys: &[Pseudonym]) -> Vec<(Pseudonym, Vec<usize>)> {
    let mut distinct: Vec<(Pseudonym, Vec<usize>)> = Vec::with_capacity(keys.len());
    let mut known: HashMap<[u8; Pseudonym::LEN], usize> = HashMap::with_capacity(keys.len());
    for (place, key) in keys.iter().enumerate() {
        match known.entry(key.to_bytes()) {
            hash_map::Entry::Occupied(at) => {
                if let Some((_, places)) = distinct.get_mut(*at.get()) {
                    places.push(place);
                }
            }
            hash_map::Entry::Vacant(new) => {
                new.insert(distinct.len());
                distinct.push((*key, vec![place]));
            }
        }
    }
    distinct
}

#[expect(
    clippy::type_complexity,
    reason = "what each place held, and what is to be written"
)]
/// Changes an entry once for each of its places; nothing is to be written where all keep it.
fn decided(
    places: &[usize],
    mut value: Option<Vec<u8>>,
    change: &Decide,
) -> (Vec<(usize, Option<Vec<u8>>)>, Option<Option<Vec<u8>>>) {
    let mut former = Vec::with_capacity(places.len());
    let mut changed = false;
    for place in places {
        let next = match (change.0)(*place, value.as_deref()) {
            Change::Keep => value.clone(),
            Change::Put(next) => {
                changed = true;
                Some(next)
            }
            Change::Remove => {
                changed |= value.is_some();
                None
            }
        };
        former.push((*place, std::mem::replace(&mut value, next)));
    }
    (former, changed.then_some(value))
}

fn bytes(answer: Value) -> Result<Option<Vec<u8>>, StoreError> {
    if let Value::BulkString(bytes) = answer {
        return Ok(Some(bytes));
    }
    (answer == Value::Nil)
        .then_some(None)
        .ok_or(StoreError::Damaged)
}

fn key_order(key: Pseudonym) -> [u8; Pseudonym::LEN] {
    key.to_bytes()
}

/// What matches keys that begin so, and no others.
fn pattern(prefix: &[u8]) -> Vec<u8> {
    let mut pattern = Vec::with_capacity(prefix.len() + 1);
    for byte in prefix {
        if b"*?[]\\^-".contains(byte) {
            pattern.push(b'\\');
        }
        pattern.push(*byte);
    }
    pattern.push(b'*');
    pattern
}

/// Whether each entry of a table is a key of its own. The others are small, and one hash each.
const fn has_own_keys(table: Table) -> bool {
    matches!(table, Table::Customers | Table::Usage)
}
