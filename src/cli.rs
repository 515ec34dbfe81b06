//! The commands. Each file under `cli/` is one; this one holds the arguments and what they share.
//!
//! Results go to standard output, everything else to standard error. Exit code 0: fine; 1: the work
//! failed, and the last line says what to do next; 2: wrong usage.

mod audit;
mod cache;
mod credentials;
mod customers;
pub mod demo;
mod reach;
mod reload;
mod revocations;
mod token;
mod usage;

use std::{
    io::{self, Write},
    net::SocketAddr,
    path::PathBuf,
    process::ExitCode,
    sync::Arc,
    time::Duration,
};

use clap::{Args, Parser, Subcommand};
use thiserror::Error;
use tokio::{
    net::TcpListener,
    runtime::Builder,
    signal::unix::{Signal, SignalKind, signal},
    time::Instant,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    app::{App, Edges, LAST_EVENTS, StartError},
    audit::{AuditTrail, operator::Via},
    auth::mint::MintError,
    clock,
    config::{
        Config, check_clock,
        mistake::{Mistake, Mistakes},
    },
    ident::{InvalidName, OperatorName},
    outbox::Outbox,
    reload::Reloads,
    simulator::{self, SimulatorError, SimulatorSettings},
    store::{OpenError, StoreError},
    telemetry::{self, TelemetrySettings},
};

/// An authenticating reverse proxy in front of Veratad's DCAMS API.
#[derive(Debug, Parser)]
#[command(name = "dcams-gateway", version, about)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
    /// What the operator is called in the audit trail: with cache, credentials retry and test, customers,
    /// reload, revocations and usage; other commands leave no event of an operator
    #[arg(long = "as", global = true, value_name = "NAME", value_parser = operator_name)]
    operator: Option<OperatorName>,
}

fn operator_name(text: &str) -> Result<OperatorName, InvalidName> {
    OperatorName::try_from(text)
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Read the audit trail, verify it, or prove what is in it
    Audit(audit::AuditArgs),
    /// Have the gateway that runs keep statuses no more, of a tenant or of one customer
    Cache(cache::CacheArgs),
    /// Check a configuration, and print each mistake with file, key and mend
    Check(ConfigArgs),
    /// Show how the credentials towards DCAMS stand, test them, or have one tried again
    Credentials(credentials::CredentialsArgs),
    /// Write down customers from before the gateway, take them out, ask whose one is, or forget one
    Customers(customers::CustomersArgs),
    /// Run gateway and simulator on loopback, with nothing to prepare
    Demo(demo::DemoArgs),
    /// Have the gateway that runs read its configuration again
    Reload(ConfigArgs),
    /// Refuse tokens before they expire, list what is refused, or take it back
    Revocations(revocations::RevocationsArgs),
    /// Run the gateway
    Serve(ConfigArgs),
    /// Run the DCAMS simulator alone
    Simulator(SimulatorArgs),
    /// Mint a token for a development issuer
    Token(token::TokenArgs),
    /// Show what tenants have used, grant one of them more, or print a month's statement
    Usage(usage::UsageArgs),
}

#[derive(Debug, Args)]
struct ConfigArgs {
    /// A TOML file, or a folder of them (read in name order; later wins)
    #[arg(long, required = true, num_args = 1.., value_name = "PATH")]
    config: Vec<PathBuf>,
}

#[derive(Debug, Args)]
struct SimulatorArgs {
    /// Where to listen
    #[arg(long, value_name = "ADDR")]
    listen: SocketAddr,
    /// Keep whole bodies, so that GET /_sim/requests shows them
    #[arg(long)]
    record_bodies: bool,
}

