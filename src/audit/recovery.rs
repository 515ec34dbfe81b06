//! What the last process has left of a chain: how far it is, and what has to be put in order before it is
//! gone on with.
//!
//! A file is read from its first line. From the first line on that is not whole, or not ours, nothing counts
//! until a checkpoint that is: damage in the middle of a file is for `audit verify` to show. What is at the
//! end of it is set aside, so that it is neither taken for a record nor lost.

use std::{
    collections::BTreeSet,
    fs::{self, File, OpenOptions},
    io::{self, Seek, SeekFrom},
    path::{Path, PathBuf},
    sync::Arc,
};

use jiff::Timestamp;
use serde::Deserialize;

use super::{
    AuditSettings, OpenError,
    chain::{First, Gap, Kept, State, Upkeep},
    folder::{AuditFile, Folder, Next},
    key::{AuditKey, KeyId},
    line::Line,
    tree::Tree,
};
use crate::ident::{NodeId, RequestId};

/// What there is of a chain.
pub(super) struct Recovered {
    pub(super) node: NodeId,
    pub(super) state: State,
    /// Requests with an intent and no outcome.
    pub(super) open: BTreeSet<RequestId>,
    /// The number of the last file.
    pub(super) file: u64,
    /// What was set aside.
    pub(super) gap: Option<Gap>,
    /// Where the file is to be cut, once the chain says that what follows does not count.
    pub(super) cut: Option<Cut>,
    /// When the last event was written.
    pub(super) last: Timestamp,
}

/// The end of a file that was set aside, and still stands in it.
pub(super) struct Cut {
    path: PathBuf,
    from: u64,
}

impl Cut {
    /// Cuts it off.
    pub(super) fn make(&self) -> io::Result<()> {
        let file = OpenOptions::new().write(true).open(&self.path)?;
        file.set_len(self.from)?;
        file.sync_all()
    }
}

/// Reads the last file of the folder; nothing where there is none.
pub(super) fn recover(
    settings: &AuditSettings,
    now: Timestamp,
) -> Result<Option<Recovered>, OpenError> {
    let folder = Folder::new(&settings.folder);
    let files = folder.files().map_err(failed("read", folder.path()))?;
    for file in files.iter().rev() {
        let Some(mut scan) = Scan::run(file, settings)? else {
            is_as_written(file)?;
            // It was being begun when the process ended: nothing was recorded in it yet.
            tracing::warn!(
                audit.file = file.number,
                "an audit file without a whole line was set aside: a crash while it was begun, or somebody who cut it"
            );
            set_aside(file, 0, &now.as_millisecond().to_string())
                .and_then(|_| fs::remove_file(&file.path))
                .and_then(|()| sync_folder_of(file))
                .map_err(failed("set aside", &file.path))?;
            continue;
        };
        if scan.key.id() != settings.keys.current.id() {
            is_new(&files, &scan.node, settings)?;
        }
        let gap = scan.bad.map(|bad| bad.set_aside(file)).transpose()?;
        let open = std::mem::take(&mut scan.open);
        return Ok(Some(Recovered {
            node: scan.node,
            state: scan.state,
            open,
            file: file.number,
            gap,
            cut: scan.bad.map(|bad| Cut {
                path: file.path.clone(),
                from: bad.from,
            }),
            last: scan.last,
        }));
    }
    Ok(None)
}

/// Refuses a key that was replaced by the one that wrote last: who had got hold of it could go on so.
fn is_new(files: &[AuditFile], node: &NodeId, settings: &AuditSettings) -> Result<(), OpenError> {
    let id = settings.keys.current.id();
    let is_its = |file: &&AuditFile| {
        // One that cannot be read says nothing of its key.
        let first = First::by(file, node, &settings.keys);
        first.is_ok_and(|first| KeyId::parse(&first.opened.key) == Some(id))
    };
    match files.iter().find(is_its) {
        Some(file) => Err(OpenError::RetiredKey {
            path: file.path.clone(),
            key: id.to_string(),
        }),
        None => Ok(()),
    }
}

