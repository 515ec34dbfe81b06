//! What gateways on one Redis tell each other about customers' statuses, and what they keep there together.
//!
//! There is a log of what happened, which each gateway asks for what is new; the writes under way; and of
//! each customer what is kept, with the number of the last announcement that was about it.
//! Invariant: a gateway that is in touch has heard of all that was announced `lag` ago. What is kept is told
//! only while nothing was announced since, in one epoch: an unbroken history of one server. A value is
//! sealed, for one tenant, customer and time. All times in Redis are Redis's own.

#[cfg(test)]
mod tests;

use std::{
    collections::{HashMap, HashSet},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use aws_lc_rs::{hmac, rand};
use futures_util::future::try_join_all;
use redis::{FromRedisValue, Value};
use tokio::time::{Instant, sleep_until};
use uuid::Uuid;
use zeroize::Zeroizing;

use super::key::StatusKey;
use crate::{
    clock,
    ident::{Pseudonym, PseudonymKey, Purpose, TenantId},
    store::{
        StoreError,
        redis::{Redis, Script},
        seal::Sealer,
    },
};

macro_rules! script {
    ($file:literal) => {
        Script::new(concat!(include_str!("fleet/head.lua"), include_str!($file)))
    };
}

static BEGIN: Script = script!("fleet/begin.lua");
static END: Script = script!("fleet/end.lua");
static LOOK_UP: Script = script!("fleet/look_up.lua");
static KEEP: Script = script!("fleet/keep.lua");
static FORGET_TENANT: Script = script!("fleet/forget_tenant.lua");
static FORGET_EVERYTHING: Script = script!("fleet/forget_everything.lua");
static FOLLOW: Script = script!("fleet/follow.lua");

/// How many entries of the log are asked for at once.
const PAGE: usize = 1_000;

/// How many writes under way are learnt at most; while there are more, who has missed something waits.
const MOST_WRITES: usize = 10_000;

/// How many announcements are owed at most, at some 100 bytes each; one more, and everything is forgotten.
const MOST_OWED: usize = 10_000;

/// How many of them are sent together.
const TOGETHER: usize = 100;

/// How often is asked what is new: so many times in the lag that is allowed, and no more often than this.
const ASKED: u32 = 20;
const PAUSE: Duration = Duration::from_millis(1);

/// How many bytes the names of epochs and writes have, and salts.
const NAME: usize = 16;

/// Under which place values are sealed.
const PLACE: &str = "status";

/// The gateways that share a Redis, as far as statuses go.
pub(super) struct Fleet {
    redis: Redis,
    /// The log's head, the log, the writes under way, the tenants' salts.
    shared: [Vec<u8>; 4],
    sealing: hmac::Key,
    pseudonyms: PseudonymKey,
    /// In milliseconds.
    horizon: AtomicU64,
    /// What the names of this gateway's writes begin with, and how many there were.
    node: [u8; 8],
    writes: AtomicU64,
    began: Instant,
    /// When the last question was asked that is answered and acted on: microseconds since `began` and one.
    heard: AtomicU64,
    owed: Arc<Mutex<Owed>>,
}

/// What another gateway did, in order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Heard {
    /// A write of a customer has begun, or has ended without anybody knowing how: the customer is in doubt
    /// for so long, or until the write has ended. May come again, with another time.
    Begun(StatusKey, Token, Duration),
    /// A write of a customer has ended, or the customer is to be forgotten, by a token that is new then.
    Ended(StatusKey, Token),
    /// A tenant is to be forgotten; [`Fleet::name_of`] says which.
    TenantForgotten(Pseudonym),
    /// Whatever may have happened. The writes under way are told after it.
    Everything,
}

/// Names one write, and by its first half the gateway that it is of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Token(pub(super) [u8; NAME]);

