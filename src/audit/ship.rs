//! A second place for the chain, on another machine: all of its lines, or its checkpoints alone.
//!
//! Invariants: the chain's files are the spool, so nothing that happens here is waited for by the chain or
//! a request, and nothing but one batch is in memory; lines go in their order, and the cursor moves when
//! the receiver has taken them and not before, so each line comes at least once. A line that the receiver
//! will not take is not passed over.

mod batch;
mod cursor;
mod failure;
mod health;
mod http;
mod nats;
mod otlp;
mod pace;
mod reader;
mod settings;

use std::{io, time::Duration};

use aws_lc_rs::rand;
use thiserror::Error;
use tokio::{sync::watch, task::spawn_blocking, time::sleep};
use tokio_util::sync::CancellationToken;

use self::{
    batch::{Batch, Slice},
    cursor::{Cursor, NoCursor},
    failure::{Failure, NotTaken},
    http::{Form, Poster},
    nats::Stream,
    pace::{Dice, Pace, Portion},
    reader::Reader,
};
pub use self::{
    health::{ShipHealth, Shipping},
    settings::{Bounds, NotASubject, NotAToken, Place, ShipSettings, ShipToken, Subject, What},
};
use super::{Durable, folder::Folder};
use crate::{
    clock,
    ident::NodeId,
    tls::{NoClient, UnusableRoot},
};

/// How long the rest of the chain may take when the gateway stops. What is not sent then is sent after
/// the next start.
const LAST_MOMENT: Duration = Duration::from_secs(2);

/// Sends one node's chain to its second place.
pub struct Shipper {
    sink: Sink,
    bounds: Bounds,
    pace: Pace,
    spool: Spool,
    durable: watch::Receiver<Durable>,
    shipping: Shipping,
    stop: CancellationToken,
}

/// Who takes the lines.
enum Sink {
    Nats(Box<Stream>),
    Post(Poster),
}

/// The chain's folder, and how far it was sent.
struct Spool {
    folder: Folder,
    node: NodeId,
    what: What,
    reader: Option<Reader>,
}

/// Why nothing can be sent at all.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum ShipSetupError {
    /// The client was not built.
    #[error("the client that sends the audit chain to its second place cannot be built")]
    Client,
    /// A root is not usable.
    #[error(transparent)]
    Root(#[from] UnusableRoot),
}

impl From<NoClient> for ShipSetupError {
    fn from(error: NoClient) -> Self {
        match error {
            NoClient::Build => Self::Client,
            NoClient::Root(root) => Self::Root(root),
        }
    }
}

/// There is nothing more to do: the gateway stops.
struct Stopped;

impl Shipper {
    /// Prepares to send what is durable of the chain in this folder; nothing is read or sent.
    pub fn new(
        settings: &ShipSettings,
        folder: Folder,
        node: NodeId,
        durable: watch::Receiver<Durable>,
    ) -> Result<Self, ShipSetupError> {
        let post = |endpoint, form| Poster::new(settings, endpoint, form).map(Sink::Post);
        let sink = match &settings.place {
            Place::Http(endpoint) => post(endpoint, Form::Lines)?,
            Place::Otlp(endpoint) => post(endpoint, Form::Records)?,
            Place::Nats { server, subject } => {
                Sink::Nats(Box::new(Stream::new(settings, server, subject)?))
            }
        };
        Ok(Self {
            sink,
            bounds: settings.batch,
            pace: Pace::new(settings.retry),
            spool: Spool {
                folder,
                node,
                what: settings.what,
                reader: None,
            },
            shipping: Shipping::new(durable.clone()),
            durable,
            stop: CancellationToken::new(),
        })
    }

    /// How it goes, for whoever asks while it runs.
    pub fn shipping(&self) -> Shipping {
        self.shipping.clone()
    }

