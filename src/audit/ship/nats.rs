//! Publishes lines to a stream of NATS (`JetStream`), each as a message that the stream stores once.
//!
//! Invariants: a batch was taken when the server has acknowledged that each of its lines is stored; after
//! a failure the connection is given up and opened anew, so nothing waits in the library's memory. All of
//! it takes `timeout` at most.

use std::time::Duration;

use async_nats::{
    ConnectError, ConnectErrorKind, ConnectOptions,
    jetstream::{
        self, Context,
        context::{PublishError, PublishErrorKind},
        message::PublishMessage,
    },
};
use rustls::ClientConfig;
use tokio::time::timeout;
use tracing::{instrument::WithSubscriber as _, subscriber::NoSubscriber};

use super::{
    ShipSetupError,
    batch::Slice,
    failure::{Failure, NotTaken},
    settings::{ShipSettings, ShipToken, Subject},
};
use crate::{endpoint::Endpoint, tls};

/// The way to one stream.
pub(super) struct Stream {
    server: String,
    encrypted: bool,
    tls: ClientConfig,
    token: Option<ShipToken>,
    subject: Subject,
    timeout: Duration,
    connected: Option<Context>,
}

impl Stream {
    /// Prepares to connect; sends nothing.
    pub(super) fn new(
        settings: &ShipSettings,
        server: &Endpoint,
        subject: &Subject,
    ) -> Result<Self, ShipSetupError> {
        let encrypted = server.is_https();
        let scheme = if encrypted { "tls" } else { "nats" };
        let authority = server.uri().authority().ok_or(ShipSetupError::Client)?;
        Ok(Self {
            server: format!("{scheme}://{authority}"),
            encrypted,
            tls: tls::client_config(encrypted, &settings.roots)?,
            token: settings.token.clone(),
            subject: subject.clone(),
            timeout: settings.timeout,
            connected: None,
        })
    }

    /// Sends lines. They were taken where this says so, and some may have been where not.
    pub(super) async fn send(&mut self, lines: Slice<'_>) -> Result<(), NotTaken> {
        let context = self.connected.take();
        let published = timeout(self.timeout, self.publish(context, lines)).await;
        let context = published.unwrap_or(Err(Failure::TimedOut))?;
        self.connected = Some(context);
        Ok(())
    }

    async fn publish(
        &self,
        context: Option<Context>,
        lines: Slice<'_>,
    ) -> Result<Context, Failure> {
        let context = match context {
            Some(context) => context,
            None => self.connect().await?,
        };
        let mut waiting = Vec::with_capacity(lines.len());
        for (seq, line) in lines.each() {
            let message = PublishMessage::build()
                // The stream drops one that it has (`duplicate_window`).
                .message_id(format!("{}:{seq}", lines.node()))
                .payload(line);
            let sent = context.send_publish(self.subject.as_str().to_owned(), message);
            waiting.push(sent.await.map_err(of_publishing)?);
        }
        for stored in waiting {
            stored.await.map_err(of_publishing)?;
        }
        Ok(context)
    }

    async fn connect(&self) -> Result<Context, Failure> {
        let mut options = ConnectOptions::new()
            .name("dcams-gateway")
            .require_tls(self.encrypted)
            .tls_client_config(self.tls.clone())
            .connection_timeout(self.timeout)
            // Others that the server names are not those that were configured.
            .ignore_discovered_servers()
            .max_reconnects(1);
        if let Some(token) = &self.token {
            options = options.token(token.plain());
        }
        // What the library logs has the server's own words in it.
        let connecting = options
            .connect(self.server.as_str())
            .with_subscriber(NoSubscriber::default());
        let client = connecting.await.map_err(|error| of_connecting(&error))?;
        Ok(jetstream::new(client))
    }
}

fn of_connecting(error: &ConnectError) -> Failure {
    if let Some(failure) = Failure::of_tls(error) {
        return failure;
    }
    match error.kind() {
        ConnectErrorKind::Authentication | ConnectErrorKind::AuthorizationViolation => {
            Failure::Unauthorized
        }
        ConnectErrorKind::Tls => Failure::Tls,
        ConnectErrorKind::TimedOut => Failure::TimedOut,
        ConnectErrorKind::Dns
        | ConnectErrorKind::Io
        | ConnectErrorKind::MaxReconnects
        | ConnectErrorKind::ServerParse => Failure::Unreachable,
    }
}

#[expect(clippy::needless_pass_by_value, reason = "as `map_err` hands it over")]
fn of_publishing(error: PublishError) -> Failure {
    match error.kind() {
        PublishErrorKind::StreamNotFound => Failure::NoStream,
        PublishErrorKind::TimedOut => Failure::TimedOut,
        PublishErrorKind::BrokenPipe => Failure::Interrupted,
        PublishErrorKind::MaxPayloadExceeded => Failure::Refused,
        PublishErrorKind::MaxAckPending
        | PublishErrorKind::Other
        | PublishErrorKind::WrongLastMessageId
        | PublishErrorKind::WrongLastSequence => Failure::NotStored,
    }
}