/// A write that is announced, or owed. One that is dropped without its end is one that nobody knows the
/// outcome of.
#[must_use = "who begins says how it ends"]
pub(super) struct Write {
    of: StatusKey,
    tenant: TenantId,
    token: Token,
    begun: Option<Begun>,
    /// What the others have to be told if nothing more is said.
    unsaid: Option<Owing>,
    owed: Arc<Mutex<Owed>>,
}

/// What Redis said to the beginning of a write.
struct Begun {
    moment: Moment,
    number: Vec<u8>,
    salt: Vec<u8>,
}

/// How a write ended.
pub(super) enum End<'a> {
    /// It is certain what came of it, or that it was not sent; perhaps what the status is now.
    Settled(Option<Learnt<'a>>),
    /// It may have happened, or may still.
    Unknown,
}

/// A status, to be kept for others.
#[derive(Clone, Copy)]
pub(super) struct Learnt<'a> {
    /// What the fleet keeps, whatever it means.
    pub(super) value: &'a [u8],
    /// How long ago it was true.
    pub(super) age: Duration,
    /// For how long from now it is kept.
    pub(super) ttl: Duration,
}

/// What a lookup saw.
pub(super) struct Seen {
    moment: Moment,
    /// The number of the last announcement about the customer, where it is remembered.
    number: Vec<u8>,
    salt: Vec<u8>,
    /// Whether a write is under way, or one ended without anybody knowing how.
    pub(super) is_in_doubt: bool,
    /// What is kept, and how long ago it was true.
    pub(super) value: Option<(Vec<u8>, Duration)>,
}

/// When Redis said something: on its clock, and no earlier than `at` here.
struct Moment {
    epoch: Vec<u8>,
    time: u64,
    at: Instant,
}

/// What Redis could not take, and has to be told.
#[derive(Default)]
struct Owed {
    /// At most [`MOST_OWED`].
    writes: HashMap<Token, (StatusKey, Owing)>,
    /// As many as there are tenants.
    tenants: HashSet<Pseudonym>,
    everything: bool,
}

/// What there is to tell about a write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Owing {
    Begun,
    Settled,
    Unknown,
}

/// How far the log is known.
#[derive(Default)]
struct Position {
    epoch: Vec<u8>,
    number: Vec<u8>,
}

/// What an answer of the log was worth.
enum Answer {
    /// All of it is known.
    Whole,
    /// There is more of it.
    More,
    /// More writes are under way than can be learnt: it is to be asked again later.
    TooMany,
}

impl Fleet {
    /// What is kept is sealed with a key that is derived from `state_key`. No request that reads takes longer
    /// than `horizon`, and no write has an effect later than that after its end.
    pub(super) fn new(
        redis: Redis,
        state_key: &[u8; 32],
        pseudonyms: PseudonymKey,
        horizon: Duration,
    ) -> Self {
        let key = |name| format!("{}{{cache}}:{name}", redis.prefix()).into_bytes();
        let root = hmac::Key::new(hmac::HMAC_SHA256, state_key);
        let derived = hmac::sign(&root, b"dcams-gateway status seal v1");
        Self {
            shared: ["head", "log", "writes", "tenants"].map(key),
            sealing: hmac::Key::new(hmac::HMAC_SHA256, derived.as_ref()),
            redis,
            pseudonyms,
            horizon: AtomicU64::new(millis(horizon)),
            // The half that is random.
            node: name().last_chunk().copied().unwrap_or_default(),
            writes: AtomicU64::new(0),
            began: clock::instant(),
            heard: AtomicU64::new(0),
            owed: Arc::default(),
        }
    }

    /// Has requests take other times from now on.
    pub(super) fn set_horizon(&self, horizon: Duration) {
        self.horizon.store(millis(horizon), Ordering::Release);
    }

    /// Whether all that was announced `lag` before `now` is known here. To be asked before what is kept in
    /// this process is looked at.
    pub(super) fn is_in_touch(&self, now: Instant, lag: Duration) -> bool {
        let Some(micros) = self.heard.load(Ordering::Acquire).checked_sub(1) else {
            return false;
        };
        let asked = self.began + Duration::from_micros(micros);
        now.saturating_duration_since(asked) <= lag
    }

