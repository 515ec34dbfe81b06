//! The thread that writes the chain.
//!
//! Invariant: an event's sender is told that it is on disk when the file it stands in was synced since. What
//! was written without that being certain is never gone on from: after any failure the file is left, cut back
//! to what was synced if that can be done, and the chain goes on in a new file that says so.

use std::{
    fs::{self, File},
    io::{self, Write},
    mem,
    path::{Path, PathBuf},
    sync::Arc,
    thread,
    time::Duration,
};

use jiff::Timestamp;
use tokio::{sync::watch, time::Instant};

use super::{
    AuditSettings, AuditUnavailable, Durability, Durable, OpenError,
    chain::{Chain, Gap, Mark, State, Upkeep},
    event::{Event, Interrupted},
    folder::Folder,
    hold::{Hold, is_named},
    keeper::Keeper,
    line::Position,
    queue::{Entry, Queue, Work},
    recovery::{aside, private, recover},
};
use crate::{
    clock,
    ident::{NodeId, RequestId},
    outbox::Outbox,
};

/// The thread, and what it has to itself.
pub(super) struct Writer {
    queue: Arc<Queue>,
    settings: AuditSettings,
    folder: Folder,
    chain: Chain,
    file: Option<Current>,
    /// The number of the last file that was begun.
    number: u64,
    /// What there is to say in the next file of the one before.
    gap: Option<Gap>,
    /// What could not be written, and is to be.
    backlog: Vec<Entry>,
    /// How many events were lost since that was said last.
    lost: u64,
    /// How many rejections left no event and are to be said.
    left_out: u64,
    started: bool,
    buffer: Vec<u8>,
    copy: Option<Outbox>,
    keeper: Keeper,
    durable: watch::Sender<Durable>,
    clocks: Clocks,
    synced: Instant,
    hold: Hold,
}

/// The file that is being written.
struct Current {
    file: File,
    path: PathBuf,
    /// How much of it is certain.
    bytes: u64,
    opened: Instant,
    /// How many lines, and since when, no checkpoint covers.
    uncovered: u64,
    covered: Instant,
    /// When it may be closed, where that could not be done.
    retry: Instant,
}

impl Current {
    /// Whether there are lines that have waited long enough for a checkpoint.
    fn is_due(&self, every: Duration) -> bool {
        self.uncovered > 0 && self.covered + every <= clock::instant()
    }
}

/// How long is waited before a disk that failed is tried again.
const RETRY: Duration = Duration::from_millis(500);
/// How often the disk is asked where nobody waits for it.
const UNAWAITED: Duration = Duration::from_millis(100);
/// Buffers that have grown beyond this are let go.
const SPARE: usize = 1024 * 1024;

impl Writer {
    /// Takes the folder, puts it in order and begins a file.
    pub(super) fn open(
        settings: &AuditSettings,
        queue: Arc<Queue>,
        copy: Option<Outbox>,
    ) -> Result<(Self, watch::Receiver<Durable>), OpenError> {
        let hold = Hold::take(&settings.folder)?;
        let (now, instant) = (clock::now(), clock::instant());
        let recovered = recover(settings, now)?;
        let (number, gap, last) = recovered
            .as_ref()
            .map_or((0, None, now), |r| (r.file, r.gap.clone(), r.last));
        let (is_new, open) = (recovered.is_none(), recovered.as_ref().map(|r| &r.open));
        let interrupted: Vec<_> = open.into_iter().flatten().copied().collect();
        let key = Arc::clone(&settings.keys.current);
        let mut cut = None;
        let chain = if let Some(r) = recovered {
            cut = r.cut;
            Chain::new(r.node, key, r.state, r.open)
        } else {
            let node = settings.node.clone().unwrap_or_else(name_of_computer);
            let state = State::first(&node, &key);
            Chain::new(node, key, state, [].into())
        };
        let durable = watch::Sender::new(Durable {
            file: number,
            bytes: 0,
            seq: chain.state().seq(),
        });
        let receiver = durable.subscribe();
        let keeper = Keeper::start(settings, chain.node(), &queue).map_err(OpenError::Thread)?;
        let mut writer = Self {
            queue,
            settings: settings.clone(),
            folder: Folder::new(&settings.folder),
            chain,
            file: None,
            number,
            gap,
            backlog: Vec::new(),
            lost: 0,
            left_out: 0,
            started: false,
            buffer: Vec::with_capacity(64 * 1024),
            copy,
            keeper,
            durable,
            // A clock that is ahead of where it was has only gone on.
            clocks: Clocks::since(now.max(last), instant),
            synced: instant,
            hold,
        };
        let count = interrupted.len();
        writer.backlog = ends_of(interrupted, now);
        let path = writer.folder.plain(number + 1);
        writer.begin_file().map_err(|source| OpenError::Io {
            what: "write",
            path,
            source,
        })?;
        if let Some(cut) = cut {
            // What cannot be cut off is said not to count.
            drop(cut.make());
        }
        writer.keeper.closed(number);
        writer.tell_of_start(is_new, count);
        Ok((writer, receiver))
    }

