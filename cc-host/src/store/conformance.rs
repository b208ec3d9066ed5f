//! What every implementation of the store must do, as one suite to run over each. Refuses to know which one it runs over.

use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;

use super::{Compare, Event, LeaseId, Op, SqliteStore, Store, StoreError, Txn, typed};

fn put(key: &str, value: &str) -> Op {
    Op::Put { key: key.to_owned(), value: value.as_bytes().to_vec(), lease: None }
}

fn delete(key: &str) -> Op {
    Op::Delete { key: key.to_owned() }
}

async fn commit(store: &dyn Store, ops: Vec<Op>) -> u64 {
    match store.txn(vec![], ops).await.unwrap() {
        Txn::Committed { revision } => revision,
        Txn::Conflict => panic!("nothing was compared"),
    }
}

async fn keys(store: &dyn Store, prefix: &str) -> Vec<String> {
    store.range(prefix).await.unwrap().0.into_iter().map(|kv| kv.key).collect()
}

/// `store` is new; its history is bounded by `history_revisions_max`.
pub(crate) async fn run(store: Arc<dyn Store>, history_revisions_max: u64) {
    let store = &*store;
    reads_and_revisions(store).await;
    prefixes_are_exact(store).await;
    compares(store).await;
    limits(store).await;
    watches_are_in_order(store).await;
    leases(store).await;
    history_is_bounded(store, history_revisions_max).await;
}

async fn reads_and_revisions(store: &dyn Store) {
    assert_eq!(store.get("a").await.unwrap(), None);
    assert_eq!(store.range("").await.unwrap(), (vec![], 0));
    assert_eq!(commit(store, vec![put("a", "1"), put("b", "1")]).await, 1);
    assert_eq!(commit(store, vec![put("a", "2")]).await, 2);
    let a = store.get("a").await.unwrap().unwrap();
    assert_eq!((a.value.as_slice(), a.created, a.modified), (b"2".as_slice(), 1, 2));
    assert_eq!(commit(store, vec![delete("a")]).await, 3);
    assert_eq!(store.get("a").await.unwrap(), None);
    assert_eq!(commit(store, vec![put("a", "3")]).await, 4);
    assert_eq!(store.get("a").await.unwrap().unwrap().created, 4, "a new life has a new start");
    let (kvs, revision) = store.range("").await.unwrap();
    assert_eq!((kvs.len(), revision), (2, 4));
    // As any other to whoever reads.
    assert_eq!(store.txn_unsynced(vec![], vec![put("u", "1")]).await.unwrap(), Txn::Committed { revision: 5 });
    assert_eq!(store.get("u").await.unwrap().unwrap().value, b"1");
    let taken = vec![Compare::Absent("u".to_owned())];
    assert_eq!(store.txn_unsynced(taken, vec![delete("u")]).await.unwrap(), Txn::Conflict);
}

async fn prefixes_are_exact(store: &dyn Store) {
    let names = ["p/", "p/a", "p/\u{10ffff}", "p/é", "p0", "p", "p/a/b"];
    commit(store, names.iter().map(|key| put(key, "")).collect()).await;
    assert_eq!(keys(store, "p/").await, ["p/", "p/a", "p/a/b", "p/é", "p/\u{10ffff}"]);
    assert_eq!(keys(store, "p/a").await, ["p/a", "p/a/b"]);
    assert_eq!(keys(store, "q").await, Vec::<String>::new());
}

async fn compares(store: &dyn Store) {
    let at = commit(store, vec![put("c", "1")]).await;
    let absent = |key: &str| Compare::Absent(key.to_owned());
    let present = |key: &str| Compare::Present(key.to_owned());
    for refused in [absent("c"), present("d"), Compare::Modified("c".into(), at + 1), Compare::Modified("d".into(), 1)]
    {
        assert_eq!(
            store.txn(vec![present("c"), refused], vec![put("c", "2"), put("d", "")]).await.unwrap(),
            Txn::Conflict
        );
    }
    assert_eq!(store.get("c").await.unwrap().unwrap().value, b"1", "a conflict writes nothing");
    assert_eq!(store.range("").await.unwrap().1, at, "and makes no revision");
    let all = vec![present("c"), absent("d"), Compare::Modified("c".into(), at)];
    assert_eq!(store.txn(all, vec![put("c", "2")]).await.unwrap(), Txn::Committed { revision: at + 1 });
    let value = typed::put_json(store, "json", &vec![1, 2]).await.unwrap();
    let read = typed::get_json::<Vec<u32>>(store, "json").await.unwrap().unwrap();
    assert_eq!((read.value, read.modified), (vec![1, 2], value));
    assert_eq!(typed::create_json(store, "json", &0).await.unwrap(), Txn::Conflict);
    assert!(matches!(typed::get_json::<u32>(store, "json").await, Err(StoreError::Decode { .. })));
}

async fn limits(store: &dyn Store) {
    let long = "k".repeat(super::KEY_BYTES_MAX + 1);
    assert!(matches!(store.txn(vec![], vec![put(&long, "")]).await, Err(StoreError::KeyTooLong(_))));
    let large = "v".repeat(super::VALUE_BYTES_MAX + 1);
    assert!(matches!(store.txn(vec![], vec![put("k", &large)]).await, Err(StoreError::ValueTooLarge { .. })));
    let many = (0..=super::TXN_OPS_MAX).map(|i| put(&format!("k{i}"), "")).collect();
    assert!(matches!(store.txn(vec![], many).await, Err(StoreError::TxnTooLarge(_))));
    assert_eq!(keys(store, "k").await, Vec::<String>::new());
    let full = "v".repeat(super::VALUE_BYTES_MAX);
    commit(store, vec![put("k", &full)]).await;
    commit(store, vec![delete("k")]).await;
}