    /// What a tenant is called in [`Heard::TenantForgotten`].
    pub(super) fn name_of(&self, tenant: &TenantId) -> Pseudonym {
        self.pseudonyms.pseudonym(Purpose::Status, tenant, b"")
    }

    /// Announces a write that is about to be sent. Where Redis can't take it, the others don't know of it
    /// ([`Write::is_told`]); it is announced when that is possible.
    pub(super) async fn begin(&self, tenant: &TenantId, of: StatusKey) -> Write {
        let mut write = self.write(tenant, of, Owing::Unknown);
        match self.say_begun(&write).await {
            Ok(begun) => write.begun = Some(begun),
            Err(_) => owed(&self.owed).add(write.token, of, Owing::Begun),
        }
        write
    }

    /// Announces its end. What Redis can't take is owed.
    pub(super) async fn end(&self, mut write: Write, end: End<'_>) {
        let (unsaid, learnt) = match end {
            End::Settled(learnt) => (Owing::Settled, learnt),
            End::Unknown => (Owing::Unknown, None),
        };
        write.unsaid = Some(unsaid);
        let learnt = learnt.and_then(|learnt| self.sealed_end(&write, learnt).ok().flatten());
        if self
            .say_ended(write.token, write.of, unsaid, learnt)
            .await
            .is_ok()
        {
            write.unsaid = None;
            owed(&self.owed).writes.remove(&write.token);
        }
    }

    /// What is kept of a customer, in one round trip.
    ///
    /// # Errors
    /// Also while Redis does not know all that was done here: what it keeps may be from before that.
    pub(super) async fn look_up(
        &self,
        tenant: &TenantId,
        of: StatusKey,
    ) -> Result<Seen, StoreError> {
        if owed(&self.owed).is_anything() {
            return Err(StoreError::Unavailable);
        }
        let args = [
            name().to_vec(),
            self.name_of(tenant).to_bytes().to_vec(),
            new_salt()?,
        ];
        let asked = clock::instant();
        let answer = self.redis.invoke(&LOOK_UP, &self.keys(of), &args).await?;
        let at = clock::instant();
        let (epoch, time, salt, number, in_doubt, sealed, stamp, until): LookedUp = read(answer)?;
        let moment = Moment { epoch, time, at };
        let value = if sealed.is_empty() {
            None
        } else {
            // One that does not open is as good as none.
            let place = place(of, &moment.epoch, stamp, until);
            let sealer = self.sealer(tenant, &salt)?;
            let age = Duration::from_millis(time.saturating_sub(stamp)) + (at - asked);
            let opened = sealer.open(PLACE, &place, &sealed).ok();
            opened.map(|value| (value, age))
        };
        Ok(Seen {
            moment,
            number,
            salt,
            is_in_doubt: in_doubt > 0,
            value,
        })
    }

    /// Keeps what a read has found, unless something happened since the lookup. Returns whether it is kept.
    pub(super) async fn keep(
        &self,
        tenant: &TenantId,
        of: StatusKey,
        seen: &Seen,
        learnt: Learnt<'_>,
    ) -> Result<bool, StoreError> {
        let (moment, salt) = (&seen.moment, &seen.salt);
        let (sealed, stamp, until) = self.sealed(tenant, of, salt, moment, learnt)?;
        let args = [
            name().to_vec(),
            self.name_of(tenant).to_bytes().to_vec(),
            salt.clone(),
            moment.epoch.clone(),
            seen.number.clone(),
            text(moment.time),
            text(self.guard()),
            sealed,
            text(stamp),
            text(until),
        ];
        let answer = self.redis.invoke(&KEEP, &self.keys(of), &args).await?;
        read::<u8>(answer).map(|kept| kept > 0)
    }

