//! What a store promises, run against each backend, and what the file promises besides.

mod contract;

use std::{fs, os::unix::fs::PermissionsExt, panic, path::PathBuf};

use redb::{Database, ReadableDatabase, ReadableTable, TableDefinition};
use tempfile::TempDir;

use self::contract::{KEY, contract, get, increment, key, put, undoing};
use super::*;
use crate::ident::{AccountId, PseudonymKey, Purpose};

const CUSTOMERS: TableDefinition<'_, &[u8], &[u8]> = TableDefinition::new("customers");
const META: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("meta");

fn folder() -> (TempDir, PathBuf) {
    let outer = tempfile::tempdir().unwrap();
    let state = outer.path().join("not/yet/there");
    (outer, state)
}

#[tokio::test]
async fn the_embedded_store_keeps_the_contract() {
    let (_outer, state) = folder();
    contract(Store::embedded(&state, &KEY).unwrap()).await;
}

#[tokio::test]
async fn the_embedded_store_undoes_what_nobody_waits_for() {
    let (_outer, state) = folder();
    undoing(Store::embedded(&state, &KEY).unwrap()).await;
}

#[tokio::test]
async fn what_was_written_is_there_after_a_restart() {
    let (_outer, state) = folder();
    let store = Store::embedded(&state, &KEY).unwrap();
    put(&store, "a", b"value").await;
    drop(store);
    let store = Store::embedded(&state, &KEY).unwrap();
    assert_eq!(get(&store, "a").await.unwrap(), b"value");
}

#[tokio::test]
async fn folder_and_files_are_private_and_hold_no_plain_value() {
    let (_outer, state) = folder();
    let store = Store::embedded(&state, &KEY).unwrap();
    put(&store, "canary-key", b"canary-value-canary-value").await;
    drop(store);
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&state), 0o700);
    for entry in fs::read_dir(&state).unwrap() {
        let path = entry.unwrap().path();
        assert_eq!(mode(&path), 0o600, "{}", path.display());
        let bytes = fs::read(&path).unwrap();
        assert!(
            !bytes.windows(6).any(|w| w == b"canary"),
            "{}",
            path.display()
        );
    }
}

#[test]
fn two_processes_never_share_a_store() {
    let (_outer, state) = folder();
    let store = Store::embedded(&state, &KEY).unwrap();
    let again = Store::embedded(&state, &KEY).unwrap_err();
    assert!(matches!(again, OpenError::InUse(_)), "{again}");
    drop(store);
    assert!(Store::embedded(&state, &KEY).is_ok());
}

#[test]
fn another_key_is_told_from_damage_and_changes_nothing() {
    let (_outer, state) = folder();
    drop(Store::embedded(&state, &KEY).unwrap());
    let error = Store::embedded(&state, &[8; 32]).unwrap_err();
    assert!(matches!(error, OpenError::WrongKey(_)), "{error}");
    assert!(error.to_string().contains("state.key"));
    assert!(Store::embedded(&state, &KEY).is_ok());
}

#[test]
fn a_store_of_a_newer_version_is_refused() {
    let (_outer, state) = folder();
    drop(Store::embedded(&state, &KEY).unwrap());
    edit(&state, |db| {
        let transaction = db.begin_write().unwrap();
        let newer = (embedded::SCHEMA + 1).to_le_bytes();
        let mut meta = transaction.open_table(META).unwrap();
        meta.insert("schema", newer.as_slice()).unwrap();
        drop(meta);
        transaction.commit().unwrap();
    });
    let error = Store::embedded(&state, &KEY).unwrap_err();
    assert!(
        matches!(error, OpenError::Newer { found, .. } if found == embedded::SCHEMA + 1),
        "{error}"
    );
}

#[tokio::test]
async fn a_store_of_the_first_format_is_brought_up_with_all_that_it_holds() {
    let (_outer, state) = folder();
    let store = Store::embedded(&state, &KEY).unwrap();
    put(&store, "a", b"kept").await;
    drop(store);
    let first_format = |lost: Option<Table>| {
        edit(&state, |db| {
            let transaction = db.begin_write().unwrap();
            let mut meta = transaction.open_table(META).unwrap();
            meta.insert("schema", 1_u32.to_le_bytes().as_slice())
                .unwrap();
            drop(meta);
            for table in [Some(Table::Credentials), lost].into_iter().flatten() {
                let name = TableDefinition::<&[u8], &[u8]>::new(table.name());
                transaction.delete_table(name).unwrap();
            }
            transaction.commit().unwrap();
        });
    };
    first_format(None);
    let store = Store::embedded(&state, &KEY).unwrap();
    assert_eq!(get(&store, "a").await.unwrap(), b"kept");
    assert_eq!(store.get(Table::Credentials, &key("a")).await, Ok(None));
    drop(store);
    // A table that it should have had is not made anew.
    first_format(Some(Table::Revocations));
    let error = Store::embedded(&state, &KEY).unwrap_err();
    assert!(matches!(error, OpenError::Damaged(_)), "{error}");
}

#[test]
fn a_folder_that_cannot_be_made_is_named() {
    let outer = tempfile::tempdir().unwrap();
    fs::write(outer.path().join("file"), "").unwrap();
    let error = Store::embedded(&outer.path().join("file/state"), &KEY).unwrap_err();
    assert!(matches!(error, OpenError::Folder { .. }), "{error}");
    assert!(error.to_string().contains("file/state"));
}

#[test]
fn a_start_that_was_cut_off_leaves_nothing_in_the_way() {
    let (_outer, state) = folder();
    fs::create_dir_all(&state).unwrap();
    fs::write(state.join("state.redb.new"), "half of it").unwrap();
    assert!(Store::embedded(&state, &KEY).is_ok());
    assert!(!state.join("state.redb.new").exists());
}

