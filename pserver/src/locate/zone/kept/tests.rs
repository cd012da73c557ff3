//! What is kept, against its bounds and a plain model.

use std::collections::HashSet;

use proptest::prelude::*;

use super::*;

const LIFE: Duration = Duration::from_secs(10);

fn contact(number: u8) -> Contact {
    Contact {
        peer: PeerId::from_bytes([number; 16]),
        overlay: format!("http://10.0.0.{number}:81").parse().expect("a URL"),
        url: format!("http://10.0.0.{number}:80").parse().expect("a URL"),
        site: None,
    }
}

fn record(name: &str, content: u32) -> Record {
    Record {
        name: Name::parse(name).expect("valid"),
        digest: Digest::of(&content.to_le_bytes()),
        size: content.into(),
        modified_ms: 0,
    }
}

fn key(record: &Record) -> (Name, Digest) {
    (record.name.clone(), record.digest)
}

#[test]
fn records_live_as_long_as_their_sender_prolongs_them() {
    let (mut kept, now) = (Kept::default(), Instant::now());
    let a = record("a", 1);
    let fingerprint = kept.put(&contact(1), 3, vec![a.clone()], now, LIFE);
    kept.put(&contact(2), 3, vec![a.clone()], now, LIFE);
    assert_eq!(kept.find(&a.name, now)[0].provider_count, 2);
    let later = now + LIFE / 2;
    assert!(
        kept.refresh(&contact(1), [(3, fingerprint)], later, LIFE)
            .is_empty()
    );
    let later = now + LIFE;
    let found = kept.find(&a.name, later);
    assert_eq!(found[0].providers[0].url, "http://10.0.0.1:80");
    assert_eq!((found.len(), found[0].provider_count), (1, 1));
    kept.expire(later);
    assert_eq!(kept.counts(Some(3)), (1, 0));
    assert_eq!(kept.counts(None), (0, 1));
    assert_eq!(
        kept.refresh(&contact(2), [(3, fingerprint)], later, LIFE),
        [3]
    );
    kept.expire(now + LIFE * 2);
    assert_eq!(
        (kept.records, kept.names.len(), kept.senders.len()),
        (0, 0, 0)
    );
}

#[test]
fn nobody_takes_out_what_another_sent() {
    let (mut kept, now) = (Kept::default(), Instant::now());
    let a = record("a", 1);
    kept.put(&contact(1), 3, vec![a.clone()], now, LIFE);
    kept.withdraw(&contact(2).peer, 3, [key(&a)]);
    kept.clear(&contact(2).peer, 3);
    assert_eq!(kept.find(&a.name, now).len(), 1);
    kept.withdraw(&contact(1).peer, 3, [key(&a)]);
    assert!(kept.find(&a.name, now).is_empty());
}

#[test]
fn a_name_and_a_sender_have_bounds() {
    let (mut kept, now) = (Kept::default(), Instant::now());
    for sender in 0..=255 {
        let records = (0..10).map(|content| record("popular", content)).collect();
        kept.put(&contact(sender), 0, records, now, LIFE);
    }
    assert_eq!(kept.records, MAX_OF_NAME);
    let found = kept.find(&record("popular", 0).name, now);
    assert_eq!(found.len(), MAX_OF_NAME_AND_SENDER);
    let mut kept = Kept::default();
    let many = (0..MAX_OF_SENDER as u32 + 10).map(|n| record(&n.to_string(), n));
    kept.put(&contact(1), 0, many.collect(), now, LIFE);
    assert_eq!(kept.records, MAX_OF_SENDER);
    kept.put(&contact(2), 0, vec![record("other", 1)], now, LIFE);
    assert_eq!(kept.find(&record("other", 1).name, now).len(), 1);
}

proptest! {
    #[test]
    fn it_holds_what_was_put_and_not_withdrawn(
        steps in prop::collection::vec((0..3_u8, 0..4_u8, 0..4_u8, 0..3_u32, 0..2_u32), 0..80),
    ) {
        let (mut kept, now) = (Kept::default(), Instant::now());
        let mut model: HashSet<(u8, u32, Name, Digest)> = HashSet::new();
        for (what, sender, name, content, slot) in steps {
            // A name belongs to one slot.
            let record = record(&format!("{name}-{slot}"), content);
            let (name, digest) = key(&record);
            match what {
                0 | 1 => {
                    kept.put(&contact(sender), slot, vec![record], now, LIFE);
                    model.insert((sender, slot, name, digest));
                }
                _ if content == 0 => {
                    kept.clear(&contact(sender).peer, slot);
                    model.retain(|held| (held.0, held.1) != (sender, slot));
                }
                _ => {
                    kept.withdraw(&contact(sender).peer, slot, [(name.clone(), digest)]);
                    model.remove(&(sender, slot, name, digest));
                }
            }
            prop_assert_eq!(kept.records, model.len());
            for sender in 0..4 {
                for slot in 0..2 {
                    let mut sum = Fingerprint::default();
                    for held in model.iter().filter(|held| (held.0, held.1) == (sender, slot)) {
                        let content = (0..3_u32)
                            .find(|c| Digest::of(&c.to_le_bytes()) == held.3)
                            .expect("one of them");
                        sum += of_record(&held.2, &held.3, content.into());
                    }
                    prop_assert_eq!(kept.fingerprint(&contact(sender).peer, slot), sum);
                }
            }
        }
    }
}