    /// Has everybody forget a customer. Returns whether something was kept of it in Redis.
    ///
    /// # Errors
    /// Where Redis can't take it; it is owed then.
    pub(super) async fn forget(
        &self,
        tenant: &TenantId,
        of: StatusKey,
    ) -> Result<bool, StoreError> {
        let mut write = self.write(tenant, of, Owing::Settled);
        let kept = self
            .say_ended(write.token, of, Owing::Settled, None)
            .await?;
        write.unsaid = None;
        Ok(kept)
    }

    /// Has everybody forget a tenant's customers: what is kept of them can't be read any more.
    ///
    /// # Errors
    /// Where Redis can't take it; it is owed then.
    pub(super) async fn forget_tenant(&self, tenant: &TenantId) -> Result<(), StoreError> {
        let name = self.name_of(tenant);
        let told = self.say_tenant_forgotten(name).await;
        if told.is_err() {
            owed(&self.owed).tenants.insert(name);
        }
        told
    }

    /// Follows what the others do, and gives them what is owed, for as long as it is polled. `lag` may change;
    /// `act` is called for each thing in order, before anything counts as known.
    ///
    /// What this gateway announced is left out, also of the writes under way that follow
    /// [`Heard::Everything`].
    pub(super) async fn follow(&self, lag: impl Fn() -> Duration, act: impl Fn(Heard)) {
        let mut position = Position::default();
        let mut failing = false;
        loop {
            let (asked, lag) = (clock::instant(), lag());
            let answer = self.hear(&mut position, lag, &act).await;
            let answer = match answer {
                Ok(Answer::More) => continue,
                Ok(Answer::Whole) => self.pay().await.map(|()| {
                    let micros = asked.saturating_duration_since(self.began).as_micros();
                    let micros = u64::try_from(micros).unwrap_or(0);
                    self.heard
                        .store(micros.saturating_add(1), Ordering::Release);
                }),
                Ok(Answer::TooMany) => Err(StoreError::Unavailable),
                Err(error) => Err(error),
            };
            match &answer {
                Err(error) if !failing => tracing::warn!(
                    %error,
                    "what other gateways write is not learnt; no status is told from the cache soon"
                ),
                Ok(()) if failing => tracing::info!("what other gateways write is learnt again"),
                Ok(()) | Err(_) => {}
            }
            failing = answer.is_err();
            sleep_until(asked + (lag / ASKED).max(PAUSE)).await;
        }
    }

    /// Asks once what is new, and acts on it.
    async fn hear(
        &self,
        position: &mut Position,
        lag: Duration,
        act: &impl Fn(Heard),
    ) -> Result<Answer, StoreError> {
        let args = [
            name().to_vec(),
            position.epoch.clone(),
            position.number.clone(),
            text(count(PAGE)),
            text(count(MOST_WRITES)),
            text(millis(lag / 2)),
        ];
        let answer = self.redis.invoke(&FOLLOW, &self.shared, &args).await?;
        let (epoch, number, time, missed, entries, left): Followed = read(answer)?;
        if missed > 0 {
            act(Heard::Everything);
            for [member, till] in entries.as_chunks().0 {
                self.begun(member, till, time)?.into_iter().for_each(act);
            }
            if left > 0 {
                *position = Position::default();
                return Ok(Answer::TooMany);
            }
        } else {
            for entry in &entries {
                let Ok(heard) = self.understood(entry, time) else {
                    // A newer version wrote it: whatever it was, it is forgotten with everything else.
                    *position = Position::default();
                    return Ok(Answer::More);
                };
                heard.into_iter().for_each(act);
            }
        }
        *position = Position { epoch, number };
        Ok(if left > 0 {
            Answer::More
        } else {
            Answer::Whole
        })
    }

