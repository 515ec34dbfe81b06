//! The audit trail: `[audit]`.
//!
//! Invariant: its key is none of another section's; bounds in which a disk is asked neither too often nor
//! too seldom. The defaults stand in `config/default.toml`.

use std::{
    num::NonZeroU32,
    ops::RangeInclusive,
    path::{self, Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use zeroize::Zeroizing;

use crate::{
    audit::{
        AuditSettings, Durability,
        key::{AuditKey, AuditKeys},
    },
    config::{cursor::Section, secret, ship},
    limits::Rate,
    store::{Backend, StateSettings},
    units::{GIB, KIB},
};

const SYNCS: RangeInclusive<Duration> = Duration::ZERO..=Duration::from_secs(1);
const WRITES: RangeInclusive<Duration> = Duration::from_millis(50)..=Duration::from_mins(1);
const CHECKPOINTS: RangeInclusive<Duration> = Duration::from_secs(1)..=Duration::from_hours(1);
const ROTATIONS: RangeInclusive<Duration> = Duration::from_mins(1)..=Duration::from_hours(24 * 31);
const DAY: Duration = Duration::from_hours(24);
/// Up to ten years. Zero is for ever.
const KEPT: RangeInclusive<Duration> = Duration::ZERO..=Duration::from_hours(24 * 3_660);

/// Reads `[audit]`, whose key and folder must not be those of `[state]`.
pub(super) fn audit(
    mut section: Section<'_>,
    state: Option<&StateSettings>,
) -> Option<AuditSettings> {
    let folder = folder(&mut section, state);
    let state = state.map(|state| &*state.key);
    let node = match section.optional("node") {
        None => Some(None),
        Some(field) => field.name().map(Some),
    };
    let keys = keys(&mut section, state);
    let durability = section.choice(
        "durability",
        &[
            ("required", Durability::Required),
            ("best_effort", Durability::BestEffort),
        ],
    );
    let sync_interval = section.duration("sync_interval", SYNCS);
    let write_timeout = section.duration("write_timeout", WRITES);
    let checkpoint_events = section.count("checkpoint_events", 1..=1_000_000);
    let checkpoint_every = section.duration("checkpoint_every", CHECKPOINTS);
    let rotate_size = section.size("rotate_size", 16 * KIB..=GIB);
    let rotate_every = section.duration("rotate_every", ROTATIONS);
    let keep = keep(&mut section);
    let keep_files = section.count("keep_files", 0..=1_000_000);
    let receipt = receipt(&mut section, durability);
    let rejected_rate = section
        .required("rejected_rate")
        .and_then(|f| f.rate(&(0..=1_000)));
    let image_digests = section.required("image_digests").and_then(|f| f.flag());
    let stdout = section.required("stdout").and_then(|f| f.flag());
    let ship_written = section.has("ship");
    let ship = ship::ship(&mut section);
    section.finish();
    Some(AuditSettings {
        folder: folder?,
        node: node?,
        keys: keys?,
        durability: durability?,
        sync_interval: sync_interval?,
        write_timeout: write_timeout?,
        checkpoint_events: checkpoint_events?,
        checkpoint_every: checkpoint_every?,
        rotate_size: rotate_size?,
        rotate_every: rotate_every?,
        keep: Some(keep?).filter(|keep| !keep.is_zero()),
        keep_files: Some(keep_files?).filter(|files| *files > 0),
        receipt: receipt?,
        rejected_rate: {
            let (count, period) = rejected_rate?;
            NonZeroU32::new(count).map(|count| Rate::new(count, period, None))
        },
        image_digests: image_digests?,
        stdout: stdout?,
        ship: if ship_written { Some(ship?) } else { None },
        via: None,
    })
}

fn folder(section: &mut Section<'_>, state: Option<&StateSettings>) -> Option<PathBuf> {
    let folder = match section.optional("path") {
        None => PathBuf::from("audit"),
        Some(field) => field.path()?,
    };
    if let Some(Backend::Embedded { path }) = state.map(|state| &state.backend) {
        stand_apart(section, &folder, path);
    }
    Some(folder)
}

/// What is in either folder is kept, saved and removed by rules of its own.
fn stand_apart(section: &Section<'_>, audit: &Path, state: &Path) {
    let absolute = |path: &Path| path::absolute(path).unwrap_or_else(|_| path.to_owned());
    let (audit, state) = (absolute(audit), absolute(state));
    let problem = if audit == state {
        "is the folder of `state.path`, too"
    } else if audit.starts_with(&state) {
        "is inside of the folder of `state.path`"
    } else if state.starts_with(&audit) {
        "has the folder of `state.path` inside of it"
    } else {
        return;
    };
    let mend = "give each a folder of its own, beside the other: \"state\" and \"audit\"";
    section.mistake("path", problem, mend);
}

/// Reads `keep`. It may be short where a second place has everything; more likely it is a slip.
fn keep(section: &mut Section<'_>) -> Option<Duration> {
    let keep = section.duration("keep", KEPT)?;
    if !keep.is_zero() && keep < DAY {
        let mend = "write how long they are to be kept, such as \"365d\", or \"0s\" for ever";
        section.warning(
            "keep",
            "removes audit files before they are a day old",
            mend,
        );
    }
    Some(keep)
}

/// Reads `receipt`, which says where something stands that is on disk.
fn receipt(section: &mut Section<'_>, durability: Option<Durability>) -> Option<bool> {
    let receipt = section.required("receipt").and_then(|f| f.flag());
    if (receipt, durability) == (Some(true), Some(Durability::BestEffort)) {
        section.mistake(
            "receipt",
            "needs `durability = \"required\"`: nobody waits until there is something to give a receipt of",
            "remove it, or change `durability`",
        );
    }
    receipt
}

fn keys(section: &mut Section<'_>, state: Option<&[u8; 32]>) -> Option<AuditKeys> {
    let key = secret::key(section, "key");
    if key.is_some() && key.as_deref() == state {
        section.mistake(
            "key",
            "is the same as `state.key`: that one makes the customers' keys in the state and seals it, this one \
             the trail's lines, its pseudonyms and its signatures, and who is given it to check the trail must \
             not have the other",
            "make a second one with: openssl rand -base64 32",
        );
    }
    let old = match section.optional("old_keys") {
        None => Some(Vec::new()),
        Some(field) => {
            let key = |item| secret::key_of(section, "old_keys", item);
            field.items()?.into_iter().map(key).collect()
        }
    };
    let derive = |secret: &[u8; 32]| Arc::new(AuditKey::derive(secret));
    let (key, old): (_, Vec<Zeroizing<_>>) = (key?, old?);
    Some(AuditKeys {
        current: derive(&key),
        old: old.iter().map(|secret| derive(secret)).collect(),
    })
}
