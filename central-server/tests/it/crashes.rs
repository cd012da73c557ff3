//! A locator that is killed at any moment while peers announce: all that it acknowledged is located
//! right after the next start, before any peer came back.

#![cfg(target_os = "linux")]

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tokio::{sync::mpsc, task::JoinSet, time::sleep};
use tokio_stream::wrappers::ReceiverStream;
use vecino_grpc::v1::{self, locate_stream_response::Outcome};

use crate::{process::Process, support::*};

const KILLS: u32 = 50;
const PEERS: u8 = 4;
/// Batches of a peer on their way, as at a real one.
const UNACKNOWLEDGED: usize = 16;
/// Records of a batch at most.
const BATCH: usize = 3;
/// The longest load before a kill, in milliseconds.
const LOAD_MS: u64 = 200;

/// Names that were acknowledged.
type Names = Arc<Mutex<Vec<String>>>;

/// Announces until the locator is gone; whether something was on its way then.
async fn announce_until_killed(
    mut client: Client,
    who: v1::RegisterResponse,
    prefix: String,
    acknowledged: Names,
) -> bool {
    let (batches, outbound) = mpsc::channel(UNACKNOWLEDGED);
    let Ok(acks) = client.announce(ReceiverStream::new(outbound)).await else {
        return false;
    };
    let mut acks = acks.into_inner();
    let mut waiting = VecDeque::new();
    for batch in 0.. {
        if waiting.len() == UNACKNOWLEDGED {
            match acks.message().await {
                Ok(Some(_)) => acknowledge(&acknowledged, &mut waiting),
                _ => return true,
            }
        }
        let names = (0..fastrand::usize(1..=BATCH)).map(|n| format!("{prefix}/{batch}/{n}"));
        let names: Vec<_> = names.collect();
        let request = v1::AnnounceRequest {
            peer_id: who.peer_id.clone(),
            lease_token: who.lease_token.clone(),
            batch,
            announce: names.iter().map(|name| record(name, name)).collect(),
            ..Default::default()
        };
        waiting.push_back(names);
        if batches.send(request).await.is_err() {
            break;
        }
    }
    // What was answered before the end counts.
    while let Ok(Some(_)) = acks.message().await {
        acknowledge(&acknowledged, &mut waiting);
    }
    !waiting.is_empty()
}

fn acknowledge(acknowledged: &Names, waiting: &mut VecDeque<Vec<String>>) {
    let names = waiting.pop_front().expect("one batch, one answer");
    let mut acknowledged = acknowledged.lock().unwrap_or_else(PoisonError::into_inner);
    acknowledged.extend(names);
}

/// Those of `names` that are not located.
async fn missing(client: &mut Client, names: &[String]) -> Vec<String> {
    let (lookups, outbound) = mpsc::channel(256);
    let answers = client.locate_stream(ReceiverStream::new(outbound)).await;
    let mut answers = answers.expect("opens").into_inner();
    let asked = names.to_vec();
    let ask = async move {
        for (id, name) in (0..).zip(&asked) {
            let request = Some(by_name(name));
            let lookup = v1::LocateStreamRequest { id, request };
            lookups.send(lookup).await.expect("the stream is open");
        }
    };
    let hear = async {
        let mut missing = Vec::new();
        for _ in names {
            let answer = soon(answers.message()).await.expect("answers");
            let answer = answer.expect("one answer a lookup");
            let is_located = match answer.outcome {
                Some(Outcome::Response(located)) => located.variants.len() == 1,
                _ => false,
            };
            if !is_located {
                let index = usize::try_from(answer.id).expect("was sent");
                missing.push(names[index].clone());
            }
        }
        missing
    };
    tokio::join!(ask, hear).1
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_acknowledged_survives_fifty_kills_at_any_moment() {
    let seed = fastrand::u64(..);
    println!("seed {seed}");
    let mut random = fastrand::Rng::with_seed(seed);
    let directory = tempfile::tempdir().expect("a directory");
    let acknowledged = Names::default();
    let (mut peers, mut in_the_middle) = (Vec::new(), 0);
    for kill in 0..=KILLS {
        let process = Process::with_lease(directory.path(), 3600);
        let mut client = connect(process.addr()).await;
        let names = acknowledged
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone();
        let missing = missing(&mut client, &names).await;
        assert!(
            missing.is_empty(),
            "after kill {kill}: {} of {} are missing: {:?}",
            missing.len(),
            names.len(),
            missing.first()
        );
        if kill == 0 {
            for number in 0..PEERS {
                let peer = Peer::register(client.clone(), registration(number)).await;
                peers.push(peer.welcome);
            }
        }
        let mut announcing = JoinSet::new();
        for (number, who) in peers.iter().enumerate() {
            let client = connect(process.addr()).await;
            let prefix = format!("{number}/{kill}");
            let acknowledged = acknowledged.clone();
            let announced = announce_until_killed(client, who.clone(), prefix, acknowledged);
            announcing.spawn(announced);
        }
        // The moment of the kill.
        sleep(Duration::from_millis(random.u64(..LOAD_MS))).await;
        process.kill();
        let mut was_in_the_middle = false;
        while let Some(ended) = soon(announcing.join_next()).await {
            was_in_the_middle |= ended.expect("joins");
        }
        in_the_middle += u32::from(was_in_the_middle);
    }
    // Else there was no load that means anything.
    let acknowledged = acknowledged.lock().unwrap_or_else(PoisonError::into_inner);
    assert!(acknowledged.len() > 1_000, "{}", acknowledged.len());
    assert!(in_the_middle > KILLS / 2, "{in_the_middle}");
    println!("{} acknowledged", acknowledged.len());
}