    /// What an entry of the log says, where it is another gateway's.
    fn understood(&self, entry: &[u8], time: u64) -> Result<Option<Heard>, StoreError> {
        let (kind, rest) = entry.split_first().ok_or(StoreError::Damaged)?;
        match kind {
            b'b' => {
                let parts = rest.split_at_checked(Pseudonym::LEN + NAME);
                let (member, till) = parts.ok_or(StoreError::Damaged)?;
                self.begun(member, till, time)
            }
            b'e' => {
                let (of, token) = member(rest)?;
                Ok(self.others(token, Heard::Ended(of, token)))
            }
            b't' => {
                let (token, name) = rest.split_first_chunk().ok_or(StoreError::Damaged)?;
                let name = Pseudonym::from_bytes(name).ok_or(StoreError::Damaged)?;
                Ok(self.others(Token(*token), Heard::TenantForgotten(name)))
            }
            _ => Err(StoreError::Damaged),
        }
    }

    fn begun(&self, bytes: &[u8], till: &[u8], time: u64) -> Result<Option<Heard>, StoreError> {
        let (of, token) = member(bytes)?;
        let till: Option<u64> = str::from_utf8(till).ok().and_then(|till| till.parse().ok());
        let left = till.ok_or(StoreError::Damaged)?.saturating_sub(time);
        let heard = Heard::Begun(of, token, Duration::from_millis(left));
        Ok(self.others(token, heard))
    }

    /// Tells Redis what is owed to it.
    async fn pay(&self) -> Result<(), StoreError> {
        let (everything, tenants, writes) = {
            let owed = owed(&self.owed);
            let tenants: Vec<Pseudonym> = owed.tenants.iter().copied().collect();
            let writes = owed.writes.iter();
            let writes: Vec<_> = writes.map(|(token, owing)| (*token, *owing)).collect();
            (owed.everything, tenants, writes)
        };
        if everything {
            let args = [name().to_vec()];
            // Whatever is owed from here on is owed anew.
            owed(&self.owed).everything = false;
            let told = self.redis.invoke(&FORGET_EVERYTHING, &self.shared, &args);
            let told = told.await;
            told.inspect_err(|_| owed(&self.owed).everything = true)?;
        }
        for name in tenants {
            self.say_tenant_forgotten(name).await?;
            owed(&self.owed).tenants.remove(&name);
        }
        for some in writes.chunks(TOGETHER) {
            let told = some
                .iter()
                .map(|(token, owing)| self.pay_write(*token, *owing));
            try_join_all(told).await?;
        }
        Ok(())
    }

    async fn pay_write(
        &self,
        token: Token,
        (of, owing): (StatusKey, Owing),
    ) -> Result<(), StoreError> {
        if owing == Owing::Begun {
            self.invoke_begin(of, token, None).await?;
        } else {
            self.say_ended(token, of, owing, None).await?;
        }
        // Its end may be owed by now. Where that was told meanwhile, its beginning came after it: the
        // customer is in doubt for longer than is needed.
        let mut owed = owed(&self.owed);
        if owed.writes.get(&token) == Some(&(of, owing)) {
            owed.writes.remove(&token);
        }
        Ok(())
    }

    fn new_token(&self) -> Token {
        let mut token = [0; NAME];
        let (node, count) = token.split_at_mut(self.node.len());
        node.copy_from_slice(&self.node);
        count.copy_from_slice(&self.writes.fetch_add(1, Ordering::Relaxed).to_be_bytes());
        Token(token)
    }

    /// Leaves out what this gateway did.
    fn others(&self, token: Token, heard: Heard) -> Option<Heard> {
        (!token.0.starts_with(&self.node)).then_some(heard)
    }

    fn write(&self, tenant: &TenantId, of: StatusKey, unsaid: Owing) -> Write {
        Write {
            of,
            tenant: tenant.clone(),
            token: self.new_token(),
            begun: None,
            unsaid: Some(unsaid),
            owed: Arc::clone(&self.owed),
        }
    }

