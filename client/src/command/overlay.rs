//! `overlay` and `repair`: the overlays that the own peer is part of.

use vecino_rest::overlay::{ChordView, FloodView, OverlayView, RingNode, ZoneView};

use crate::{
    command::peers,
    failure::Failure,
    output::{Output, Rows, clean},
    session::Session,
};

const NO_OVERLAY: &str =
    "your peer is part of no overlay: LOCATE_BY and OVERLAY_PORT make it part of one";

/// Runs `overlay`.
pub(crate) async fn run(session: &Session, out: &Output) -> Result<(), Failure> {
    let overlays = session.api.overlay().await?.overlays;
    if overlays.is_empty() {
        out.note(NO_OVERLAY);
    }
    for (place, overlay) in overlays.iter().enumerate() {
        if out.json() {
            out.value(overlay)?;
            continue;
        }
        if place > 0 {
            out.text("")?;
        }
        match overlay {
            OverlayView::Chord(chord) => show_chord(chord, out)?,
            OverlayView::Zone(zone) => show_zone(zone, out)?,
            OverlayView::Flood(flood) => show_flood(flood, out)?,
        }
    }
    Ok(())
}

/// Runs `repair`.
pub(crate) async fn repair(session: &Session, out: &Output) -> Result<(), Failure> {
    session.api.repair().await?;
    let has_some = !session.api.overlay().await?.overlays.is_empty();
    if out.json() {
        return out.value(&serde_json::json!({ "repaired": has_some }));
    }
    out.note(match has_some {
        true => "your peer brought its overlays in order",
        false => NO_OVERLAY,
    });
    Ok(())
}

fn show_chord(chord: &ChordView, out: &Output) -> Result<(), Failure> {
    let member = if chord.joined { "yes" } else { "not yet" };
    facts(
        out,
        &[
            ("strategy", "chord"),
            ("id", &chord.me.id),
            ("member", member),
            ("records", &chord.records.to_string()),
        ],
    )?;
    let mut ring = Rows::new(&["PLACE", "ID", "URL"]);
    let mut row = |place: &str, node: &RingNode| ring.push(&[place, &node.id, &node.url]);
    if let Some(predecessor) = &chord.predecessor {
        row("predecessor", predecessor);
    }
    row("me", &chord.me);
    for (number, node) in chord.successors.iter().enumerate() {
        row(&format!("successor {}", number + 1), node);
    }
    out.table(&ring)?;
    let mut fingers = Rows::new(&["FROM", "UNTIL", "NODE", "URL"]);
    for finger in &chord.fingers {
        let (id, url) = match &finger.node {
            Some(node) => (node.id.as_str(), node.url.as_str()),
            None => ("not known", ""),
        };
        fingers.push(&[&finger.start, &finger.end, id, url]);
    }
    out.text("")?;
    out.table(&fingers)
}

fn show_zone(zone: &ZoneView, out: &Output) -> Result<(), Failure> {
    let number = |number: Option<u32>| number.map_or("none yet".to_owned(), |n| n.to_string());
    facts(
        out,
        &[
            ("strategy", "zone"),
            ("slot", &format!("{} of {}", number(zone.slot), zone.slots)),
            ("zone", &format!("{} of {}", number(zone.zone), zone.zones)),
            (
                "records",
                &format!(
                    "{} proper, {} shared",
                    zone.proper_records, zone.shared_records
                ),
            ),
        ],
    )?;
    let mut members = Rows::new(&["SLOT", "PEER", "URL"]).right(0);
    for member in &zone.members {
        members.push(&[
            &member.slot.to_string(),
            &member.peer.to_string(),
            &member.url,
        ]);
    }
    out.table(&members)
}

fn show_flood(flood: &FloodView, out: &Output) -> Result<(), Failure> {
    facts(
        out,
        &[
            ("strategy", "flood"),
            ("overlay", &flood.overlay),
            (
                "links",
                &format!("{} of at most {}", flood.links.len(), flood.max_links),
            ),
            (
                "questions",
                &format!(
                    "{} seen lately; at most {} links deep, {} peers each",
                    flood.seen, flood.hops, flood.budget
                ),
            ),
            ("discovered", &format!("{} files", flood.discovered)),
        ],
    )?;
    if flood.links.is_empty() {
        out.note("`connect URL` links your peer with another; URL is what its `overlay` says");
        return Ok(());
    }
    out.table(&peers::table(&flood.links))
}

fn facts(out: &Output, facts: &[(&str, &str)]) -> Result<(), Failure> {
    for (what, value) in facts {
        out.text(&format!("{what:<12}{}", clean(value)))?;
    }
    Ok(())
}
