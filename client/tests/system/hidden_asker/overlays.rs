//! The other peers of an overlay do not learn who asked either, and the locator learns of no
//! lookup at all. A relay stands in front of the overlay of a third peer, and another one in front
//! of the locator.

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    time::Duration,
};

use prost::Message;
use vecino_grpc::v1::{
    ChordFetchRequest, ChordPingRequest, ChordStepRequest, GossipFrame, GossipQuestion,
    ZoneFindRequest, ZoneKeepAliveRequest, ZoneMembersRequest, gossip_frame::Frame,
    gossip_question::Subject,
};
use vecino_rest::{
    PeerId,
    overlay::{OverlayView, Overlays},
    route,
    zone::ZoneLayout,
};

use super::{PUBLIC, USUAL, Way, askers};
use crate::{
    cluster::{Locator, Peer, eventually},
    http::Connection,
    proxy::Proxy,
    relay::{Call, Relay},
    witness::Secret,
};

/// Long enough that no busy machine lets it end.
const LEASE: Duration = Duration::from_secs(8);

/// A neighbour and a third peer, the witness, who shares `names`.
struct Stage {
    to_locator: Relay,
    to_witness: Relay,
    neighbour: Peer,
    witness: Peer,
    names: Vec<String>,
    _locator: Locator,
    _to_files: Proxy,
}

fn view(peer: &Peer) -> OverlayView {
    let overlays: Overlays = peer.get(route::OVERLAY).ok().json();
    overlays.overlays.into_iter().next().unwrap()
}

fn id(peer: &Peer) -> Vec<u8> {
    peer.id().parse::<PeerId>().unwrap().as_bytes().to_vec()
}