    async fn say_begun(&self, write: &Write) -> Result<Begun, StoreError> {
        let tenant = Some(&write.tenant);
        let answer = self.invoke_begin(write.of, write.token, tenant).await?;
        let at = clock::instant();
        let (epoch, time, number, salt) = read(answer)?;
        let moment = Moment { epoch, time, at };
        Ok(Begun {
            moment,
            number,
            salt,
        })
    }

    async fn invoke_begin(
        &self,
        of: StatusKey,
        token: Token,
        tenant: Option<&TenantId>,
    ) -> Result<Value, StoreError> {
        let tenant = tenant.map(|tenant| self.name_of(tenant).to_bytes().to_vec());
        let args = [
            name().to_vec(),
            of.to_bytes().to_vec(),
            token.0.to_vec(),
            text(self.guard()),
            tenant.unwrap_or_default(),
            new_salt()?,
        ];
        self.redis.invoke(&BEGIN, &self.keys(of), &args).await
    }

    /// Returns whether something was kept until now.
    async fn say_ended(
        &self,
        token: Token,
        of: StatusKey,
        owing: Owing,
        learnt: Option<[Vec<u8>; 7]>,
    ) -> Result<bool, StoreError> {
        let doubt = match owing {
            Owing::Settled => 0,
            Owing::Begun | Owing::Unknown => self.horizon.load(Ordering::Acquire),
        };
        let args = [
            name().to_vec(),
            of.to_bytes().to_vec(),
            token.0.to_vec(),
            text(doubt),
            text(self.guard()),
        ];
        let args = [&args[..], &learnt.unwrap_or_default()].concat();
        let answer = self.redis.invoke(&END, &self.keys(of), &args).await?;
        read::<u8>(answer).map(|kept| kept > 0)
    }

    async fn say_tenant_forgotten(&self, name: Pseudonym) -> Result<(), StoreError> {
        let args = [
            self::name().to_vec(),
            self.new_token().0.to_vec(),
            name.to_bytes().to_vec(),
        ];
        let told = self.redis.invoke(&FORGET_TENANT, &self.shared, &args);
        told.await.map(drop)
    }

    /// What the end of a write says of what was learnt by it; nothing where its beginning is not known.
    fn sealed_end(
        &self,
        write: &Write,
        learnt: Learnt<'_>,
    ) -> Result<Option<[Vec<u8>; 7]>, StoreError> {
        let Some(begun) = &write.begun else {
            return Ok(None);
        };
        let Begun {
            moment,
            number,
            salt,
        } = begun;
        let (sealed, stamp, until) = self.sealed(&write.tenant, write.of, salt, moment, learnt)?;
        Ok(Some([
            sealed,
            moment.epoch.clone(),
            number.clone(),
            salt.clone(),
            self.name_of(&write.tenant).to_bytes().to_vec(),
            text(stamp),
            text(until),
        ]))
    }

    /// A value as it is kept, its time and until when it is, on Redis's clock.
    fn sealed(
        &self,
        tenant: &TenantId,
        of: StatusKey,
        salt: &[u8],
        moment: &Moment,
        learnt: Learnt<'_>,
    ) -> Result<(Vec<u8>, u64, u64), StoreError> {
        // Rather too early than too late: so much has passed since at least.
        let passed = clock::instant().saturating_duration_since(moment.at);
        let now = moment.time.saturating_add(millis(passed));
        let stamp = now.saturating_sub(millis(learnt.age));
        let until = now.saturating_add(millis(learnt.ttl));
        let place = place(of, &moment.epoch, stamp, until);
        let sealed = self.sealer(tenant, salt)?.seal(PLACE, &place, learnt.value);
        let sealed = sealed.map_err(|_| StoreError::Unavailable)?;
        Ok((sealed, stamp, until))
    }