/// Why a command failed; the text is what the user reads.
#[derive(Debug, Error)]
pub enum CommandError {
    /// The audit trail is not whole, or a proof proves nothing.
    #[error("{0}")]
    Audit(String),
    /// The configuration has mistakes.
    #[error("{0}")]
    Config(#[from] Mistakes),
    /// The system clock was never set.
    #[error("{0}")]
    Clock(#[from] Mistake),
    /// Requests were cut off when the drain timeout had passed.
    #[error("stopped with requests unfinished: raise server.drain_timeout if this happens often")]
    CutOff,
    /// A file of customers stopped before its end.
    #[error("stopped at line {line} ({why}); go on with --from-line {line}")]
    Stopped {
        /// The first line that nothing was done for.
        line: u64,
        /// What happened.
        why: String,
    },
    /// Some lines were left out.
    #[error("lines that were not {done}: {count}; {next}")]
    LinesLeft {
        /// What was done with the others.
        done: &'static str,
        /// How many.
        count: u64,
        /// What to do with these.
        next: &'static str,
    },
    /// A file of customers is not what is read here.
    #[error("{}: {flaw}; nothing was done", path.display())]
    Flaw {
        /// The file.
        path: PathBuf,
        /// What is the matter.
        flaw: customers::lines::Flaw,
    },
    /// A file or socket could not be had.
    #[error("{what}: {source}")]
    Io {
        /// What was tried.
        what: String,
        /// What the system said.
        source: io::Error,
    },
    /// The running gateway could not be asked, or refused.
    #[error("{0}")]
    Operator(String),
    /// The simulator could not start.
    #[error("{0}")]
    Simulator(#[from] SimulatorError),
    /// The gateway could not start.
    #[error("{0}")]
    Start(#[from] StartError),
    /// The state store cannot be opened.
    #[error("{0}")]
    State(#[from] OpenError),
    /// The state store cannot be read or written.
    #[error("{0}")]
    Store(#[from] StoreError),
    /// No token could be made.
    #[error("no token was made: {0}")]
    Token(#[from] MintError),
    /// The demo's tour saw an answer that was not as expected.
    #[error("{0}")]
    Tour(String),
    /// DCAMS did not accept every credential that was tested.
    #[error("credentials that were not accepted, or not tried: {failed} of {tested}")]
    Untrusted {
        /// How many.
        failed: u64,
        /// Of how many.
        tested: u64,
    },
    /// What a command does cannot be recorded.
    #[error("nothing was done, as it could not be recorded: {0}")]
    Trail(#[source] crate::audit::OpenError),
    /// The arguments do not fit the configuration.
    #[error("{0}")]
    Usage(String),
}

impl CommandError {
    fn io(what: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Io {
            what: what.into(),
            source,
        }
    }

    fn exit_code(&self) -> ExitCode {
        ExitCode::from(if matches!(self, Self::Usage(_)) { 2 } else { 1 })
    }
}

/// What goes with a command from its beginning to its end.
struct Session {
    /// What the operator is called.
    operator: Option<OperatorName>,
    /// The audit trail that this process writes, if it does.
    audit: Option<Arc<AuditTrail>>,
}

/// Runs a command to its end.
pub fn run(cli: Cli) -> ExitCode {
    let mut session = Session {
        operator: cli.operator,
        audit: None,
    };
    let result = Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(CommandError::io("cannot start the runtime"))
        .and_then(|runtime| {
            let result = runtime.block_on(execute(cli.command, &mut session));
            // A request that was cut off leaves its log line and audit event when it is dropped here.
            runtime.shutdown_timeout(Duration::from_secs(1));
            result
        });
    if let Some(audit) = session.audit {
        close(&audit);
    }
    telemetry::flush();
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            complain(&error.to_string());
            error.exit_code()
        }
    }
}

/// Has the last events written, now that nobody is left to record one.
fn close(audit: &AuditTrail) {
    let runtime = Builder::new_current_thread().enable_time().build();
    let closed = runtime.is_ok_and(|runtime| runtime.block_on(audit.close(LAST_EVENTS)));
    if !closed {
        tracing::error!("the last audit events are not on disk: look at the disk of `audit.path`");
    }
}

async fn execute(command: Command, session: &mut Session) -> Result<(), CommandError> {
    match command {
        Command::Audit(args) => audit::run(args).await,
        Command::Cache(args) => cache::run(args, session).await,
        Command::Check(args) => check(&args),
        Command::Credentials(args) => credentials::run(args, session).await,
        Command::Customers(args) => customers::run(&args, session).await,
        Command::Demo(args) => demo::run(&args).await,
        Command::Reload(args) => reload::run(&args, session).await,
        Command::Revocations(args) => revocations::run(args, session).await,
        Command::Serve(args) => serve(&args, session).await,
        Command::Simulator(args) => simulate(&args).await,
        Command::Token(args) => token::mint(&args),
        Command::Usage(args) => usage::run(args, session).await,
    }
}

fn check(args: &ConfigArgs) -> Result<(), CommandError> {
    let config = Config::load_with_env(&args.config)?;
    config
        .warnings
        .iter()
        .for_each(|warning| complain(&format!("warning: {warning}")));
    say(&format!(
        "the configuration is valid (tenants: {}, issuers: {}, accounts: {})",
        config.tenants.len(),
        config.issuers.len(),
        config.accounts.len()
    ))
}

async fn serve(args: &ConfigArgs, session: &mut Session) -> Result<(), CommandError> {
    check_clock(clock::now())?;
    let config = Config::load_with_env(&args.config)?;
    telemetry::install(config.telemetry).map_err(CommandError::io("cannot start the log"))?;
    config
        .warnings
        .iter()
        .for_each(|warning| tracing::warn!("{warning}"));
    let edges = Edges::bind(&config, Box::new(io::stdout()))?;
    // Where it listens, not what was configured: port 0 lets the system choose.
    let address = |listener: &TcpListener| {
        let address = listener.local_addr();
        address.map_err(CommandError::io("cannot read a listener's address"))
    };
    let (public, admin) = (address(&edges.public)?, address(&edges.admin)?);
    let hangups = listen_for(SignalKind::hangup())?;
    let app = App::build(config, edges).await?;
    session.audit = Some(app.audit());
    reload_on(hangups, app.reloads());
    // Who reads that it is ready may tell it to stop.
    let shutdown = shutdown_on_signal()?;
    tracing::info!(
        version = env!("CARGO_PKG_VERSION"),
        server.listen = %public,
        admin.listen = %admin,
        "ready"
    );
    let finished = app.run(shutdown).await;
    tracing::info!(finished, "stopped");
    if finished {
        Ok(())
    } else {
        Err(CommandError::CutOff)
    }
}

async fn simulate(args: &SimulatorArgs) -> Result<(), CommandError> {
    let settings = SimulatorSettings {
        record_bodies: args.record_bodies,
        ..SimulatorSettings::default()
    };
    telemetry::install(TelemetrySettings::default())
        .map_err(CommandError::io("cannot start the log"))?;
    ignore(listen_for(SignalKind::hangup())?);
    Ok(simulator::run(args.listen, settings, shutdown_on_signal()?).await?)
}

/// Has the configuration read again on each SIGHUP. Those that come meanwhile count as one.
fn reload_on(mut hangups: Signal, reloads: Reloads) {
    TaskTracker::new().spawn(async move {
        while hangups.recv().await.is_some() {
            reloads.ask(Via::Signal.into()).await;
        }
    });
}

/// Where there is nothing to read again, SIGHUP ends no command.
fn ignore(mut hangups: Signal) {
    TaskTracker::new().spawn(async move {
        while hangups.recv().await.is_some() {
            tracing::warn!("SIGHUP ignored: there is no configuration to read again");
        }
    });
}

fn listen_for(kind: SignalKind) -> Result<Signal, CommandError> {
    signal(kind).map_err(CommandError::io("cannot listen for signals"))
}

/// A token that SIGTERM or SIGINT cancels, once. A second signal ends the process at once.
fn shutdown_on_signal() -> Result<CancellationToken, CommandError> {
    shutdown_on_signals(Duration::ZERO)
}

/// The same, where one that comes so soon after the first is taken for the same one: it was sent to
/// the process and to its group.
fn shutdown_on_signals(same: Duration) -> Result<CancellationToken, CommandError> {
    let (mut terminate, mut interrupt) = (
        listen_for(SignalKind::terminate())?,
        listen_for(SignalKind::interrupt())?,
    );
    let shutdown = CancellationToken::new();
    let cancel = shutdown.clone();
    TaskTracker::new().spawn(async move {
        let mut first: Option<Instant> = None;
        loop {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
            let now = clock::instant();
            match first {
                None => first = Some(now),
                Some(first) if now.duration_since(first) < same => continue,
                Some(_) => abort(),
            }
            tracing::info!("draining: a second signal stops at once");
            cancel.cancel();
        }
    });
    Ok(shutdown)
}

/// Ends the process, and says so on standard error if that takes it within a moment.
#[expect(clippy::exit, reason = "the user asked twice; nothing is left to save")]
fn abort() -> ! {
    telemetry::flush();
    if let Ok(mut last) = Outbox::new("last", io::stderr()) {
        drop(writeln!(last, "stopped at once by a second signal"));
        last.flush_within(Duration::from_millis(200));
    }
    std::process::exit(1)
}

/// Writes a line to standard output.
fn say(line: &str) -> Result<(), CommandError> {
    writeln!(io::stdout().lock(), "{line}").map_err(CommandError::io("cannot write the output"))
}

/// Writes a line to standard error. Where even that fails there is nobody left to tell.
fn complain(line: &str) {
    drop(writeln!(io::stderr().lock(), "{line}"));
}
