//! How a command gets at the state: by the gateway that runs, or in the store itself.
//!
//! The gateway that answers on the configuration's admin listener is asked first: a relative
//! `state.path` leads elsewhere from another folder, and a second state would be made there without a
//! word. Only where none answers is the store opened here, and the command says which. In Redis it may be
//! open beside gateways of other machines.
//!
//! Invariant: what is done here is in the audit trail as what a gateway does is; who cannot write there
//! does nothing.

use std::{net::IpAddr, path, sync::Arc, time::Duration};

use reqwest::{Method, StatusCode, Url, redirect};
use secrecy::{ExposeSecret, SecretString};
use serde_json::Value;

use super::{CommandError, Session, complain};
use crate::{
    admin::AdminSettings,
    audit::{
        self, AuditSettings, AuditTrail,
        operator::{Actor, NAME_HEADER, Scribe, Via},
    },
    config::Config,
    ident::OperatorName,
    store::{Backend, OpenError, Store},
};

/// Longer than the gateway's own bound of an update.
const TIMEOUT: Duration = Duration::from_secs(30);

/// How long a gateway may take to say that it is there.
const PROBE: Duration = Duration::from_secs(5);

/// Most bytes of an answer: 50,000 revocations and room.
const MAX_ANSWER: usize = 32 * 1024 * 1024;

/// Where the state is.
pub(super) enum Reach {
    /// Here. Nobody else has it, unless it is in Redis.
    Store(Store, Books),
    /// In a gateway that runs.
    Running(Operator),
}

/// The audit trail, where a command writes it. It is closed when the command has ended.
pub(super) struct Books {
    audit: Arc<AuditTrail>,
    actor: Actor,
}

impl Books {
    fn open(
        config: &Config,
        operator: &Operator,
        session: &mut Session,
    ) -> Result<Self, CommandError> {
        let settings = AuditSettings {
            via: Some(Via::Cli),
            ..config.audit.clone()
        };
        let audit = match AuditTrail::open(&settings, None) {
            Ok(audit) => Arc::new(audit),
            Err(audit::OpenError::Locked(folder)) => return Err(operator.elsewhere(&folder)),
            Err(error) => return Err(CommandError::Trail(error)),
        };
        session.audit = Some(Arc::clone(&audit));
        let actor = Actor::at_cli(session.operator.clone());
        Ok(Self { audit, actor })
    }

    /// What writes down what is done.
    pub(super) fn scribe(&self) -> Scribe<'_> {
        Scribe::new(&self.audit, &self.actor)
    }
}

/// Where what a command does besides the state is written down.
pub(super) enum Record {
    /// Here. Nobody else writes there.
    Here(Books),
    /// By a gateway that runs, which also does it.
    Running(Operator),
}

impl Record {
    pub(super) async fn open(config: &Config, session: &mut Session) -> Result<Self, CommandError> {
        let operator = Operator::new(&config.admin, session)?;
        if operator.answers().await {
            return Ok(Self::Running(operator));
        }
        Books::open(config, &operator, session).map(Self::Here)
    }
}

impl Reach {
    pub(super) async fn open(config: &Config, session: &mut Session) -> Result<Self, CommandError> {
        let operator = Operator::new(&config.admin, session)?;
        if operator.answers().await {
            return Ok(Self::Running(operator));
        }
        // First: it is refused to who is not its owner, before a state of his own is made.
        let books = Books::open(config, &operator, session)?;
        let Backend::Embedded { path } = &config.state.backend else {
            let store = Store::open(&config.state).await?;
            complain(&format!(
                "note: no gateway answers at {}; working on the state in Redis, which others may share",
                operator.base
            ));
            return Ok(Self::Store(store, books));
        };
        let folder = path::absolute(path).unwrap_or_else(|_| path.clone());
        let new = if folder.exists() { "" } else { "new " };
        match Store::open(&config.state).await {
            Ok(store) => {
                complain(&format!(
                    "note: no gateway answers at {}; working on the {new}state in {}",
                    operator.base,
                    folder.display()
                ));
                Ok(Self::Store(store, books))
            }
            Err(OpenError::InUse(_)) => Err(operator.unreachable()),
            Err(error) => Err(CommandError::State(error)),
        }
    }
}

/// An operator's client of the admin listener.
pub(super) struct Operator {
    client: reqwest::Client,
    base: Url,
    token: Option<SecretString>,
    name: Option<OperatorName>,
}