    /// A tenant's values have a key of their own, which can't be made any more without the salt.
    fn sealer(&self, tenant: &TenantId, salt: &[u8]) -> Result<Sealer, StoreError> {
        let mut context = hmac::Context::with_key(&self.sealing);
        // No name holds a NUL.
        context.update(tenant.as_str().as_bytes());
        context.update(b"\0");
        context.update(salt);
        let mut secret = Zeroizing::new([0; 32]);
        secret.copy_from_slice(context.sign().as_ref());
        Sealer::derive(&secret).map_err(|_| StoreError::Unavailable)
    }

    fn keys(&self, of: StatusKey) -> [Vec<u8>; 5] {
        let mut key = format!("{}{{cache}}:status:", self.redis.prefix()).into_bytes();
        key.extend_from_slice(&of.to_bytes());
        let [head, log, writes, tenants] = self.shared.clone();
        [head, log, writes, tenants, key]
    }

    /// For how long it is remembered that something happened, in milliseconds: longer than any read takes; and
    /// for how long a write without an end is under way, and may have an effect then.
    fn guard(&self) -> u64 {
        self.horizon.load(Ordering::Acquire).saturating_mul(2)
    }
}

impl Write {
    /// Whether the others know that it has begun.
    pub(super) const fn is_told(&self) -> bool {
        self.begun.is_some()
    }
}

impl Drop for Write {
    fn drop(&mut self) {
        if let Some(unsaid) = self.unsaid {
            owed(&self.owed).add(self.token, self.of, unsaid);
        }
    }
}

impl Owed {
    fn is_anything(&self) -> bool {
        self.everything || !self.writes.is_empty() || !self.tenants.is_empty()
    }

    fn add(&mut self, token: Token, of: StatusKey, owing: Owing) {
        if self.writes.len() >= MOST_OWED && !self.writes.contains_key(&token) {
            self.everything = true;
            // What everybody has forgotten is not kept before it is asked for anew; what is not settled
            // has to be known then.
            self.writes.retain(|_, (_, owing)| *owing != Owing::Settled);
            if owing == Owing::Settled || self.writes.len() >= MOST_OWED {
                return;
            }
        }
        self.writes.insert(token, (of, owing));
    }
}

/// What the scripts return.
type LookedUp = (Vec<u8>, u64, Vec<u8>, Vec<u8>, u8, Vec<u8>, u64, u64);
type Followed = (Vec<u8>, Vec<u8>, u64, u8, Vec<Vec<u8>>, u64);

fn read<T: FromRedisValue>(answer: Value) -> Result<T, StoreError> {
    redis::from_redis_value(answer).map_err(|_| StoreError::Damaged)
}

fn member(bytes: &[u8]) -> Result<(StatusKey, Token), StoreError> {
    let parts = bytes.split_at_checked(Pseudonym::LEN);
    let (of, token) = parts.ok_or(StoreError::Damaged)?;
    let of = StatusKey::from_bytes(of).ok_or(StoreError::Damaged)?;
    let token = token.try_into().map_err(|_| StoreError::Damaged)?;
    Ok((of, Token(token)))
}

/// For what a value is sealed: nobody can give it to another customer, or make it younger.
fn place(of: StatusKey, epoch: &[u8], stamp: u64, until: u64) -> Vec<u8> {
    let (stamp, until) = (stamp.to_be_bytes(), until.to_be_bytes());
    [&of.to_bytes()[..], &stamp, &until, epoch].concat()
}

fn owed(owed: &Mutex<Owed>) -> MutexGuard<'_, Owed> {
    owed.lock().unwrap_or_else(PoisonError::into_inner)
}

fn name() -> [u8; NAME] {
    Uuid::now_v7().into_bytes()
}

fn new_salt() -> Result<Vec<u8>, StoreError> {
    let mut salt = vec![0; NAME];
    rand::fill(&mut salt).map_err(|_| StoreError::Unavailable)?;
    Ok(salt)
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

fn count(number: usize) -> u64 {
    u64::try_from(number).unwrap_or(u64::MAX)
}

fn text(number: u64) -> Vec<u8> {
    number.to_string().into_bytes()
}
