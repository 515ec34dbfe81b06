//! DCAMS's credentials from `HashiCorp` Vault (or `OpenBao`): secrets of a KV engine, version 2.
//!
//! Invariants: a pair is read in one piece, so a user never meets another version's password; one
//! login serves all who wait for it, and logins that fail are paused for all; a token is replaced by a
//! newer one and never taken away, whatever fails; and nothing that Vault holds or answers is logged.
//!
//! `client` talks to the server, `wire` reads its answers, `tenure` decides when the token is renewed
//! and when there is a login.

mod client;
mod error;
mod proof;
mod settings;
mod tenure;
mod wire;

use std::{
    collections::HashSet,
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use aws_lc_rs::rand;
use secrecy::SecretString;
use thiserror::Error;
use tokio::{
    sync::{Notify, Semaphore},
    time::{sleep_until, timeout},
};
use tokio_util::sync::CancellationToken;

use self::{
    client::Client,
    tenure::{Dice, Grant, Step, Tenure},
    wire::Login,
};
pub use self::{
    error::{Part, VaultError},
    settings::{
        ApiPath, AuthToken, NotAPath, UnusableToken, VaultAuth, VaultPath, VaultPathError,
        VaultSettings,
    },
};
use crate::{
    clock,
    tls::{NoClient, UnusableRoot},
};

/// A pair as one version of a secret holds it.
#[derive(Debug)]
pub struct VaultPair {
    /// DCAMS's user.
    pub user: SecretString,
    /// Its password.
    pub pass: SecretString,
    /// The secret's version.
    pub version: u64,
}

/// One Vault, as the gateway is known to it.
pub struct Vault {
    settings: VaultSettings,
    client: Client,
    /// A lock, because readers and the task decide on one state. It is held for a few comparisons and
    /// never across an await.
    state: Mutex<State>,
    /// Whose turn it is to log in.
    turn: Semaphore,
    /// There is another token.
    changed: Notify,
}

struct State {
    token: Option<Token>,
    tenure: Tenure,
    /// What this token could read. As large as the configuration has paths.
    proven: HashSet<VaultPath>,
    /// How the last login failed, if it did.
    failure: Option<VaultError>,
}

/// A token, and which one of all that there were.
#[derive(Clone)]
struct Token {
    number: u64,
    text: AuthToken,
}

impl Vault {
    /// Prepares to read; nothing is sent.
    pub fn new(settings: VaultSettings) -> Result<Self, VaultSetupError> {
        let (token, tenure) = match &settings.auth {
            VaultAuth::Token(text) => {
                let text = text.clone();
                (Some(Token { number: 1, text }), Tenure::of_given_token())
            }
            VaultAuth::AppRole { .. } | VaultAuth::Kubernetes { .. } => (None, Tenure::of_login()),
        };
        let state = State {
            token,
            tenure,
            proven: HashSet::new(),
            failure: None,
        };
        Ok(Self {
            client: Client::new(&settings)?,
            settings,
            state: Mutex::new(state),
            turn: Semaphore::new(1),
            changed: Notify::new(),
        })
    }

    /// How often secrets are to be read again.
    pub const fn refresh(&self) -> Duration {
        self.settings.refresh
    }

    /// Reads the current version of one secret; logs in first where there is no token. Takes six
    /// times `timeout` at most: to wait for another's login, to log in and to read, twice.
    pub async fn read(&self, path: &VaultPath) -> Result<VaultPair, VaultError> {
        let known = self.state().token.clone();
        let token = match known {
            Some(token) => token,
            None => self.log_in(0).await?,
        };
        let result = self.read_with(&token, path).await;
        if !matches!(result, Err(VaultError::Forbidden)) || !self.may_help(&token, path) {
            return result;
        }
        // The token may have been revoked, or the server may be another one than it was.
        let token = self.log_in(token.number).await?;
        self.read_with(&token, path).await
    }

    async fn read_with(&self, token: &Token, path: &VaultPath) -> Result<VaultPair, VaultError> {
        let pair = self.client.read(&token.text, path).await?;
        let mut state = self.state();
        if state.is_current(token.number) && !state.proven.contains(path) {
            state.proven.insert(path.clone());
        }
        Ok(pair)
    }

    /// Whether there is, or may be, a better token than the one that was refused this path.
    fn may_help(&self, refused: &Token, path: &VaultPath) -> bool {
        let state = self.state();
        let proven = state.proven.contains(path);
        !state.is_current(refused.number) || state.tenure.may_help(proven, clock::instant())
    }

    /// Brings a newer token than the one of this number. All who ask while a login is under way get
    /// what that one brings, an error too: there is a pause after that.
    async fn log_in(&self, than: u64) -> Result<Token, VaultError> {
        // A login has this timeout itself, and may have been under way for some of it.
        let turn = timeout(self.settings.timeout, self.turn.acquire()).await;
        let Ok(Ok(_turn)) = turn else {
            return Err(VaultError::TimedOut);
        };
        {
            let state = self.state();
            let newer = state.token.as_ref().filter(|token| token.number > than);
            if let Some(token) = newer {
                return Ok(token.clone());
            }
            if !state.tenure.may_log_in(clock::instant()) {
                // There always is one in a pause; without it no login is possible at all.
                return Err(state.failure.unwrap_or(VaultError::Forbidden));
            }
        }
        match self.send_login().await {
            Ok(login) => Ok(self.accept(login)),
            Err(error) => Err(self.bear(error)),
        }
    }

    async fn send_login(&self) -> Result<Login, VaultError> {
        let (mount, body) = match &self.settings.auth {
            VaultAuth::AppRole {
                mount,
                role_id,
                secret_id,
            } => (mount, proof::of_app_role(role_id, secret_id)),
            VaultAuth::Kubernetes {
                mount,
                role,
                jwt_file,
            } => (mount, proof::of_service_account(role, jwt_file)?),
            // It is never asked for: a given token cannot be replaced.
            VaultAuth::Token(_) => return Err(VaultError::Forbidden),
        };
        self.client.log_in(mount, body).await
    }

    fn accept(&self, login: Login) -> Token {
        let Login { token, grant } = login;
        let mut state = self.state();
        let number = state.token.as_ref().map_or(0, |token| token.number);
        let token = Token {
            number: number.saturating_add(1),
            text: token,
        };
        let failed = state.tenure.logged_in(grant, clock::instant(), dice());
        state.token = Some(token.clone());
        state.proven.clear();
        state.failure = None;
        drop(state);
        tracing::info!(
            lease_s = grant.ttl.map(|ttl| ttl.as_secs()),
            renewable = grant.renewable,
            failed,
            "logged in to Vault"
        );
        self.changed.notify_one();
        token
    }

    fn bear(&self, error: VaultError) -> VaultError {
        let mut state = self.state();
        let failures = state.tenure.login_failed(clock::instant(), dice());
        state.failure = Some(error);
        let none = state.token.is_none();
        drop(state);
        let reason = error.reason();
        if failures == 1 {
            tracing::warn!(
                reason,
                consequence = if none { "no secret can be read" } else { "the last token is kept" },
                advice = %error,
                "the login to Vault failed; it is repeated"
            );
        } else {
            tracing::debug!(reason, failures, "the login to Vault failed again");
        }
        error
    }

    /// Renews the token while it can be renewed, and logs in anew where not, until `stop`. One task
    /// runs this. Without it secrets are read, until the token ends.
    pub async fn keep_token(self: Arc<Self>, stop: CancellationToken) {
        loop {
            // By itself: the lock must be gone before anything is awaited.
            let step = self.state().tenure.next(clock::instant());
            tokio::select! {
                () = stop.cancelled() => return,
                () = self.take(step) => {}
            }
        }
    }

    async fn take(&self, step: Step) {
        match step {
            Step::LogIn => {
                let number = self.state().token.as_ref().map_or(0, |token| token.number);
                // How it went is in the state, and was logged.
                self.log_in(number).await.ok();
            }
            Step::LookUp => self.keep_up(Upkeep::LookUp).await,
            Step::Renew => self.keep_up(Upkeep::Renew).await,
            Step::Wait(Some(until)) => tokio::select! {
                () = sleep_until(until) => {}
                () = self.changed.notified() => {}
            },
            Step::Wait(None) => self.changed.notified().await,
            Step::Warn { left } => {
                self.state().tenure.warned();
                tracing::warn!(
                    left_s = left.as_secs(),
                    "the token that Vault is read with ends and cannot be renewed (any more); put a \
                     new one in its place and reload"
                );
            }
        }
    }

    /// Asks what Vault knows of the token, or renews it.
    async fn keep_up(&self, upkeep: Upkeep) {
        let Some(token) = self.state().token.clone() else {
            return;
        };
        let result = match upkeep {
            Upkeep::LookUp => self.client.look_up(&token.text).await,
            Upkeep::Renew => self.client.renew(&token.text).await,
        };
        let mut state = self.state();
        // A reader may have logged in meanwhile, and this is about the token before.
        if !state.is_current(token.number) {
            return;
        }
        let (now, dice, tenure) = (clock::instant(), dice(), &mut state.tenure);
        let failures = match (upkeep, result) {
            (Upkeep::LookUp, Ok(grant)) => tenure.looked_up(grant, now, dice),
            (Upkeep::LookUp, Err(_)) => tenure.look_up_failed(now, dice),
            (Upkeep::Renew, Ok(grant)) => tenure.renewed(grant, now, dice),
            (Upkeep::Renew, Err(error)) => {
                tenure.renewal_failed(error == VaultError::Forbidden, now, dice)
            }
        };
        drop(state);
        report(upkeep, result, failures);
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn is_current(&self, number: u64) -> bool {
        self.token
            .as_ref()
            .is_some_and(|token| token.number == number)
    }
}

impl fmt::Debug for Vault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Vault")
            .field("settings", &self.settings)
            .finish_non_exhaustive()
    }
}

