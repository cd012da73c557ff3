//! What is there already outlives answers that do not go on from it.

use std::{cell::Cell, fs, net::SocketAddr, path::Path, sync::Arc};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
};
use vecino_rest::{Kind, Name, Problem};

use super::*;
use crate::{config::Config, session::Session};

const CONTENT: &[u8] = b"the whole content of a file";
/// Bytes of it that an earlier run left.
const PREFIX: usize = 10;

struct Nobody;

impl Observer for Nobody {
    fn begin(&self, _: u64, _: Option<u64>, _: Option<Digest>) {}
    fn advance(&self, _: u64) {}
    fn kept(&self, _: Option<Kept>) {}
}

/// A peer that answers a request with `answer(whether it asks for a range)`, and hangs up.
async fn peer(answer: impl Fn(bool) -> String + 'static) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    let answer = Arc::new(answer);
    actix_rt::spawn(async move {
        loop {
            let (mut socket, _) = listener.accept().await.unwrap();
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") {
                head.push(socket.read_u8().await.unwrap());
            }
            let head = String::from_utf8(head).unwrap().to_lowercase();
            let answer = answer(head.contains("\r\nrange: "));
            socket.write_all(answer.as_bytes()).await.unwrap();
        }
    });
    addr
}

const REFUSED: &str = "HTTP/1.1 416 Range Not Satisfiable\r\ncontent-length: 0\r\n\r\n";

/// The first `bytes` of an answer with all of `content`.
fn whole(content: &[u8], tag: Option<Digest>, bytes: usize) -> String {
    let tag = tag.map(|digest| format!("etag: \"{digest}\"\r\n"));
    format!(
        "HTTP/1.1 200 OK\r\nvecino-verified: blake3\r\ncontent-length: {}\r\n{}\r\n{}",
        content.len(),
        tag.unwrap_or_default(),
        std::str::from_utf8(&content[..bytes]).unwrap(),
    )
}

/// A download into `folder` where an earlier run left the beginning.
async fn resume(folder: &Path, peer: SocketAddr) -> Result<Delivery, Failure> {
    let target = folder.join("a");
    let mut part = Part::open(&target).await.unwrap();
    if part.written() == 0 {
        let known = (Digest::of(CONTENT), CONTENT.len() as u64);
        part.restart(Some(known)).unwrap();
        part.write(&CONTENT[..PREFIX]).unwrap();
        drop(part);
        part = Part::open(&target).await.unwrap();
    }
    let session = Session::new(Config {
        peer: PeerUrl::parse(&format!("http://{peer}")).unwrap(),
        token: None,
        log_filter: String::new(),
        color: false,
    });
    let session = session.unwrap();
    let order = Order {
        wanted: Wanted {
            name: Name::parse("a").unwrap(),
            digest: None,
            from: None,
        },
        source: Source::OwnPeer,
        if_exists: IfExists::Error,
        api: &session.api,
        limiter: &Limiter::new(None),
        observer: &Nobody,
    };
    order.deliver(Sink::File(part)).await
}

fn left(folder: &Path) -> Vec<u8> {
    fs::read(folder.join(".a.vecino-part")).unwrap_or_default()
}

#[actix_rt::test]
async fn a_refused_range_and_a_broken_answer_lose_nothing() {
    let digest = Digest::of(CONTENT);
    for answer in [
        whole(CONTENT, Some(digest), 3),
        whole(CONTENT, None, 3),
        REFUSED.to_owned(),
        "HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n".to_owned(),
        // It says that it is complete, and ends before what is there already.
        format!("HTTP/1.1 200 OK\r\nvecino-verified: blake3\r\netag: \"{digest}\"\r\n\r\nthe"),
    ] {
        let folder = tempfile::tempdir().unwrap();
        let fresh = answer.clone();
        let addr = peer(move |range| if range { REFUSED.into() } else { fresh.clone() }).await;
        let failed = resume(folder.path(), addr).await;
        assert!(failed.is_err(), "{answer}");
        assert_eq!(left(folder.path()), &CONTENT[..PREFIX], "{answer}");
        let honest = peer(move |_| whole(CONTENT, Some(digest), CONTENT.len())).await;
        let done = resume(folder.path(), honest).await.unwrap();
        assert_eq!(done.resumed, PREFIX as u64);
        assert_eq!(fs::read(folder.path().join("a")).unwrap(), CONTENT);
    }
}

#[actix_rt::test]
async fn an_answer_from_the_start_that_breaks_loses_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let digest = Digest::of(CONTENT);
    for (sent, kept) in [(3, PREFIX), (PREFIX + 2, PREFIX + 2)] {
        let addr = peer(move |_| whole(CONTENT, Some(digest), sent)).await;
        let failed = resume(folder.path(), addr).await;
        assert!(matches!(failed, Err(Failure::Stopped { .. })), "{failed:?}");
        assert_eq!(left(folder.path()), &CONTENT[..kept]);
    }
}

#[actix_rt::test]
async fn who_goes_in_the_middle_is_unreachable_and_not_unheard_of() {
    let folder = tempfile::tempdir().unwrap();
    let problem = Problem::new(Kind::NotFound, "nobody shares it");
    let problem = serde_json::to_string(&problem).unwrap();
    let gone = format!(
        "HTTP/1.1 404 Not Found\r\ncontent-type: application/problem+json\r\n\
         content-length: {}\r\n\r\n{problem}",
        problem.len()
    );
    let asked = Cell::new(0);
    let addr = peer(move |_| match asked.replace(asked.get() + 1) {
        0 => whole(CONTENT, Some(Digest::of(CONTENT)), PREFIX + 2),
        _ => gone.clone(),
    });
    let failed = resume(folder.path(), addr.await).await.unwrap_err();
    assert_eq!(failed.exit_code(), ExitCode::Unreachable, "{failed:?}");
    let told = failed.to_string();
    assert_eq!(told, "the download broke off: nobody shares it");
    let kept = failed.hint().unwrap();
    assert!(kept.contains("run again to resume"), "{kept}");
    assert_eq!(left(folder.path()), &CONTENT[..PREFIX + 2]);
}

#[actix_rt::test]
async fn another_content_takes_the_place_of_a_part() {
    const OTHER: &[u8] = b"another content";
    for tag in [Some(Digest::of(OTHER)), None] {
        let folder = tempfile::tempdir().unwrap();
        let other = whole(OTHER, tag, OTHER.len());
        let addr = peer(move |range| if range { REFUSED.into() } else { other.clone() }).await;
        let done = resume(folder.path(), addr).await.unwrap();
        assert_eq!((done.resumed, done.verified), (0, tag.is_some()));
        assert_eq!(fs::read(folder.path().join("a")).unwrap(), OTHER);
    }
}

#[actix_rt::test]
async fn without_a_tag_the_note_tells_what_it_must_be() {
    let folder = tempfile::tempdir().unwrap();
    let addr = peer(|range| {
        if range {
            REFUSED.into()
        } else {
            whole(CONTENT, None, CONTENT.len())
        }
    });
    let done = resume(folder.path(), addr.await).await.unwrap();
    assert_eq!((done.resumed, done.verified), (PREFIX as u64, true));
    assert_eq!(fs::read(folder.path().join("a")).unwrap(), CONTENT);
}
