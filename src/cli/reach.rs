//! How a command gets at the state: the store's file, or the gateway that has it open.
//!
//! Whoever holds the file decides: while a gateway runs, its admin listener is asked; otherwise the
//! file is opened here. So a command means the same thing either way, and never waits for a lock.

use std::{net::IpAddr, time::Duration};

use reqwest::{Method, Url, redirect};
use secrecy::{ExposeSecret, SecretString};
use serde_json::Value;

use super::CommandError;
use crate::{
    admin::AdminSettings,
    config::Config,
    store::{OpenError, Store},
};

/// Longer than the gateway's own bound of an update.
const TIMEOUT: Duration = Duration::from_secs(30);

/// Most bytes of an answer: 50,000 revocations and room.
const MAX_ANSWER: usize = 32 * 1024 * 1024;

/// Where the state is.
pub(super) enum Reach {
    /// Here: nobody else has it.
    Store(Store),
    /// In a gateway that runs.
    Running(Operator),
}

impl Reach {
    pub(super) fn open(config: &Config) -> Result<Self, CommandError> {
        match Store::open(&config.state_path, &config.state_key) {
            Ok(store) => Ok(Self::Store(store)),
            Err(OpenError::InUse(_)) => Operator::new(&config.admin).map(Self::Running),
            Err(error) => Err(CommandError::State(error)),
        }
    }
}

/// An operator's client of the admin listener.
pub(super) struct Operator {
    client: reqwest::Client,
    base: Url,
    token: Option<SecretString>,
}

impl Operator {
    fn new(admin: &AdminSettings) -> Result<Self, CommandError> {
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
        })
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
                "a process has the state open, but {} does not answer: set admin.listen to that \
                 gateway's, or stop the process",
                self.base
            ))
        };
        let url = self.base.join(path).unwrap_or_else(|_| self.base.clone());
        let mut request = self.client.request(method, url);
        if let Some(token) = &self.token {
            request = request.bearer_auth(expose(token));
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