/// The peers look up by `strategy`; the witness is reached on an `ip` of its own, always through
/// the relay. In zones, all names are its own to keep.
fn stage(strategy: &str, ip: IpAddr, layout: ZoneLayout) -> Stage {
    let config = central_server::Config {
        zones: layout,
        lease: LEASE,
        ..central_server::Config::ephemeral()
    };
    let locator = Locator::start_with(Ipv4Addr::LOCALHOST.into(), config);
    let to_locator = Relay::start((Ipv4Addr::LOCALHOST, 0).into(), locator.addr());
    let peer = || {
        Peer::setup()
            .locator(to_locator.addr())
            .locating_by(strategy)
    };
    let mut to_files = Proxy::reserve_on(ip);
    let witness = peer().public_addr(to_files.addr()).start();
    to_files.lead_to(witness.addr());
    let overlay = witness.overlay_addr();
    let to_witness = Relay::start(SocketAddr::new(ip, overlay.port()), overlay);
    let slot = (strategy == "zone").then(|| {
        eventually("the witness sits", || match view(&witness) {
            OverlayView::Zone(zone) => zone.slot,
            _ => None,
        })
    });
    let is_its_own =
        |name: &String| slot.is_none_or(|slot| layout.slot_of(&name.parse().unwrap()) == slot);
    let names = (100..).map(|number| format!("wanted {number}.bin"));
    let names: Vec<_> = names.filter(is_its_own).take(2 * Way::ALL.len()).collect();
    for name in &names {
        let path = route::file(&name.parse().unwrap());
        let put = Connection::open(witness.addr()).send("PUT", &path, &[], name.as_bytes());
        assert_eq!(put.status, 201, "{}", put.text());
    }
    let neighbour = peer().seed(to_witness.addr()).start();
    let all = names.len() as u64;
    eventually("the overlay is in order", || {
        let ready = match (view(&neighbour), view(&witness)) {
            (OverlayView::Chord(own), OverlayView::Chord(other)) => {
                own.records == all && own.predecessor.is_some() && other.predecessor.is_some()
            }
            (OverlayView::Zone(own), OverlayView::Zone(other)) => {
                let members = if layout.zones() == 1 { 2 } else { 1 };
                other.proper_records == all
                    && [own, other]
                        .iter()
                        .all(|zone| zone.members.len() == members)
            }
            (OverlayView::Flood(own), _) => serde_json::to_string(&own.links)
                .unwrap()
                .contains(r#""state":"up""#),
            _ => false,
        };
        ready.then_some(())
    });
    Stage {
        to_locator,
        to_witness,
        neighbour,
        witness,
        names,
        _locator: locator,
        _to_files: to_files,
    }
}

impl Stage {
    /// Both peers behind the neighbour ask in every way, each for another name, so that no answer
    /// is remembered.
    fn ask(&self, first: usize) -> [Peer; 2] {
        let askers = askers(&self.neighbour);
        let mut names = self.names.iter();
        for way in Way::ALL {
            for asker in [first, 1 - first] {
                way.ask(&askers[asker], names.next().unwrap());
            }
        }
        askers
    }

    /// The messages of the calls to the witness of which the path ends so.
    fn received(&self, method: &str) -> Vec<Vec<u8>> {
        let calls = self.to_witness.calls();
        let calls = calls.iter().filter(|call| call.path.ends_with(method));
        calls.flat_map(Call::messages).collect()
    }
}

/// Neither headers nor messages have anything of an asker.
fn nothing_of(askers: &[Peer; 2], calls: &[Call]) {
    for call in calls {
        for (name, value) in &call.headers {
            assert!(
                USUAL.contains(&name.as_str()),
                "{name}: {value} at {}",
                call.path
            );
        }
        let mut bytes = call.path.clone().into_bytes();
        for (_, value) in &call.headers {
            bytes.extend([b" ", value.as_bytes()].concat());
        }
        bytes.push(b' ');
        bytes.extend(&call.body);
        let tells = |what: &[u8]| bytes.windows(what.len()).any(|part| part == what);
        for asker in askers {
            assert!(!tells(&id(asker)), "an asker's id: {call:?}");
            assert!(!tells(asker.id().as_bytes()), "an asker's id: {call:?}");
            Secret::of_one_among_others(asker.addr()).is_not_in(&bytes, &call.path);
        }
        Secret::of(PUBLIC.parse().unwrap()).is_not_in(&bytes, &call.path);
    }
}

/// The message as `M`, which has no other field than those of `M`.
#[track_caller]
fn exactly<M: Message + Default + std::fmt::Debug>(message: &[u8]) -> M {
    let decoded = M::decode(message).unwrap();
    assert_eq!(decoded.encode_to_vec(), message, "{decoded:?} is all of it");
    decoded
}

#[test]
fn a_ring_does_not_learn_who_asks() {
    let ip = Ipv4Addr::new(127, 0, 0, 71).into();
    let stage = stage("chord", ip, ZoneLayout::derived(64).unwrap());
    let askers = stage.ask(0);
    nothing_of(&askers, &stage.to_witness.calls());
    let to = id(&stage.witness);
    let fetch = |name: &String| ChordFetchRequest {
        to: to.clone().into(),
        name: name.clone(),
    };
    let expected: Vec<_> = stage.names.iter().map(fetch).collect();
    let received = stage.received("Chord/Fetch");
    let fetches: Vec<ChordFetchRequest> = received.iter().map(|fetch| exactly(fetch)).collect();
    assert_eq!(fetches, expected, "each name once, and nothing else");
    for ping in stage.received("Chord/Ping") {
        assert_eq!(exactly::<ChordPingRequest>(&ping).to, to);
    }
    for step in stage.received("Chord/Step") {
        let step: ChordStepRequest = exactly(&step);
        assert!(step.place.len() == 20 && (step.to.is_empty() || step.to == to));
    }
    assert_eq!(stage.to_locator.calls().len(), 0, "the locator has no part");
}

#[test]
fn a_flood_does_not_learn_who_asks() {
    let ip = Ipv4Addr::new(127, 0, 0, 72).into();
    let stage = stage("flood", ip, ZoneLayout::derived(64).unwrap());
    let askers = stage.ask(0);
    nothing_of(&askers, &stage.to_witness.calls());
    let frames = stage.received("Gossip/Link");
    let questions: Vec<GossipQuestion> = frames
        .iter()
        .filter_map(|frame| match exactly::<GossipFrame>(frame).frame {
            Some(Frame::Question(question)) => Some(question),
            _ => None,
        })
        .collect();
    let asked = |name: &String| Subject::Name(name.clone());
    let expected: Vec<_> = stage.names.iter().map(asked).map(Some).collect();
    let subjects: Vec<_> = questions.iter().map(|q| q.subject.clone()).collect();
    assert_eq!(subjects, expected, "each name once");
    for question in &questions {
        assert_eq!(question.id.len(), 16);
        let same = GossipQuestion {
            id: question.id.clone(),
            subject: question.subject.clone(),
            ..questions[0].clone()
        };
        assert_eq!(*question, same, "as for any other asker");
    }
    assert_eq!(stage.to_locator.calls().len(), 0, "the locator has no part");
}

/// The members of a zone that the neighbour does not know yet are asked for, whoever asks first;
/// besides, the locator receives what it receives without any lookup.
fn zones(layout: ZoneLayout, host: u8, first: usize) {
    let stage = stage("zone", Ipv4Addr::new(127, 0, 0, host).into(), layout);
    let before = stage.to_locator.calls().len();
    let askers = stage.ask(first);
    nothing_of(&askers, &stage.to_witness.calls());
    nothing_of(&askers, &stage.to_locator.calls());

    let find = |name: &String| ZoneFindRequest { name: name.clone() };
    let expected: Vec<_> = stage.names.iter().map(find).collect();
    let received = stage.received("Zone/Find");
    let finds: Vec<ZoneFindRequest> = received.iter().map(|find| exactly(find)).collect();
    assert_eq!(finds, expected, "each name once, and nothing else");

    let OverlayView::Zone(seat) = view(&stage.witness) else {
        panic!("it looks up by zones");
    };
    let mut asked_for = Vec::new();
    for call in &stage.to_locator.calls()[before..] {
        for message in call.messages() {
            match call.path.as_str() {
                "/vecino.v1.Zones/KeepAlive" => {
                    let kept: ZoneKeepAliveRequest = exactly(&message);
                    let members = [id(&stage.witness), id(&stage.neighbour)];
                    assert!(members.contains(&kept.peer_id.to_vec()), "{kept:?}");
                }
                "/vecino.v1.Zones/Members" => {
                    asked_for.push(exactly::<ZoneMembersRequest>(&message));
                }
                other => panic!("{other} has no part in a lookup"),
            }
        }
    }
    let unknown = ZoneMembersRequest {
        zone: seat.zone.unwrap(),
        version: 0,
    };
    let expected = if layout.zones() == 1 {
        vec![]
    } else {
        vec![unknown]
    };
    assert_eq!(asked_for, expected, "peer {first} first");
}

#[test]
fn neither_zone_nor_locator_learn_who_asks() {
    zones(ZoneLayout::new(6, 1).unwrap(), 73, 0);
}

#[test]
fn a_zone_that_is_not_known_yet_is_asked_for_in_the_same_way_whoever_asks() {
    for first in [0, 1] {
        let host = if first == 0 { 74 } else { 75 };
        zones(ZoneLayout::new(12, 2).unwrap(), host, first);
    }
}
