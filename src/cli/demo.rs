//! `demo`: a gateway and a DCAMS simulator on loopback, with everything they need in a temporary
//! folder that is removed at the end.
//!
//! Nothing in here is a shortcut: the demo writes a configuration and secrets as an operator would,
//! and starts the same gateway from them.

mod stage;
mod tour;

use std::{
    io,
    net::{Ipv4Addr, SocketAddr},
};

use clap::Args;
use tokio::{net::TcpListener, signal::unix::SignalKind};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use self::stage::Stage;
use super::{CommandError, listen_for, reload_on, say, shutdown_on_signal};
use crate::{
    app::{App, Edges},
    config::Config,
    server,
    simulator::{Login, Simulator, SimulatorHandle, SimulatorSettings},
    telemetry,
};

#[derive(Debug, Args)]
pub(super) struct DemoArgs {
    /// Send one request to each service, print what was sent and answered, and stop
    #[arg(long)]
    once: bool,
}

/// A running demo.
struct Demo {
    gateway: SocketAddr,
    admin: SocketAddr,
    simulator: SimulatorHandle,
}

pub(super) async fn run(args: &DemoArgs) -> Result<(), CommandError> {
    let stage = Stage::set()?;
    let shutdown = shutdown_on_signal()?;
    let hangups = listen_for(SignalKind::hangup())?;
    let stop_simulator = CancellationToken::new();
    let simulator = simulator(&stage, stop_simulator.clone())?;
    // The tour takes whatever ports are free; a person gets the ones that the README names.
    let (public, admin) = if args.once { (0, 0) } else { (8080, 9090) };
    let edges = Edges {
        public: listen(public)?,
        admin: listen(admin)?,
        audit: Box::new(io::sink()),
    };
    let demo = Demo {
        gateway: address(&edges.public)?,
        admin: address(&edges.admin)?,
        simulator,
    };
    let environment = [(
        "DCAMS_GATEWAY__UPSTREAM__URL".to_owned(),
        demo.simulator.url(),
    )];
    let config = Config::load(&[stage.config()], environment.into_iter())?;
    telemetry::install(config.telemetry).map_err(CommandError::io("cannot start the log"))?;
    let tokens = Stage::tokens(&config)?;
    let app = App::build(config, edges).await?;
    reload_on(hangups, app.reloads());

    let tasks = TaskTracker::new();
    let served = tasks.spawn(app.run(shutdown.clone()));
    let result = if args.once {
        let result = tour::run(&demo, &stage, &tokens).await;
        shutdown.cancel();
        result
    } else {
        welcome(&demo, &stage, &tokens)?;
        shutdown.cancelled().await;
        Ok(())
    };
    drop(served.await);
    stop_simulator.cancel();
    demo.simulator.join().await;
    result
}

fn simulator(stage: &Stage, stop: CancellationToken) -> Result<SimulatorHandle, CommandError> {
    let settings = SimulatorSettings {
        accepted: vec![Login::new(stage.user(), stage.pass())],
        ..SimulatorSettings::default()
    };
    Simulator::start(listen(0)?, settings, stop)
        .map_err(CommandError::io("cannot start the simulator"))
}

/// Listens on a port of loopback, or on any free one where that is taken.
fn listen(port: u16) -> Result<TcpListener, CommandError> {
    let bind = |port| server::bind((Ipv4Addr::LOCALHOST, port).into());
    bind(port)
        .or_else(|_taken| bind(0))
        .map_err(CommandError::io("cannot listen on loopback"))
}

fn address(listener: &TcpListener) -> Result<SocketAddr, CommandError> {
    listener
        .local_addr()
        .map_err(CommandError::io("cannot read a listener's address"))
}

fn welcome(demo: &Demo, stage: &Stage, tokens: &[stage::Token]) -> Result<(), CommandError> {
    say(&format!(
        "dcams-gateway demo. Everything lives in {} until you press Ctrl-C.\n\n\
         gateway    http://{}\n\
         probes     http://{}/livez, /readyz, /metrics\n\
         simulator  http://{}/_sim/requests shows what DCAMS received\n\n\
         One request a service, ready to paste. Each token carries that service's scope alone:\n",
        stage.folder().display(),
        demo.gateway,
        demo.admin,
        demo.simulator.address(),
    ))?;
    for token in tokens {
        say(&format!(
            "curl -sS http://{}/v3/stable/api/storage \\\n  \
               -H 'Content-Type: application/json' \\\n  \
               -H 'Authorization: Bearer {}' \\\n  \
               --data-binary @{}\n",
            demo.gateway,
            token.text,
            stage.body_file(token.operation).display(),
        ))?;
    }
    Ok(())
}