/// What is done for a token that is there.
#[derive(Debug, Clone, Copy)]
enum Upkeep {
    LookUp,
    Renew,
}

/// Logs what has changed, once.
fn report(upkeep: Upkeep, result: Result<Grant, VaultError>, failures: u32) {
    match (result, failures) {
        (Ok(grant), 0) => {
            let lease_s = grant.ttl.map(|ttl| ttl.as_secs());
            tracing::debug!(?upkeep, lease_s, "the lease of Vault's token is known");
        }
        (Ok(grant), failed) => {
            let lease_s = grant.ttl.map(|ttl| ttl.as_secs());
            tracing::info!(?upkeep, lease_s, failed, "Vault renews its token again");
        }
        (Err(error), 1) => tracing::warn!(
            ?upkeep,
            reason = error.reason(),
            consequence = "the token is used until its end",
            "the lease of Vault's token was not renewed; it is tried again, or there is a new login"
        ),
        (Err(error), failures) => {
            tracing::debug!(
                ?upkeep,
                reason = error.reason(),
                failures,
                "not renewed again"
            );
        }
    }
}

/// Only evens out when gateways call, so a source of chance that fails does no harm.
fn dice() -> Dice {
    let mut bytes = [0; 2];
    rand::fill(&mut bytes).ok();
    Dice(u16::from_le_bytes(bytes))
}

/// Why secrets cannot be read at all.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum VaultSetupError {
    /// The client was not built.
    #[error("the client that reads from Vault cannot be built")]
    Client,
    /// A root is not usable.
    #[error(transparent)]
    Root(#[from] UnusableRoot),
}

impl From<NoClient> for VaultSetupError {
    fn from(error: NoClient) -> Self {
        match error {
            NoClient::Build => Self::Client,
            NoClient::Root(root) => Self::Root(root),
        }
    }
}