    /// Sends what is durable as it becomes so, until `stop`, and then for a moment what is left. One task
    /// runs this.
    pub async fn run(mut self, stop: CancellationToken) {
        self.stop = stop.clone();
        let last_moment = async {
            stop.cancelled().await;
            sleep(LAST_MOMENT).await;
        };
        tokio::select! {
            () = last_moment => {}
            Stopped = self.follow() => {}
        }
    }

    async fn follow(&mut self) -> Stopped {
        loop {
            let durable = *self.durable.borrow_and_update();
            let result = match self.spool.next(durable, self.bounds, &self.shipping).await {
                Ok(batch) => self.deliver(batch).await,
                Err(_) => self.bear(Failure::Unreadable.into()).await.map(|()| true),
            };
            match result {
                Ok(true) => {}
                Ok(false) => {
                    if let Err(stopped) = self.wait(durable).await {
                        return stopped;
                    }
                }
                Err(stopped) => return stopped,
            }
        }
    }

    /// Waits for more lines, and for a moment longer so that they go together.
    async fn wait(&mut self, known: Durable) -> Result<(), Stopped> {
        let stop = self.stop.clone();
        let changed = async {
            // Where the chain is closed there is nothing more, and only the end is waited for.
            if self
                .durable
                .wait_for(|now| now.seq > known.seq)
                .await
                .is_err()
            {
                std::future::pending::<()>().await;
            }
            sleep(self.bounds.wait).await;
        };
        tokio::select! {
            () = changed => return Ok(()),
            () = stop.cancelled() => {}
        }
        if self.durable.borrow().seq > known.seq {
            return Ok(());
        }
        Err(Stopped)
    }

    /// Sends a batch until all of it was taken. Says whether there may be more.
    async fn deliver(&mut self, batch: Batch) -> Result<bool, Stopped> {
        self.miss(batch.missing);
        let (mut sent, mut portion) = (0, Portion::ALL);
        while sent < batch.lines.len() {
            let count = portion.of(batch.lines.len() - sent);
            let node = self.spool.node.clone();
            let slice = batch.slice(&node, sent, count);
            match self.send(slice).await {
                Ok(()) => {
                    sent += slice.len();
                    portion.taken(slice.len());
                    self.taken(slice).await?;
                }
                Err(NotTaken {
                    failure: Failure::Refused,
                    ..
                }) if portion.refused(slice.len()) => {}
                Err(error) => self.bear(error).await?,
            }
        }
        if let Some(through) = batch.through {
            self.shipping.taken(through.seq);
        }
        Ok(batch.more)
    }

    /// Says what the second place will never have.
    fn miss(&self, lines: u64) {
        if lines == 0 {
            return;
        }
        self.shipping.missed(lines);
        tracing::error!(
            audit.missed = lines,
            "lines of the audit chain were removed, or damaged, before the second place had them"
        );
    }

    async fn send(&mut self, lines: Slice<'_>) -> Result<(), NotTaken> {
        match &mut self.sink {
            Sink::Nats(stream) => stream.send(lines).await,
            Sink::Post(poster) => poster.send(lines).await,
        }
    }

    /// Moves the cursor behind lines that were taken. Until it can be moved nothing more is sent: all of
    /// that would be sent again.
    async fn taken(&mut self, lines: Slice<'_>) -> Result<(), Stopped> {
        if let Some(last) = lines.last() {
            while let Err(failure) = self.spool.taken(last).await {
                self.bear(failure.into()).await?;
            }
            self.shipping.taken(last.seq);
        }
        self.pace.succeed();
        if let Some(since) = self.shipping.works() {
            tracing::info!(%since, "the second place of the audit chain takes it again");
        }
        Ok(())
    }

