//! The audit trail of a real process: what is on disk when it is killed at any moment, and what becomes of
//! requests while the disk does not take their record.

mod disk;
mod kill;
mod start;
mod time;

use std::{collections::BTreeSet, path::Path};

use base64::{Engine, prelude::BASE64_STANDARD};
use dcams_gateway::{
    audit::{
        folder::{Folder, Next},
        key::AuditKey,
    },
    ident::{Purpose, TenantId},
};
use serde_json::Value;

use crate::program::run;

/// What a chain says.
struct Recorded {
    events: Vec<Value>,
    key: AuditKey,
}

impl Recorded {
    /// All events of the chain in this folder, in order.
    fn read(folder: &Path, key: &Path) -> Self {
        let key = BASE64_STANDARD.decode(std::fs::read(key).unwrap()).unwrap();
        let mut events = Vec::new();
        for file in Folder::new(folder).files().unwrap() {
            let mut lines = file.lines().unwrap();
            while let Some(Next::Line(line)) = lines.next_line().unwrap() {
                events.push(serde_json::from_slice(line).unwrap());
            }
        }
        let key = AuditKey::derive(&key.try_into().unwrap());
        Self { events, key }
    }

    fn of_phase(&self, phase: &str) -> impl Iterator<Item = &Value> {
        self.events
            .iter()
            .filter(move |event| event["phase"] == phase)
    }

    /// The gateway's own acts of one kind.
    fn acts(&self, kind: &str) -> Vec<&Value> {
        self.events
            .iter()
            .filter(|event| event["event"] == kind)
            .collect()
    }

    /// The texts of one member.
    fn texts<'a>(events: impl Iterator<Item = &'a Value>, member: &str) -> BTreeSet<&'a str> {
        events.filter_map(|event| event[member].as_str()).collect()
    }

    /// What a customer of the demo's tenant is called in it.
    fn name_of(&self, email: &str) -> String {
        let tenant = TenantId::try_from("demo").unwrap();
        let pseudonyms = self.key.pseudonyms();
        let pseudonym = pseudonyms.pseudonym(Purpose::Customer, &tenant, email.as_bytes());
        pseudonym.to_string()
    }
}

/// Has `audit verify` look at a folder; what it says if it finds it whole.
async fn verify(folder: &Path, key: &Path) -> String {
    let (folder, key) = (folder.display().to_string(), key.display().to_string());
    let ended = run(&["audit", "verify", "--key", &key, &folder], &[]).await;
    assert!(ended.status.success(), "{}{}", ended.out, ended.err);
    ended.out
}
