//! The audit trail: `[audit]`.
//!
//! Invariant: its key is none of another section's; bounds in which a disk is asked neither too often nor
//! too seldom. The defaults stand in `config/default.toml`.

use std::{num::NonZeroU32, ops::RangeInclusive, path::PathBuf, sync::Arc, time::Duration};

use zeroize::Zeroizing;

use crate::{
    audit::{
        AuditSettings, Durability,
        key::{AuditKey, AuditKeys},
    },
    config::{cursor::Section, secret, ship},
    limits::Rate,
    units::{GIB, KIB},
};

const SYNCS: RangeInclusive<Duration> = Duration::ZERO..=Duration::from_secs(1);
const WRITES: RangeInclusive<Duration> = Duration::from_millis(50)..=Duration::from_mins(1);
const CHECKPOINTS: RangeInclusive<Duration> = Duration::from_secs(1)..=Duration::from_hours(1);
const ROTATIONS: RangeInclusive<Duration> = Duration::from_mins(1)..=Duration::from_hours(24 * 31);
/// Up to ten years. Zero is for ever.
const KEPT: RangeInclusive<Duration> = Duration::ZERO..=Duration::from_hours(24 * 3_660);

/// Reads `[audit]`, whose keys must not be that of `[state]`.
pub(super) fn audit(mut section: Section<'_>, state: Option<&[u8; 32]>) -> Option<AuditSettings> {
    let folder = match section.optional("path") {
        None => Some(PathBuf::from("audit")),
        Some(field) => field.path(),
    };
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
    let keep = section.duration("keep", KEPT);
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
            "is the same as `state.key`, so whoever checks the trail could undo its pseudonyms",
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