    pub(super) const fn node(&self) -> &NodeId {
        self.chain.node()
    }

    /// Logs which chain it is, and how far.
    fn tell_of_start(&self, is_new: bool, interrupted: usize) {
        if is_new && self.hold.was_used {
            tracing::warn!(
                "a new audit chain is begun in a folder that was used for one before: the files of that are gone, if it \
                 had any"
            );
        }
        let state = if is_new { "begun" } else { "gone on with" };
        tracing::info!(
            audit.node = self.chain.node().as_str(),
            audit.file = self.number,
            audit.seq = self.chain.state().seq(),
            audit.public_key = self.chain.public_key(),
            audit.interrupted = interrupted,
            "an audit chain is {state}"
        );
    }

    /// Begins to write what arrives.
    pub(super) fn start(self) -> Result<(), OpenError> {
        let thread = thread::Builder::new().name("audit".into());
        // It ends when its queue is closed.
        drop(
            thread
                .spawn(move || self.run())
                .map_err(OpenError::Thread)?,
        );
        Ok(())
    }

    fn run(mut self) {
        loop {
            let work = self.queue.take(self.earliest(), self.latest());
            let last = work.last;
            self.work(work);
            if last {
                break;
            }
        }
        let Self {
            queue,
            keeper,
            backlog,
            hold,
            ..
        } = self;
        // The other thread may be waiting for something to be written.
        queue.end(backlog.len());
        keeper.end();
        drop(hold);
        queue.closed();
    }

    /// Before when the disk is not asked again.
    fn earliest(&self) -> Instant {
        if self.file.is_none() {
            return self.synced + RETRY;
        }
        self.synced
            + match self.settings.durability {
                Durability::Required => self.settings.sync_interval,
                Durability::BestEffort => UNAWAITED.max(self.settings.sync_interval),
            }
    }

    /// When there is something to do even if nothing arrives.
    fn latest(&self) -> Instant {
        let Some(file) = &self.file else {
            return self.synced + RETRY;
        };
        let due = file.covered + self.settings.checkpoint_every;
        let rotation = (file.opened + self.settings.rotate_every).max(file.retry);
        if file.uncovered > 0 {
            due.min(rotation)
        } else {
            rotation
        }
    }

    fn work(&mut self, work: Work) {
        self.backlog.extend(work.entries);
        self.lost += work.lost;
        self.left_out += work.left_out;
        if self.file.is_none()
            && let Err(error) = self.begin_file()
        {
            self.fail(&error);
            return;
        }
        let has_news = !self.backlog.is_empty() || self.lost > 0 || self.left_out > 0;
        if has_news || self.is_checkpoint_due() || work.last {
            self.write(if work.last { End::Chain } else { End::None });
        }
        if !work.last && self.is_rotation_due() {
            self.rotate();
        }
    }