async fn watches_are_in_order(store: &dyn Store) {
    let from = commit(store, vec![put("w/1", "a"), put("x/1", "a")]).await;
    let mut events = store.watch("w/", from).await.unwrap();
    let later = commit(store, vec![delete("w/1"), put("w/2", "b"), delete("w/none")]).await;
    let mut seen = Vec::new();
    for _ in 0..3 {
        seen.push(match events.next().await.unwrap() {
            Event::Put(kv) => (kv.modified, format!("+{}", kv.key)),
            Event::Deleted { key, revision } => (revision, format!("-{key}")),
            Event::Compacted { oldest } => panic!("compacted to {oldest}"),
        });
    }
    let expected = [(from, "+w/1"), (later, "-w/1"), (later, "+w/2")].map(|(at, what)| (at, what.to_owned()));
    assert_eq!(seen, expected);
    // A watch that waits is woken.
    let (next, at) = tokio::join!(events.next(), commit(store, vec![put("w/3", "")]));
    assert!(matches!(next, Some(Event::Put(kv)) if kv.modified == at && kv.key == "w/3"));
}

async fn leases(store: &dyn Store) {
    let held = |key: &str, lease| Op::Put { key: key.to_owned(), value: vec![], lease: Some(lease) };
    assert!(matches!(store.txn(vec![], vec![held("l", LeaseId(9999))]).await, Err(StoreError::NoLease(9999))));

    let lease = store.lease_grant(60_000).await.unwrap();
    commit(store, vec![held("l/1", lease), held("l/2", lease)]).await;
    commit(store, vec![put("l/2", "set free")]).await;
    store.lease_keep_alive(lease).await.unwrap();
    store.lease_revoke(lease).await.unwrap();
    assert_eq!(keys(store, "l/").await, ["l/2"], "a put without the lease sets the key free");
    assert!(matches!(store.lease_keep_alive(lease).await, Err(StoreError::NoLease(_))));

    let short = store.lease_grant(1).await.unwrap();
    let long = store.lease_grant(60_000).await.unwrap();
    // The first lease may be over before the put; then the put says so.
    let _raced = store.txn(vec![], vec![held("l/3", short)]).await;
    let from = commit(store, vec![held("l/4", long)]).await;
    let mut events = store.watch("l/3", 1).await.unwrap();
    let gone = async {
        while store.lease_keep_alive(short).await.is_ok() || store.get("l/3").await.unwrap().is_some() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(5), gone).await.unwrap_or(());
    if store.get("l/3").await.unwrap().is_some() {
        // Each keep-alive above gave it another millisecond; left alone it ends.
        let ended = async { while !matches!(events.next().await, Some(Event::Deleted { .. })) {} };
        tokio::time::timeout(Duration::from_secs(5), ended).await.unwrap();
    }
    assert_eq!(keys(store, "l/").await, ["l/2", "l/4"]);
    assert!(from > 0);
    let after = store.range("").await.unwrap().1;
    commit(store, vec![put("l/5", "")]).await;
    assert_eq!(store.range("").await.unwrap().1, after + 1);
}

async fn history_is_bounded(store: &dyn Store, history_revisions_max: u64) {
    let from = store.range("").await.unwrap().1;
    for i in 0..=history_revisions_max {
        commit(store, vec![put("h", &i.to_string())]).await;
    }
    let revision = store.range("").await.unwrap().1;
    let mut events = store.watch("h", from).await.unwrap();
    let oldest = revision + 1 - history_revisions_max;
    assert_eq!(events.next().await, Some(Event::Compacted { oldest }));
    assert_eq!(events.next().await, None);
    let mut events = store.watch("h", oldest).await.unwrap();
    assert!(matches!(events.next().await, Some(Event::Put(kv)) if kv.modified == oldest));
}

#[tokio::test]
async fn sqlite_conforms() {
    let dir = tempfile::tempdir().unwrap();
    let store = SqliteStore::open_with(&dir.path().join("s"), 64).unwrap();
    run(Arc::new(store), 64).await;
}

#[tokio::test]
async fn two_openers_see_each_other() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s");
    let (a, b) = (SqliteStore::open(&path).unwrap(), SqliteStore::open(&path).unwrap());
    let mut events = a.watch("k", 1).await.unwrap();
    let at = commit(&b, vec![put("k", "from b")]).await;
    assert!(matches!(events.next().await, Some(Event::Put(kv)) if kv.modified == at));
    assert_eq!(a.get("k").await.unwrap().unwrap().value, b"from b");
    let writers = (0..20).map(|i| {
        let store = if i % 2 == 0 { a.clone() } else { b.clone() };
        async move { commit(&store, vec![put(&format!("n/{i}"), "")]).await }
    });
    let mut revisions = futures::future::join_all(writers).await;
    revisions.sort_unstable();
    assert_eq!(revisions, (at + 1..at + 21).collect::<Vec<_>>(), "no revision twice, none missing");
}

#[tokio::test]
async fn the_file_is_private_and_its_schema_is_checked() {
    use std::os::unix::fs::PermissionsExt;
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s");
    let store = SqliteStore::open(&path).unwrap();
    commit(&store, vec![put("k", "v")]).await;
    for entry in std::fs::read_dir(dir.path()).unwrap() {
        let entry = entry.unwrap();
        assert_eq!(entry.metadata().unwrap().permissions().mode() & 0o777, 0o600, "{:?}", entry.file_name());
    }
    rusqlite::Connection::open(&path).unwrap().pragma_update(None, "user_version", 99).unwrap();
    assert!(matches!(SqliteStore::open(&path), Err(StoreError::Schema { found: 99, .. })));
}
