//! Opens connections: name lookup, TCP, TLS, login, a sign of life.
//!
//! Invariant: a connection that leaves here has answered, under the login of the configuration, in
//! less than `connect_timeout`. Nothing that is said of a failure holds a secret or a server's own words.

use std::sync::Arc;

use redis::{
    AsyncConnectionConfig, Cmd, RedisConnectionInfo, RedisError, Value, aio::MultiplexedConnection,
};
use rustls::ClientConfig;
use rustls_pki_types::ServerName;
use thiserror::Error;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
    sync::Notify,
    time::timeout,
};
use tokio_rustls::TlsConnector;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::settings::{Login, RedisSettings, Server};
use crate::tls::{self, UnusableRoot};

/// Why a server cannot be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum Fault {
    /// The cluster has nobody for a part of the keys.
    #[error("the cluster does not cover all of its slots: look at CLUSTER INFO")]
    Gaps,
    /// It is not one of a cluster.
    #[error("it is not a cluster: write mode = \"single\", or name nodes of one")]
    NoCluster,
    /// No sentinel knows the name.
    #[error("no sentinel knows a master of the name of `master`")]
    NoMaster,
    /// The name has no address.
    #[error("its name cannot be resolved")]
    NoSuchHost,
    /// It starts, and reads what it has stored.
    #[error("it is loading its data")]
    Loading,
    /// The login is wrong, or it wants one.
    #[error("it refuses `user` and `password`")]
    Login,
    /// The user may not do what is needed.
    #[error("its user lacks rights: docs/REDIS.md lists what is needed")]
    Rights,
    /// It is a copy of another one.
    #[error("it is a replica, which takes no writes: name the master")]
    Replica,
    /// It answers something else.
    #[error("it does not answer as Redis does")]
    Strange,
    /// Its certificate is not trusted, or it speaks no TLS.
    #[error("no TLS with it: look at its certificate, at `ca`, and whether it is rediss://")]
    Tls,
    /// It does not answer in time.
    #[error("it does not answer within `connect_timeout`")]
    TooSlow,
    /// Nobody listens there, or the connection broke.
    #[error("it cannot be reached")]
    Unreachable,
}

/// An open connection. When the last one that holds it lets go, it is closed.
pub(super) struct Live {
    pub(super) connection: MultiplexedConnection,
    /// Cancelled when the connection has ended, or is not to be used any more.
    pub(super) broken: CancellationToken,
    /// Told of each answer that came too late, or did not come.
    pub(super) late: Notify,
}

impl Live {
    /// One command, without a bound of its own.
    pub(super) async fn ask(&self, command: &Cmd) -> Result<Value, RedisError> {
        let mut connection = self.connection.clone();
        // What a server says is wrong comes as a value.
        connection
            .send_packed_command(command)
            .await?
            .extract_error()
    }
}

/// Opens connections as the configuration says.
pub(super) struct Dialer {
    settings: Arc<RedisSettings>,
    tls: TlsConnector,
    tasks: TaskTracker,
}

impl Dialer {
    pub(super) fn new(
        settings: &Arc<RedisSettings>,
        tasks: &TaskTracker,
    ) -> Result<Self, UnusableRoot> {
        let encrypted = settings.servers.iter().any(|server| server.tls);
        let config: ClientConfig = tls::client_config(encrypted, &settings.roots)?;
        Ok(Self {
            settings: Arc::clone(settings),
            tls: TlsConnector::from(Arc::new(config)),
            tasks: tasks.clone(),
        })
    }

    /// A connection to a server that keeps data.
    pub(super) async fn data(&self, server: &Server, database: u16) -> Result<Live, Fault> {
        let opening = self.open(server, &self.settings.login, database);
        let opened = timeout(self.settings.connect_timeout, opening).await;
        opened.unwrap_or(Err(Fault::TooSlow))
    }

    /// A connection to a sentinel.
    pub(super) async fn sentinel(&self, server: &Server) -> Result<Live, Fault> {
        let opening = self.open(server, &self.settings.sentinel_login, 0);
        let opened = timeout(self.settings.connect_timeout, opening).await;
        opened.unwrap_or(Err(Fault::TooSlow))
    }

    async fn open(&self, server: &Server, login: &Login, database: u16) -> Result<Live, Fault> {
        let addresses = tokio::net::lookup_host((server.host.as_str(), server.port));
        let addresses: Vec<_> = addresses.await.map_err(|_| Fault::NoSuchHost)?.collect();
        let stream = TcpStream::connect(addresses.as_slice()).await;
        let stream = stream.map_err(|_| Fault::Unreachable)?;
        // Small questions that are waited for.
        stream.set_nodelay(true).map_err(|_| Fault::Unreachable)?;
        let live = if server.tls {
            let name = ServerName::try_from(server.host.clone()).map_err(|_| Fault::Tls)?;
            let stream = self.tls.connect(name, stream).await;
            self.speak(stream.map_err(|_| Fault::Tls)?).await?
        } else {
            self.speak(stream).await?
        };
        if let Some(password) = &login.password {
            let mut auth = redis::cmd("AUTH");
            if let Some(user) = &login.user {
                auth.arg(user);
            }
            auth.arg(password.expose());
            live.ask(&auth).await.map_err(|error| fault(&error))?;
        }
        if database > 0 {
            let mut select = redis::cmd("SELECT");
            select.arg(database);
            live.ask(&select).await.map_err(|error| fault(&error))?;
        }
        let pong = live.ask(&redis::cmd("PING")).await;
        pong.map_err(|error| fault(&error))?;
        Ok(live)
    }

    async fn speak<S>(&self, stream: S) -> Result<Live, Fault>
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        // We bound each call ourselves; this is for what we would forget.
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(self.settings.connect_timeout))
            .set_response_timeout(Some(self.settings.patience()));
        let info = RedisConnectionInfo::default().set_skip_set_lib_name();
        let opened = MultiplexedConnection::new_with_config(&info, stream, config).await;
        let (connection, driver) = opened.map_err(|error| fault(&error))?;
        let broken = CancellationToken::new();
        // It ends with the connection, or when the last clone of it is gone.
        let ended = broken.clone().drop_guard();
        drop(self.tasks.spawn(async move {
            driver.await;
            drop(ended);
        }));
        let late = Notify::new();
        Ok(Live {
            connection,
            broken,
            late,
        })
    }
}

/// What an error while connecting means for whoever has to mend it.
pub(super) fn fault(error: &RedisError) -> Fault {
    match error.code() {
        Some("WRONGPASS" | "NOAUTH") => Fault::Login,
        // AUTH where the default user has no password.
        Some("ERR") if error.detail().is_some_and(|text| text.contains("AUTH")) => Fault::Login,
        Some("NOPERM") => Fault::Rights,
        Some("LOADING" | "MASTERDOWN") => Fault::Loading,
        None if error.is_timeout() => Fault::TooSlow,
        None if error.is_io_error() || error.is_connection_dropped() => Fault::Unreachable,
        Some(_) | None => Fault::Strange,
    }
}