/// The end of a file that does not count.
#[derive(Clone, Copy)]
struct Bad {
    from: u64,
    /// Whether there is a whole line in it. A process that ends leaves a piece of one at most.
    lines: bool,
}

impl Bad {
    /// Sets it aside; what is to be said of it.
    fn set_aside(self, file: &AuditFile) -> Result<Gap, OpenError> {
        is_as_written(file)?;
        // The same name at each try, until a start has come so far as to cut it off.
        let bytes = set_aside(file, self.from, &self.from.to_string())
            .and_then(|bytes| sync_folder_of(file).map(|()| bytes))
            .map_err(failed("set aside the end of", &file.path))?;
        let (file, from_byte) = (file.number, self.from);
        let cause = if self.lines {
            tracing::error!(
                audit.file = file,
                from_byte,
                bytes,
                audit.cause = "damaged",
                "whole lines at the end of the last audit file are not as they were written; they were set aside: \
                 a power failure, or somebody who changed them (compare with the second place, or a published head)"
            );
            "damaged"
        } else {
            tracing::warn!(
                audit.file = file,
                from_byte,
                bytes,
                audit.cause = "torn",
                "a piece of a line at the end of the last audit file was set aside: a crash, or somebody who cut it"
            );
            "torn"
        };
        Ok(Gap {
            cause: cause.into(),
            file: Some(file),
            from_byte: Some(from_byte),
            bytes: Some(bytes),
            lost: None,
        })
    }
}

