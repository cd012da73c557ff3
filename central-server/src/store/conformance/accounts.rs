//! What the suite asks of accounts, sessions and the reads that an export needs.

use vecino_rest::{Digest, UserName};

use super::{Bench, PeerRow, announce, file, row};
use crate::store::{Account, Expect, PeerNo, Session, StoreError, bucket_of};

fn user(name: &str) -> UserName {
    UserName::parse(name).expect("valid")
}

fn account(name: &str, stamp: u64) -> Account {
    Account {
        user: user(name),
        password: format!("$argon2id$of {name}"),
        stamp,
        created_ms: 1_700_000_000_000,
    }
}

pub(super) async fn an_account_is_made_changed_and_removed(bench: Bench) {
    let store = &bench.store;
    let put = async |account: &Account, expect| {
        let put = store.put_account(account.clone(), expect).await;
        put.expect("puts")
    };
    let (ana, again) = (account("ana", 1), account("ana", 2));
    assert!(!put(&ana, Expect::Present).await, "nobody to change");
    assert!(put(&ana, Expect::Absent).await);
    assert!(!put(&again, Expect::Absent).await, "taken");
    let stored = async |name| store.account(&user(name)).await.expect("reads");
    assert_eq!(stored("ana").await, Some(ana));
    assert!(put(&again, Expect::Present).await);
    assert_eq!(stored("ana").await, Some(again));
    assert_eq!(stored("an").await, None);
    assert!(store.remove_account(&user("ana")).await.expect("removes"));
    assert!(!store.remove_account(&user("ana")).await.expect("removes"));
    assert_eq!(stored("ana").await, None);
}

pub(super) async fn accounts_are_listed_in_pages(bench: Bench) {
    let names = ["Zoe", "ana", "ana b", "benita", "josé"];
    for (stamp, name) in (0..).zip(names.iter().rev()) {
        let put = bench
            .store
            .put_account(account(name, stamp), Expect::Absent);
        assert!(put.await.expect("puts"));
    }
    let (mut listed, mut after) = (Vec::new(), None);
    loop {
        let page = bench
            .store
            .accounts(after.as_ref(), 2)
            .await
            .expect("lists");
        assert!(page.len() <= 2);
        let Some(last) = page.last() else {
            break;
        };
        after = Some(last.user.clone());
        listed.extend(page.into_iter().map(|account| account.user.to_string()));
    }
    assert_eq!(listed, names);
    let asked = ["josé", "nobody", "ana b", "ana"].map(user);
    let accounts = bench.store.accounts_of(&asked).await.expect("reads");
    let mut found: Vec<_> = accounts
        .iter()
        .map(|a| (a.user.as_str(), a.stamp))
        .collect();
    found.sort_unstable();
    assert_eq!(found, [("ana", 3), ("ana b", 2), ("josé", 0)]);
    let nobody = bench.store.accounts_of(&[]).await;
    assert_eq!(nobody, Ok(Vec::new()));
}

pub(super) async fn a_session_stays_with_its_peer_until_it_is_ended(bench: Bench) {
    let with_session = PeerRow {
        session: Some(Session {
            user: user("ana"),
            stamp: u64::MAX,
            token: [9; 32],
            ends_ms: 1_700_000_000_000,
        }),
        ..row(1)
    };
    let registered = bench.store.register(with_session.clone()).await;
    let peer = registered.expect("registers").peer;
    let known = async |row: &PeerRow| bench.store.peer(&row.id).await.expect("reads");
    assert_eq!(
        known(&with_session).await,
        Some((peer, with_session.clone()))
    );
    assert_eq!(known(&row(2)).await, None);
    let lapsed = bench.store.lapse(vec![(peer, [1; 32])], 5).await;
    lapsed.expect("lapses");
    let (_, kept) = known(&with_session).await.expect("is there");
    assert_eq!(kept.session, with_session.session, "it outlives the lease");
    let others = [2, 3].map(|number| PeerRow {
        session: with_session.session.clone(),
        ..row(number)
    });
    let mut ended = vec![(PeerNo(77), [9; 32]), (peer, [9; 32])];
    for (other, token) in others.iter().zip([[9; 32], [8; 32]]) {
        let other = bench.store.register(other.clone()).await;
        ended.push((other.expect("registers").peer, token));
    }
    bench.store.end_sessions(ended).await.expect("ends");
    bench.store.end_sessions(Vec::new()).await.expect("nobody");
    let (_, ended) = known(&others[0]).await.expect("is there");
    assert_eq!(ended.session, None);
    let (_, not_ended) = known(&others[1]).await.expect("is there");
    assert_eq!(not_ended.session, with_session.session, "another one");
    let (_, ended) = known(&with_session).await.expect("is there");
    assert_eq!(ended.session, None);
    assert_eq!(ended.url, with_session.url, "the rest is as it was");
    bench.store.register(row(1)).await.expect("registers");
    assert_eq!(known(&row(1)).await, Some((peer, row(1))));
}

pub(super) async fn the_buckets_of_a_peer_are_all_that_it_holds(bench: Bench) {
    let files: Vec<_> = (0..40)
        .map(|n| file(&format!("f{n}"), &format!("{n}")))
        .collect();
    let (one, other) = (bench.peer(1).await, bench.peer(2).await);
    bench
        .change(one, 1, announce(&files.iter().collect::<Vec<_>>()))
        .await;
    bench.change(other, 2, announce(&[&files[0]])).await;
    let mut held = Vec::new();
    for bucket in 0..=u8::MAX {
        let records = bench.store.bucket(one, bucket).await.expect("reads");
        assert!(
            records
                .iter()
                .all(|record| bucket_of(&record.digest) == bucket)
        );
        held.extend(records);
    }
    let mut expected = files.clone();
    for records in [&mut held, &mut expected] {
        records.sort_by_key(|record| record.name.clone());
    }
    assert_eq!(held, expected);
    let nobody = bench.store.bucket(PeerNo(77), 0).await;
    assert_eq!(nobody, Ok(Vec::new()));
}

pub(super) async fn a_closed_store_takes_no_accounts(bench: Bench) {
    bench.store.close().await;
    let put = bench.store.put_account(account("ana", 1), Expect::Absent);
    assert_eq!(put.await, Err(StoreError::Closed));
    let removed = bench.store.remove_account(&user("ana")).await;
    assert_eq!(removed, Err(StoreError::Closed));
}

pub(super) async fn an_import_is_marked_from_its_beginning_to_its_end(bench: Bench) {
    let store = &bench.store;
    assert_eq!(store.importing().await, Ok(None));
    for export in [Some(Digest::of(b"one")), Some(Digest::of(b"other")), None] {
        store.set_importing(export).await.expect("marks");
        bench.peer(1).await;
        assert_eq!(store.importing().await, Ok(export));
    }
}

pub(super) async fn a_peer_for_whom_there_is_no_room_is_refused_alone(bench: Bench) {
    let store = &bench.store;
    let long_site = PeerRow {
        site: "x".repeat(256),
        ..row(1)
    };
    let long_url = PeerRow {
        url: "x".repeat(65_536),
        ..row(1)
    };
    for unfit in [long_site, long_url] {
        let refused = store.register(unfit).await;
        assert!(
            matches!(refused, Err(StoreError::Unfit { .. })),
            "{refused:?}"
        );
    }
    let longest = PeerRow {
        site: "x".repeat(255),
        url: "x".repeat(65_535),
        ..row(1)
    };
    store.register(longest.clone()).await.expect("registers");
    let known = store.peer(&longest.id).await.expect("reads");
    assert_eq!(known.map(|(_, row)| row), Some(longest));
}