impl Operator {
    pub(super) fn new(admin: &AdminSettings, session: &Session) -> Result<Self, CommandError> {
        let mut address = admin.listen;
        if address.ip().is_unspecified() {
            address.set_ip(match address.ip() {
                IpAddr::V4(_) => std::net::Ipv4Addr::LOCALHOST.into(),
                IpAddr::V6(_) => std::net::Ipv6Addr::LOCALHOST.into(),
            });
        }
        let unusable =
            || CommandError::Operator("admin.listen is no address that can be asked".into());
        let client = reqwest::Client::builder()
            .no_proxy()
            .redirect(redirect::Policy::none())
            .timeout(TIMEOUT)
            .build();
        Ok(Self {
            client: client.map_err(|_| unusable())?,
            base: Url::parse(&format!("http://{address}/")).map_err(|_| unusable())?,
            token: admin.token.clone(),
            name: session.operator.clone(),
        })
    }

    /// The gateway that runs on this configuration; an error where none answers.
    pub(super) async fn reach(
        admin: &AdminSettings,
        session: &Session,
    ) -> Result<Self, CommandError> {
        let operator = Self::new(admin, session)?;
        if operator.answers().await {
            return Ok(operator);
        }
        Err(CommandError::Operator(format!(
            "no gateway answers at {}: start it, or set admin.listen to that of the one that runs",
            operator.base
        )))
    }

    /// Where it is asked.
    pub(super) const fn base(&self) -> &Url {
        &self.base
    }

    /// Whether a gateway is there.
    pub(super) async fn answers(&self) -> bool {
        let Ok(url) = self.base.join("livez") else {
            return false;
        };
        let request = self.client.get(url).timeout(PROBE);
        match request.send().await {
            Ok(response) => response.text().await.is_ok_and(|text| text == "live\n"),
            Err(_) => false,
        }
    }

    fn unreachable(&self) -> CommandError {
        CommandError::Operator(format!(
            "a process has the state open, but no gateway answers at {}: set admin.listen to that \
             gateway's, or stop the process",
            self.base
        ))
    }

    fn elsewhere(&self, folder: &path::Path) -> CommandError {
        CommandError::Operator(format!(
            "a process writes the audit trail in {}, but no gateway answers at {}: set admin.listen to that \
             gateway's, or try again when the process has ended; nothing was done",
            folder.display(),
            self.base
        ))
    }

    /// Asks the gateway; its answer, or its own words on why not.
    pub(super) async fn ask(
        &self,
        method: Method,
        path: &str,
        body: Option<&Value>,
    ) -> Result<Value, CommandError> {
        let unreachable = |_| {
            CommandError::Operator(format!(
                "the gateway at {} does not answer any more: look at it, then try again",
                self.base
            ))
        };
        let url = self.base.join(path).unwrap_or_else(|_| self.base.clone());
        let mut request = self.client.request(method, url);
        if let Some(token) = &self.token {
            request = request.bearer_auth(expose(token));
        }
        if let Some(name) = &self.name {
            request = request.header(NAME_HEADER, name.as_str());
        }
        if let Some(body) = body {
            request = request.json(body);
        }
        let mut response = request.send().await.map_err(unreachable)?;
        let status = response.status();
        let mut text = Vec::new();
        while let Some(piece) = response.chunk().await.map_err(unreachable)? {
            if text.len().saturating_add(piece.len()) > MAX_ANSWER {
                return Err(CommandError::Operator(
                    "the gateway's answer is too long".into(),
                ));
            }
            text.extend_from_slice(&piece);
        }
        let answer: Value = serde_json::from_slice(&text).unwrap_or_default();
        if status.is_success() {
            return Ok(answer);
        }
        let detail = answer.get("detail").and_then(Value::as_str);
        Err(CommandError::Operator(match detail {
            Some(detail) => detail.to_owned(),
            None if status == StatusCode::UNAUTHORIZED => format!(
                "the gateway at {} wants another admin token: set admin.token to that gateway's",
                self.base
            ),
            None => format!("the gateway at {} answers {status}", self.base),
        }))
    }
}

#[expect(
    clippy::disallowed_methods,
    reason = "sent to the gateway's own admin listener"
)]
fn expose(token: &SecretString) -> &str {
    token.expose_secret()
}