    /// Writes what is there to write into the file that is open, and waits for the disk. With a checkpoint
    /// behind it where that is due or the file ends.
    fn write(&mut self, end: End) {
        let before = self.chain.state().clone();
        self.buffer.clear();
        let positions = self.append();
        if end == End::Chain {
            let via = self.via();
            self.chain
                .keep(clock::now(), Upkeep::Stop { via }, &mut self.buffer);
        }
        let lines = self.chain.state().seq() - before.seq();
        let Some(file) = &mut self.file else { return };
        file.uncovered += lines;
        let covers = end != End::None
            || file.uncovered >= self.settings.checkpoint_events
            || file.is_due(self.settings.checkpoint_every);
        if covers {
            self.chain.checkpoint(clock::now(), &mut self.buffer);
        }
        self.synced = clock::instant();
        let mut written = file.file.write_all(&self.buffer);
        written = written.and_then(|()| file.file.sync_data());
        // What was written is found again.
        written = written.and_then(|()| is_named(&file.file, &file.path));
        if let Err(error) = written.and_then(|()| self.hold.is_in_place()) {
            self.chain.restore(before);
            self.fail(&error);
            return;
        }
        file.bytes += u64::try_from(self.buffer.len()).unwrap_or_default();
        if covers {
            file.uncovered = 0;
            file.covered = clock::instant();
        }
        self.commit(positions);
    }

    /// Begins the next file, with everything that is to be written yet.
    fn begin_file(&mut self) -> io::Result<()> {
        // In another folder the chain would go on without what was before.
        self.hold.is_in_place()?;
        let before = self.chain.state().clone();
        let now = clock::now();
        self.buffer.clear();
        self.chain.open_file(self.number + 1, now, &mut self.buffer);
        if let Some(gap) = self.gap.clone() {
            self.chain
                .keep(now, Upkeep::AuditGap(gap), &mut self.buffer);
        }
        if !self.started {
            let version = env!("CARGO_PKG_VERSION").into();
            let via = self.via();
            self.chain
                .keep(now, Upkeep::Start { version, via }, &mut self.buffer);
        }
        let positions = self.append();
        self.synced = clock::instant();
        let path = self.folder.plain(self.number + 1);
        let created = create(&self.folder, &path, &self.buffer);
        let file = match created.and_then(|file| self.hold.is_in_place().map(|()| file)) {
            Ok(file) => file,
            Err(error) => {
                self.chain.restore(before);
                return Err(error);
            }
        };
        self.number += 1;
        self.gap = None;
        self.started = true;
        let now = clock::instant();
        self.file = Some(Current {
            file,
            path,
            bytes: u64::try_from(self.buffer.len()).unwrap_or_default(),
            opened: now,
            uncovered: self.chain.state().seq() - before.seq(),
            covered: now,
            retry: now,
        });
        self.commit(positions);
        Ok(())
    }

    /// Makes lines of all events that are to be written, behind what there is to say of clock, losses and
    /// rejections.
    fn append(&mut self) -> Vec<Position> {
        self.note_clock();
        if self.lost > 0 {
            let gap = Gap::lost(self.lost);
            self.chain
                .keep(clock::now(), Upkeep::AuditGap(gap), &mut self.buffer);
        }
        if self.left_out > 0 {
            let said = Upkeep::RejectionsLeftOut {
                count: self.left_out,
            };
            self.chain.keep(clock::now(), said, &mut self.buffer);
        }
        let (chain, buffer) = (&mut self.chain, &mut self.buffer);
        let append = |entry: &Entry| {
            let position = chain.append(&entry.event, buffer);
            if entry.sealed {
                chain.checkpoint(clock::now(), buffer);
            }
            position
        };
        self.backlog.iter().map(append).collect()
    }

    /// What was written is on disk.
    fn commit(&mut self, positions: Vec<Position>) {
        let entries = mem::take(&mut self.backlog);
        self.lost = 0;
        self.left_out = 0;
        let copied = self
            .copy
            .as_mut()
            .map_or(Ok(()), |copy| copy.write_all(&self.buffer));
        let uncopied = copied.map_or(positions.len(), |()| 0);
        self.queue
            .written(&entries, u64::try_from(uncopied).unwrap_or_default());
        self.durable.send_replace(Durable {
            file: self.number,
            bytes: self.file.as_ref().map_or(0, |file| file.bytes),
            seq: self.chain.state().seq(),
        });
        for (entry, position) in entries.into_iter().zip(positions) {
            self.chain.mark(entry.mark);
            if let Some(done) = entry.done {
                // Who has gone does not want to know.
                done.send(Ok(position)).ok();
            }
        }
        if self.buffer.capacity() > SPARE {
            self.buffer = Vec::new();
        }
    }

