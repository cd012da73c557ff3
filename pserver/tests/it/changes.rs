//! Files that change under the peer: never sent under a wrong digest, soon under the right one.

use std::{
    fs,
    io::Write,
    os::unix::fs::FileExt,
    time::{Duration, Instant},
};

use vecino_rest::{
    Digest, Kind,
    body::{Located, Stored},
    route,
};

use crate::support::{
    content::{Content, PIECE},
    eventually,
    http::Request,
    peer::{Door, Peer, path_of},
    stage::Stage,
};

/// A peer that shares, and one that asks about it through it.
async fn pair() -> (Stage, Peer, Peer) {
    let stage = Stage::start().await;
    let sharing = stage.peer("sharing").start().await;
    let asking = stage.peer("asking").neighbour(sharing.addr).start().await;
    (stage, sharing, asking)
}

/// Digests under which `name` is located.
async fn located(asking: &Door, name: &str) -> Vec<Digest> {
    let response = asking.get(route::locate(&name.parse().unwrap())).await;
    if response.status == 404 {
        return Vec::new();
    }
    let located: Located = response.json();
    located
        .variants
        .iter()
        .filter_map(|variant| variant.digest)
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_changes_while_it_is_sent_breaks_the_response_off() {
    let (_stage, sharing, asking) = pair().await;
    for how in ["in place", "truncated", "replaced"] {
        let name = format!("{how}.bin");
        let before = Content::new(how, 192 * PIECE);
        sharing.shares(&name, &before).await;
        let mut answer = Request::get(path_of(&name)).open(sharing.addr).await;
        assert!(
            answer.read_up_to(PIECE).await < 160 * PIECE,
            "the load is too low"
        );
        let path = sharing.shared(&name);
        let after = match how {
            "in place" => {
                let file = fs::File::options().write(true).open(&path).unwrap();
                let mut bytes = before.bytes.to_vec();
                for piece in 0..192 {
                    bytes[piece * PIECE + 5] ^= 1;
                    file.write_all_at(&bytes[piece * PIECE + 5..][..1], (piece * PIECE + 5) as u64)
                        .unwrap();
                }
                Content::of(bytes)
            }
            "truncated" => {
                fs::File::options()
                    .write(true)
                    .open(&path)
                    .unwrap()
                    .set_len(PIECE as u64)
                    .unwrap();
                Content::of(&before.bytes[..PIECE])
            }
            _ => {
                let after = Content::new("another", 192 * PIECE);
                let temporary = path.with_extension("tmp");
                fs::write(&temporary, &after.bytes).unwrap();
                fs::rename(&temporary, &path).unwrap();
                after
            }
        };
        let response = answer.whole().await;
        assert!(
            before.bytes.starts_with(&response.body),
            "{how}: wrong bytes under the old digest"
        );
        if how != "replaced" {
            // What was replaced may go on: the open file is still what was hashed, or not.
            assert!(!response.whole, "{how}: whole");
        }
        eventually("the new digest", async || {
            asking.status().await;
            located(&asking, &name).await == [after.digest]
        })
        .await;
        asking.downloads(&name, &after).await;
        // The old content is held by nobody now.
        let old = sharing.get(route::blob(&before.digest)).await;
        assert_eq!(old.status, 404, "{how}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_changed_file_is_never_sent_as_it_was() {
    let (_stage, sharing, asking) = pair().await;
    let before = Content::new("before", 4096);
    let after = Content::new("after", 4096);
    sharing.shares("f.bin", &before).await;
    let path = sharing.shared("f.bin");
    let modified = fs::metadata(&path).unwrap().modified().unwrap();
    // In place, of the same size, with the modified time put back.
    let file = fs::File::options().write(true).open(&path).unwrap();
    file.write_all_at(&after.bytes, 0).unwrap();
    file.set_modified(modified).unwrap();
    drop(file);
    // From the first request on: the new bytes, or none.
    loop {
        let response = sharing.download("f.bin").await;
        if response.status == 200 && response.whole {
            assert_eq!(
                response.header("etag"),
                Some(after.tag().as_str()),
                "old digest"
            );
            assert_eq!(response.body, *after.bytes);
            break;
        }
        assert!(response.body.len() < 4096 || response.status != 200);
    }
    eventually("announced", async || {
        located(&asking, "f.bin").await == [after.digest]
    })
    .await;
    assert_eq!(sharing.get(route::blob(&before.digest)).await.status, 404);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deleted_file_is_withdrawn_and_a_new_one_announced() {
    let (_stage, sharing, asking) = pair().await;
    let content = Content::new("new", 777);
    sharing.write("dir/new.bin", &content.bytes);
    eventually("announced", async || {
        located(&asking, "dir/new.bin").await == [content.digest]
    })
    .await;
    assert!(sharing.metric("vecino_files_hashed_total").await >= 1);
    // A copy elsewhere is another name of the same content.
    fs::copy(sharing.shared("dir/new.bin"), sharing.shared("copy.bin")).unwrap();
    eventually("announced", async || {
        located(&asking, "copy.bin").await == [content.digest]
    })
    .await;
    fs::rename(sharing.shared("dir"), sharing.shared("moved")).unwrap();
    eventually("moved", async || {
        located(&asking, "moved/new.bin").await == [content.digest]
            && located(&asking, "dir/new.bin").await.is_empty()
    })
    .await;
    fs::remove_dir_all(sharing.shared("moved")).unwrap();
    fs::remove_file(sharing.shared("copy.bin")).unwrap();
    eventually("withdrawn", async || {
        located(&asking, "moved/new.bin").await.is_empty()
            && located(&asking, "copy.bin").await.is_empty()
    })
    .await;
    let response = asking.download("copy.bin").await;
    assert_eq!((response.status, response.kind()), (404, Kind::NotFound));
    assert!(sharing.files().await.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_is_being_written_is_announced_only_when_done() {
    let (_stage, sharing, asking) = pair().await;
    for attempt in 0..5 {
        let name = format!("slow{attempt}.bin");
        let content = Content::new(&name, 60 * 1000);
        let mut file = fs::File::create(sharing.shared(&name)).unwrap();
        let mut longest = Duration::ZERO;
        let mut seen = Vec::new();
        for block in content.bytes.chunks(1000) {
            let began = Instant::now();
            file.write_all(block).unwrap();
            seen.extend(
                sharing
                    .files()
                    .await
                    .into_iter()
                    .filter(|f| f.name.as_str() == name),
            );
            tokio::time::sleep(Duration::from_millis(20)).await;
            longest = longest.max(began.elapsed());
        }
        drop(file);
        if longest > Duration::from_millis(200) {
            // The writer itself was held up for as long as a writer that is done.
            continue;
        }
        seen.retain(|entry| entry.digest != content.digest);
        assert!(seen.is_empty(), "half a file is shared: {seen:?}");
        eventually("announced", async || {
            located(&asking, &name).await == [content.digest]
        })
        .await;
        return;
    }
    panic!("this machine is too busy to write a file");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upload_of_what_was_just_deleted_on_disk_is_shared_again() {
    let stage = Stage::start().await;
    let own = stage.peer("own").start().await;
    let content = Content::new("again", 3000);
    for round in 0..5 {
        own.shares("a.bin", &content).await;
        fs::remove_file(own.shared("a.bin")).unwrap();
        // Whatever the peer knows of it yet.
        let response = own.put("a.bin", &content.bytes).await;
        assert!(matches!(response.status, 200 | 201), "{}", response.text());
        let stored: Stored = response.json();
        assert_eq!(stored.digest, content.digest);
        let there = fs::read(own.shared("a.bin")).unwrap_or_default();
        assert!(
            *there == *content.bytes,
            "round {round}: it answered well and stored nothing"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deleted_download_is_fetched_again() {
    let (_stage, sharing, asking) = pair().await;
    let content = Content::new("fetched", 2 * PIECE + 5);
    sharing.shares("f.bin", &content).await;
    sharing.has_announced(1).await;
    asking.downloads("f.bin", &content).await;
    asking.keeps("f.bin", &content).await;
    fs::remove_file(asking.fetched("f.bin")).unwrap();
    asking.downloads("f.bin", &content).await;
    asking.keeps("f.bin", &content).await;
    assert_eq!(
        asking
            .send(&Request::new("DELETE", path_of("f.bin")))
            .await
            .status,
        204
    );
    assert!(!asking.fetched("f.bin").exists());
    assert!(sharing.shared("f.bin").exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn deleting_or_replacing_a_file_breaks_no_running_download() {
    let (_stage, sharing, _asking) = pair().await;
    for how in ["deleted", "replaced", "unlinked", "renamed"] {
        let name = format!("{how}.bin");
        let before = Content::new(how, 192 * PIECE);
        sharing.shares(&name, &before).await;
        let blob = route::blob(&before.digest);
        let mut running = Vec::new();
        for path in [path_of(&name), blob] {
            let mut answer = Request::get(path).open(sharing.addr).await;
            assert!(
                answer.read_up_to(PIECE).await < 160 * PIECE,
                "the load is too low"
            );
            running.push(answer);
        }
        let path = sharing.shared(&name);
        match how {
            "deleted" => {
                let delete = Request::new("DELETE", path_of(&name));
                assert_eq!(sharing.send(&delete).await.status, 204);
            }
            "replaced" => {
                let put = Request::new("PUT", path_of(&name))
                    .with("If-Match", before.tag())
                    .body("another");
                assert_eq!(sharing.send(&put).await.status, 200);
            }
            "unlinked" => fs::remove_file(&path).unwrap(),
            _ => fs::rename(&path, path.with_extension("moved")).unwrap(),
        }
        for answer in running {
            let response = answer.whole().await;
            assert!(response.whole, "{how}: broke off");
            assert!(*response.body == *before.bytes, "{how}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn deleting_a_file_breaks_no_running_download_that_fetched_it() {
    let (_stage, sharing, asking) = pair().await;
    let content = Content::new("fetched", 192 * PIECE);
    sharing.shares("fetched.bin", &content).await;
    eventually("located", async || {
        located(&asking, "fetched.bin").await == [content.digest]
    })
    .await;
    let mut answer = Request::get(path_of("fetched.bin")).open(asking.addr).await;
    assert!(
        answer.read_up_to(PIECE).await < 160 * PIECE,
        "the load is too low"
    );
    asking.keeps("fetched.bin", &content).await;
    let delete = Request::new("DELETE", path_of("fetched.bin"));
    assert_eq!(asking.send(&delete).await.status, 204);
    let response = answer.whole().await;
    assert!(response.whole && *response.body == *content.bytes);
}
