//! What every backend has to keep. The tests of each backend run it, those of Redis from another crate,
//! so that the names of this one come from whoever includes it.

use std::{
    task::{Context, Waker},
    time::Duration,
};

use futures_util::{FutureExt, future::join_all};
use tokio::time::timeout;

use super::{AccountId, Change, Pseudonym, PseudonymKey, Purpose, Store, Table};

pub(super) const KEY: [u8; 32] = [7; 32];

pub(super) fn key(name: &str) -> Pseudonym {
    let account = AccountId::try_from("main").unwrap();
    PseudonymKey::derive(&KEY).pseudonym(Purpose::Owner, &account, name.as_bytes())
}

pub(super) async fn put(store: &Store, name: &str, value: &[u8]) -> Vec<Option<Vec<u8>>> {
    let value = value.to_vec();
    let change = move |_, _: Option<&[u8]>| Change::Put(value.clone());
    store
        .update(Table::Customers, vec![key(name)], change)
        .await
        .unwrap()
}

pub(super) async fn get(store: &Store, name: &str) -> Option<Vec<u8>> {
    store.get(Table::Customers, &key(name)).await.unwrap()
}

pub(super) fn count(value: Option<&[u8]>) -> u32 {
    value.map_or(0, |bytes| u32::from_le_bytes(bytes.try_into().unwrap()))
}

pub(super) fn increment(_: usize, value: Option<&[u8]>) -> Change {
    Change::Put((count(value) + 1).to_le_bytes().to_vec())
}

/// What every backend has to keep.
pub(super) async fn contract(store: Store) {
    assert_eq!(get(&store, "a").await, None);
    assert_eq!(put(&store, "a", b"1").await, [None]);
    assert_eq!(put(&store, "a", b"2").await, [Some(b"1".to_vec())]);
    assert_eq!(get(&store, "a").await.unwrap(), b"2");
    // A table of its own.
    assert_eq!(store.get(Table::Revocations, &key("a")).await, Ok(None));
    assert_eq!(store.scan(Table::Revocations).await, Ok(vec![]));

    let keep = |_, _: Option<&[u8]>| Change::Keep;
    let both = vec![key("a"), key("b")];
    let former = store.update(Table::Customers, both, keep).await;
    assert_eq!(former, Ok(vec![Some(b"2".to_vec()), None]));
    assert_eq!(get(&store, "b").await, None);

    // A key that stands there twice is changed twice.
    let keys = vec![key("n"), key("m"), key("n")];
    let former = store
        .update(Table::Customers, keys, increment)
        .await
        .unwrap();
    let former: Vec<u32> = former.iter().map(|value| count(value.as_deref())).collect();
    assert_eq!(former, [0, 0, 1]);
    assert_eq!(count(get(&store, "n").await.as_deref()), 2);

    let more = (0..100).map(|_| store.update(Table::Customers, vec![key("n")], increment));
    let former = join_all(more).await;
    let mut former: Vec<u32> = former
        .into_iter()
        .map(|value| count(value.unwrap()[0].as_deref()))
        .collect();
    former.sort_unstable();
    assert_eq!(former, (2..102).collect::<Vec<u32>>());

    let mut all = store.scan(Table::Customers).await.unwrap();
    all.sort_by_key(|(key, _)| key.to_bytes());
    let mut expected = vec![
        (key("a"), b"2".to_vec()),
        (key("m"), 1_u32.to_le_bytes().to_vec()),
        (key("n"), 102_u32.to_le_bytes().to_vec()),
    ];
    expected.sort_by_key(|(key, _)| key.to_bytes());
    assert_eq!(all, expected);

    let remove = |_, _: Option<&[u8]>| Change::Remove;
    let keys = vec![key("a"), key("b")];
    store.update(Table::Customers, keys, remove).await.unwrap();
    assert_eq!(get(&store, "a").await, None);

    // Once asked for, it happens, whoever has left.
    let mut asked = Box::pin(store.update(Table::Customers, vec![key("left")], increment));
    assert!(
        asked
            .as_mut()
            .poll(&mut Context::from_waker(Waker::noop()))
            .is_pending()
    );
    drop(asked);
    put(&store, "later", b"").await;
    assert_eq!(count(get(&store, "left").await.as_deref()), 1);
}

/// What an update does that nobody waits for any more, where it is to be undone.
pub(super) async fn undoing(store: Store) {
    let kept = key("kept");
    let put = |_: Option<&[u8]>| Change::Put(b"held".to_vec());
    let undo = |value: Option<&[u8]>| match value {
        Some(b"held") => Change::Remove,
        Some(_) | None => Change::Keep,
    };
    // Asked for and waited for: it stays.
    let updated = store.update_or_undo(Table::Customers, kept, put, undo);
    assert_eq!(updated.await, Ok(None));
    assert!(store.get(Table::Customers, &kept).await.unwrap().is_some());
    // Asked for, and given up before it was done.
    let other = key("other");
    let mut asked = Box::pin(store.update_or_undo(Table::Customers, other, put, undo));
    assert!((&mut asked).now_or_never().is_none());
    drop(asked);
    // It is written first, and undone after that.
    let keep = |_: usize, _: Option<&[u8]>| Change::Keep;
    let undone = async {
        tokio::time::sleep(Duration::from_millis(200)).await;
        while store.update(Table::Customers, vec![other], keep).await != Ok(vec![None]) {}
    };
    assert!(timeout(Duration::from_secs(20), undone).await.is_ok());
    assert!(store.get(Table::Customers, &other).await.unwrap().is_none());
    assert!(store.get(Table::Customers, &kept).await.unwrap().is_some());
}