    /// Leaves the file, of which nobody knows what is on disk, tells who waits, and keeps what is still to be
    /// written.
    fn fail(&mut self, error: &io::Error) {
        let why = AuditUnavailable::Disk(error.kind());
        if let Some(file) = self.file.take() {
            tracing::error!(
                kind = ?error.kind(),
                "audit events cannot be written; with `durability = \"required\"` requests are refused until they can"
            );
            // What cannot be cut off is said not to count.
            drop(
                file.file
                    .set_len(file.bytes)
                    .and_then(|()| file.file.sync_all()),
            );
            self.gap = Some(Gap {
                cause: "write_failed".into(),
                file: Some(self.number),
                from_byte: Some(file.bytes),
                bytes: None,
                lost: None,
            });
        }
        let begins = |entry: &Entry| matches!(entry.mark, Mark::Opens(_)) && entry.done.is_some();
        let backlog = mem::take(&mut self.backlog);
        let (mut given_up, mut kept): (Vec<_>, Vec<_>) = backlog.into_iter().partition(begins);
        // First: who is told of it may ask.
        self.queue.failed(why, &given_up);
        for entry in given_up.iter_mut().chain(&mut kept) {
            if let Some(done) = entry.done.take() {
                done.send(Err(why)).ok();
            }
        }
        self.backlog = kept;
    }

    /// Closes the file, with a checkpoint as its last line, and begins the next.
    fn rotate(&mut self) {
        self.write(End::File);
        let Some(old) = self.file.take() else {
            return;
        };
        let number = self.number;
        match self.begin_file() {
            Ok(()) => self.keeper.closed(number),
            Err(error) => {
                let retry = clock::instant() + RETRY;
                self.file = Some(Current { retry, ..old });
                // Were it found after a power failure, and the old one longer, there would be two chains.
                if self.is_gone(number + 1).is_err() {
                    self.fail(&error);
                    return;
                }
                tracing::warn!(kind = ?error.kind(), "cannot begin another audit file; going on in the old one");
            }
        }
    }

    /// Whether a file that could not be begun is not in the folder, for certain.
    fn is_gone(&self, number: u64) -> io::Result<()> {
        self.hold.is_in_place()?;
        if self.folder.plain(number).try_exists()? {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        File::open(self.folder.path())?.sync_all()
    }

    /// Which way it is written, where no gateway does.
    fn via(&self) -> Option<String> {
        self.settings.via.map(|via| via.as_str().into())
    }

    fn is_checkpoint_due(&self) -> bool {
        let every = self.settings.checkpoint_every;
        self.file.as_ref().is_some_and(|file| file.is_due(every))
    }

    fn is_rotation_due(&self) -> bool {
        let (size, every) = (self.settings.rotate_size, self.settings.rotate_every);
        let now = clock::instant();
        let due = |file: &Current| {
            (file.bytes >= size || file.opened + every <= now) && file.retry <= now
        };
        self.file.as_ref().is_some_and(due)
    }

    /// Writes down that the wall clock was set since the last time.
    fn note_clock(&mut self) {
        let (now, instant) = (clock::now(), clock::instant());
        if let Some(ms) = self.clocks.step(now, instant) {
            tracing::warn!(ms, "the wall clock was set, or the computer slept");
            self.chain
                .keep(now, Upkeep::ClockStep { ms }, &mut self.buffer);
        }
    }
}

/// What ends with what is written.
#[derive(Clone, Copy, PartialEq, Eq)]
enum End {
    /// All of it: the gateway has nothing more to write.
    Chain,
    /// The file.
    File,
    None,
}

/// How requests ended that the last process left.
fn ends_of(interrupted: Vec<RequestId>, now: Timestamp) -> Vec<Entry> {
    let end = |request_id| {
        let event = Interrupted::new(request_id, now);
        Entry {
            mark: event.mark(),
            event: serde_json::to_vec(&event).unwrap_or_default(),
            sealed: false,
            done: None,
        }
    };
    interrupted.into_iter().map(end).collect()
}

/// A new file with this content, of which the folder knows for certain. What stands there already is not
/// ours: it is set aside.
fn create(folder: &Folder, path: &Path, content: &[u8]) -> io::Result<File> {
    let new = || private().create_new(true).open(path);
    let mut file = match new() {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            let aside = aside(path, &clock::now().as_millisecond().to_string());
            fs::rename(path, aside)?;
            tracing::error!(
                "there was a file where the next audit file is to be; it was set aside"
            );
            new()?
        }
        opened => opened?,
    };
    let written = file.write_all(content).and_then(|()| file.sync_all());
    let synced = written.and_then(|()| File::open(folder.path())?.sync_all());
    if synced.is_err() {
        // Half a file would look like a torn one.
        drop(fs::remove_file(path));
    }
    synced.map(|()| file)
}