fn failed(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> OpenError {
    let path = path.to_owned();
    move |source| OpenError::Io { what, path, source }
}

/// A compressed file was whole once, and places in its lines are none in it: it is not cut.
fn is_as_written(file: &AuditFile) -> Result<(), OpenError> {
    let no_chain = || OpenError::NoChain(file.path.clone());
    (!file.compressed).then_some(()).ok_or_else(no_chain)
}

/// Where what does not count of a file goes.
pub(super) fn aside(path: &Path, name: &str) -> PathBuf {
    path.with_extension(format!("torn-{name}"))
}

/// Copies the end of a file, from this byte on, into a file of its own beside it; how many bytes that are.
fn set_aside(file: &AuditFile, from: u64, name: &str) -> io::Result<u64> {
    let aside = aside(&file.path, name);
    let mut source = File::open(&file.path)?;
    source.seek(SeekFrom::Start(from))?;
    let mut copy = private().create(true).truncate(true).open(aside)?;
    let bytes = io::copy(&mut source, &mut copy)?;
    copy.sync_all()?;
    Ok(bytes)
}

fn sync_folder_of(file: &AuditFile) -> io::Result<()> {
    let folder = file.path.parent().map(File::open).transpose()?;
    folder.map_or(Ok(()), |folder| folder.sync_all())
}

/// To write a file that only its owner reads.
pub(super) fn private() -> OpenOptions {
    use std::os::unix::fs::OpenOptionsExt;
    let mut options = OpenOptions::new();
    options.write(true).mode(0o600);
    options
}

/// One pass over a file.
struct Scan {
    node: NodeId,
    key: Arc<AuditKey>,
    state: State,
    open: BTreeSet<RequestId>,
    last: Timestamp,
    /// What does not count, up to here.
    bad: Option<Bad>,
}

/// What is read of any event.
#[derive(Deserialize)]
struct Told {
    time: Timestamp,
    phase: String,
    request_id: Option<RequestId>,
    event: Option<String>,
}

impl Scan {
    /// Reads a file; nothing where not even its first line was finished.
    fn run(file: &AuditFile, settings: &AuditSettings) -> Result<Option<Self>, OpenError> {
        let mut lines = file.lines().map_err(failed("read", &file.path))?;
        let mut scan: Option<Self> = None;
        let mut offset = 0;
        while let Some(next) = lines.next_line().map_err(failed("read", &file.path))? {
            let (Next::Line(bytes) | Next::Torn(bytes)) = next;
            let whole = matches!(next, Next::Line(_));
            let line = Line::parse(bytes).filter(|_| whole);
            match (&mut scan, line) {
                (None, None) if whole => return Err(OpenError::NoChain(file.path.clone())),
                (None, None) => return Ok(None),
                (None, Some(line)) => scan = Some(Self::begin(line, file, settings)?),
                (Some(scan), line) => {
                    if !line.is_some_and(|line| scan.take(line)) {
                        let bad = Bad {
                            from: offset,
                            lines: false,
                        };
                        scan.bad.get_or_insert(bad).lines |= whole;
                    }
                }
            }
            offset += u64::try_from(bytes.len()).unwrap_or(u64::MAX) + u64::from(whole);
        }
        Ok(scan)
    }

    fn begin(
        line: Line<'_>,
        file: &AuditFile,
        settings: &AuditSettings,
    ) -> Result<Self, OpenError> {
        let no_chain = || OpenError::NoChain(file.path.clone());
        let kept: Kept = serde_json::from_slice(line.bytes()).map_err(|_| no_chain())?;
        let Upkeep::FileOpened(opened) = kept.upkeep else {
            return Err(no_chain());
        };
        if opened.file != file.number {
            return Err(no_chain());
        }
        let key = KeyId::parse(&opened.key).and_then(|id| settings.keys.find(id));
        let key = key.ok_or_else(|| OpenError::Key {
            path: file.path.clone(),
            key: opened.key.escape_default().to_string(),
        })?;
        let before = line.seq.checked_sub(1);
        let tree = before.and_then(|size| Tree::restore(size, opened.subtrees));
        let node = NodeId::try_from(line.node).ok();
        let (Some(mut tree), Some(node), true) = (tree, node, line.is_by(key)) else {
            return Err(no_chain());
        };
        if settings.node.as_ref().is_some_and(|named| *named != node) {
            return Err(OpenError::Node {
                path: settings.folder.clone(),
                node: node.to_string(),
            });
        }
        tree.push(line.leaf());
        Ok(Self {
            node,
            key: Arc::clone(key),
            state: State {
                prev: line.mac,
                tree,
            },
            open: opened.open.into_iter().collect(),
            last: kept.time,
            bad: None,
        })
    }

    /// Goes on with a line; whether it counts.
    fn take(&mut self, line: Line<'_>) -> bool {
        if !line.is_by(&self.key) || line.node != self.node.as_str() {
            return false;
        }
        let Ok(told) = serde_json::from_slice::<Told>(line.bytes()) else {
            return false;
        };
        let follows = line.seq == self.state.seq() + 1 && line.prev == self.state.prev;
        if self.bad.is_some() || !follows {
            // A checkpoint knows the tree of all that was before it.
            let Some(tree) = tree_of(line) else {
                return false;
            };
            self.state.tree = tree;
            self.bad = None;
        }
        self.state.tree.push(line.leaf());
        self.state.prev = line.mac;
        self.last = told.time;
        match (told.phase.as_str(), told.event.as_deref(), told.request_id) {
            ("intent", _, Some(id)) => {
                self.open.insert(id);
            }
            ("outcome", _, Some(id)) | (_, Some("status_refreshed"), Some(id)) => {
                self.open.remove(&id);
            }
            _ => {}
        }
        true
    }
}

fn tree_of(line: Line<'_>) -> Option<Tree> {
    let kept: Kept = serde_json::from_slice(line.bytes()).ok()?;
    let Upkeep::Checkpoint(signed) = kept.upkeep else {
        return None;
    };
    let in_its_place = signed.size.checked_add(1) == Some(line.seq);
    Tree::restore(signed.size, signed.subtrees).filter(|_| in_its_place)
}