#[tokio::test]
async fn a_value_that_was_moved_is_damage_and_not_an_answer() {
    let (_outer, state) = folder();
    let store = Store::embedded(&state, &KEY).unwrap();
    put(&store, "mine", b"owner: mine").await;
    put(&store, "other", b"owner: other").await;
    drop(store);
    edit(&state, |db| {
        let transaction = db.begin_write().unwrap();
        let mut table = transaction.open_table(CUSTOMERS).unwrap();
        let (from, to) = (key("mine").to_bytes(), key("other").to_bytes());
        let value = table.get(&from[..]).unwrap().unwrap().value().to_vec();
        table.insert(&to[..], value.as_slice()).unwrap();
        drop(table);
        transaction.commit().unwrap();
    });
    let store = Store::embedded(&state, &KEY).unwrap();
    let damaged = Err(StoreError::Damaged);
    let other = vec![key("other"), key("new")];
    assert_eq!(store.get(Table::Customers, &key("other")).await, damaged);
    assert!(store.scan(Table::Customers).await.is_err());
    // It spoils neither the updates that share its commit nor what it stands beside.
    let (bad, good) = tokio::join!(
        store.update(Table::Customers, other, increment),
        put(&store, "third", b"3"),
    );
    assert_eq!((bad, good), (Err(StoreError::Damaged), vec![None]));
    assert_eq!(get(&store, "new").await, None);
    assert_eq!(get(&store, "mine").await.unwrap(), b"owner: mine");
}

/// Whatever is wrong with the file: it opens and answers right, or there is a clear error.
#[tokio::test]
async fn damage_never_gives_a_panic_or_a_wrong_value() {
    let (_outer, state) = folder();
    let store = Store::embedded(&state, &KEY).unwrap();
    let names: Vec<String> = (0..300).map(|n| format!("customer {n}")).collect();
    let value = |index: usize| vec![u8::try_from(index % 256).unwrap(); EVEN];
    let keys = names.iter().map(|name| key(name)).collect();
    let numbered = move |index: usize, _: Option<&[u8]>| Change::Put(value(index));
    store
        .update(Table::Customers, keys, numbered)
        .await
        .unwrap();
    drop(store);
    let file = state.join("state.redb");
    let sound = fs::read(&file).unwrap();
    let mut refused = 0;
    for (what, bytes) in damages(&sound) {
        fs::write(&file, &bytes).unwrap();
        let store = match Store::embedded(&state, &KEY) {
            Ok(store) => store,
            Err(OpenError::Damaged(path)) => {
                refused += 1;
                assert_eq!(path, file, "{what}");
                continue;
            }
            Err(other) => panic!("{what}: {other}"),
        };
        // It was found when it opened, so nothing is wrong under a request.
        for (index, name) in names.iter().enumerate().step_by(7) {
            let found = store.get(Table::Customers, &key(name)).await;
            assert_eq!(found, Ok(Some(value(index))), "{what}");
        }
    }
    assert!(refused > 100, "{refused} refused");
    fs::write(&file, &sound).unwrap();
    let store = Store::embedded(&state, &KEY).unwrap();
    assert_eq!(get(&store, "customer 0").await, Some(value(0)));
}

/// Flipped bytes all over what is used, files that were cut, lost pages, another file.
fn damages(sound: &[u8]) -> impl Iterator<Item = (String, Vec<u8>)> {
    let used: Vec<usize> = (0..sound.len()).filter(|at| sound[*at] != 0).collect();
    let step = (used.len() / 400).max(1);
    let flipped: Vec<usize> = used
        .into_iter()
        .filter(|at| at % step == 0 || *at < 320)
        .collect();
    let flips = flipped.into_iter().map(|at| {
        let mut bytes = sound.to_vec();
        bytes[at] ^= 0x55;
        (format!("flipped at {at}"), bytes)
    });
    let end = sound.len();
    let cuts = [
        0,
        1,
        9,
        63,
        64,
        320,
        4096,
        8192,
        end / 2,
        end - 4096,
        end - 1,
    ];
    let cuts = cuts
        .into_iter()
        .map(|at| (format!("cut to {at}"), sound[..at].to_vec()));
    let zeroed = (0..end).step_by(4096).take(64).map(move |at| {
        let mut bytes = sound.to_vec();
        bytes[at..end.min(at + 4096)].fill(0);
        (format!("page at {at} zeroed"), bytes)
    });
    let foreign = [("no store at all".to_owned(), b"#!/bin/sh\n".repeat(1000))];
    flips.chain(cuts).chain(zeroed).chain(foreign)
}

/// Opens the file as whoever has write access to it could.
fn edit(state: &Path, change: impl FnOnce(&Database)) {
    let db = Database::open(state.join("state.redb")).unwrap();
    assert!(db.begin_read().is_ok());
    change(&db);
}

#[tokio::test]
async fn a_link_that_leads_nowhere_is_not_taken_for_a_missing_file() {
    let (folder, elsewhere) = (TempDir::new().unwrap(), TempDir::new().unwrap());
    drop(Store::embedded(elsewhere.path(), &KEY).unwrap());
    let volume = elsewhere.path().join("state.redb");
    std::os::unix::fs::symlink(&volume, folder.path().join("state.redb")).unwrap();
    drop(Store::embedded(folder.path(), &KEY).unwrap());
    fs::remove_file(&volume).unwrap();
    assert!(Store::embedded(folder.path(), &KEY).is_err());
    assert!(!volume.exists());
}