/// The computer's name, with something that tells this chain from another one there.
fn name_of_computer() -> NodeId {
    let name = fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let plain = |c: &char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    let name: String = name.trim().chars().filter(plain).take(48).collect();
    let id = RequestId::mint().to_string();
    let random = id.get(id.len() - 8..).unwrap_or_default();
    let name = if name.is_empty() { "gateway" } else { &name };
    #[expect(clippy::expect_used, reason = "at most 57 characters of a name's")]
    NodeId::try_from(format!("{name}-{random}").as_str()).expect("a name")
}

/// Wall clock and monotonic clock, side by side.
struct Clocks {
    wall: Timestamp,
    instant: Instant,
}

/// By how many milliseconds the two may come apart.
const TOLERANCE: i64 = 1_000;

impl Clocks {
    const fn since(wall: Timestamp, instant: Instant) -> Self {
        Self { wall, instant }
    }

    /// By how many milliseconds the wall clock was set since the last time, if it was.
    fn step(&mut self, now: Timestamp, instant: Instant) -> Option<i64> {
        let went = now.as_millisecond() - self.wall.as_millisecond();
        let passed = instant.duration_since(self.instant).as_millis();
        let step = went - i64::try_from(passed).unwrap_or(i64::MAX);
        *self = Self::since(now, instant);
        (step.abs() > TOLERANCE).then_some(step)
    }
}

#[cfg(test)]
mod tests {
    use jiff::SignedDuration;
    use tempfile::TempDir;

    use super::*;
    use crate::audit::{folder::Next, rejections::Rejections, tests};

    #[test]
    fn a_file_that_is_full_when_the_gateway_begins_to_stop_is_not_its_end() {
        let folder = TempDir::new().unwrap();
        let settings = tests::settings(folder.path());
        let rejections = Rejections::new(None, Duration::ZERO, clock::instant());
        let queue = Arc::new(Queue::new(settings.write_timeout, rejections));
        let (mut writer, _durable) = Writer::open(&settings, Arc::clone(&queue), None).unwrap();
        drop(queue.close());
        writer.rotate();
        writer.run();
        let mut stops = Vec::new();
        for file in Folder::new(folder.path()).files().unwrap() {
            let mut lines = file.lines().unwrap();
            while let Some(Next::Line(line)) = lines.next_line().unwrap() {
                let stop = memchr::memmem::find(line, b"\"event\":\"stop\"").is_some();
                stops.extend(stop.then_some(file.number));
            }
        }
        assert_eq!(stops, [2]);
    }

    #[test]
    fn a_clock_that_is_set_is_noticed_once_and_one_that_goes_is_not() {
        let (wall, instant) = (clock::now(), clock::instant());
        let mut clocks = Clocks::since(wall, instant);
        let at = |seconds: i64| wall + SignedDuration::from_secs(seconds);
        let after = |seconds| instant + Duration::from_secs(seconds);
        assert_eq!(clocks.step(at(3_600), after(3_600)), None);
        // Two hours back, and on from there.
        assert_eq!(clocks.step(at(-3_590), after(3_610)), Some(-7_200_000));
        assert_eq!(clocks.step(at(-3_580), after(3_620)), None);
        // A second is what a clock may drift until it is asked again.
        assert_eq!(clocks.step(at(-3_579), after(3_620)), None);
        assert_eq!(clocks.step(at(-3_570), after(3_621)), Some(8_000));
    }

    #[test]
    fn a_chain_is_called_after_the_computer_and_after_no_other_chain_there() {
        let (one, two) = (name_of_computer(), name_of_computer());
        assert_ne!(one, two);
        let host = |name: &NodeId| {
            name.as_str()
                .rsplit_once('-')
                .map(|(host, _)| host.to_owned())
        };
        assert_eq!(host(&one), host(&two));
    }
}