    /// Says what failed, once, and what was removed meanwhile, and waits until it is tried again.
    async fn bear(&mut self, error: NotTaken) -> Result<(), Stopped> {
        let pause = self.pace.fail(error.retry_after, dice());
        let NotTaken { failure, .. } = error;
        let reason = failure.reason();
        if !self.shipping.failed(reason, clock::now()) {
            tracing::debug!(reason, "the second place of the audit chain failed again");
        } else if failure == Failure::Refused {
            tracing::error!(
                reason,
                after_seq = self.shipping.health().last_taken_seq,
                advice = %failure,
                "the second place refuses a line of the audit chain; nothing behind it is sent until it \
                 is taken"
            );
        } else {
            tracing::warn!(
                reason,
                advice = %failure,
                "the second place of the audit chain takes nothing; it is tried again"
            );
        }
        let removed = self.spool.removed().await;
        self.miss(removed);
        if self.stop.is_cancelled() {
            return Err(Stopped);
        }
        // When the gateway stops it is tried once more.
        tokio::select! {
            () = self.stop.cancelled() => {}
            () = sleep(pause) => {}
        }
        Ok(())
    }
}

impl Spool {
    /// The next lines.
    async fn next(
        &mut self,
        durable: Durable,
        bounds: Bounds,
        shipping: &Shipping,
    ) -> io::Result<Batch> {
        let mut reader = match self.reader.take() {
            Some(reader) => reader,
            None => self.begin(durable, shipping).await?,
        };
        let read = spawn_blocking(move || {
            let batch = reader.next(durable, bounds);
            (reader, batch)
        });
        let (reader, batch) = read.await.map_err(io::Error::other)?;
        self.reader = Some(reader);
        batch
    }

    /// How many lines were removed before they were read. What cannot be told now is told when it is gone on.
    async fn removed(&mut self) -> u64 {
        let Some(mut reader) = self.reader.take() else {
            return 0;
        };
        let looked = spawn_blocking(move || {
            let removed = reader.removed();
            (reader, removed)
        });
        let Ok((reader, removed)) = looked.await else {
            return 0;
        };
        self.reader = Some(reader);
        removed.unwrap_or(0)
    }

    /// Behind the last line that was sent before this process, or before all.
    async fn begin(&mut self, durable: Durable, shipping: &Shipping) -> io::Result<Reader> {
        let (folder, node) = (self.folder.clone(), self.node.clone());
        let read = spawn_blocking(move || {
            cursor::tidy(&folder)?;
            Ok(cursor::read(&folder, &node))
        });
        let cursor = read.await.map_err(io::Error::other).flatten()?;
        let at = fitting(cursor, durable);
        if let Some(at) = at {
            shipping.taken(at.seq);
        }
        Ok(Reader::new(self.folder.clone(), self.what, at))
    }

    /// Notes that lines were taken. Not shared meanwhile: an open file cannot be.
    async fn taken(&mut self, last: Cursor) -> Result<(), Failure> {
        let (folder, node) = (self.folder.clone(), self.node.clone());
        let written = spawn_blocking(move || cursor::write(&folder, &node, last)).await;
        match written {
            Ok(Ok(())) => Ok(()),
            Ok(Err(_)) | Err(_) => Err(Failure::CursorUnwritable),
        }
    }
}

/// The cursor, where it is one of this chain as it is; none where all is sent from the oldest file on.
fn fitting(cursor: Result<Cursor, NoCursor>, durable: Durable) -> Option<Cursor> {
    let cause = match cursor {
        Ok(cursor) if cursor.seq <= durable.seq => return Some(cursor),
        Ok(_) => "ahead",
        Err(NoCursor::Missing) => {
            tracing::info!("the audit chain is sent to its second place from the oldest file on");
            return None;
        }
        Err(NoCursor::Damaged) => "damaged",
        Err(NoCursor::Foreign) => "foreign",
    };
    tracing::warn!(
        cause,
        "`ship.cursor` is not of this chain as it is; all of it is sent again, from the oldest file on"
    );
    None
}

/// Only keeps gateways from coming back together, so a source of chance that fails does no harm.
fn dice() -> Dice {
    let mut bytes = [0; 2];
    rand::fill(&mut bytes).ok();
    Dice(u16::from_le_bytes(bytes))
}
