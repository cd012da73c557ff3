//! `status`: how the own peer does.

use std::time::Duration;

use indicatif::HumanDuration;
use vecino_rest::body::{self, LinkState, SessionState, Status};

use crate::{
    command::peers,
    failure::Failure,
    output::{Output, clean, size},
    session::Session,
};

/// Runs it.
pub(crate) async fn run(session: &Session, out: &Output) -> Result<(), Failure> {
    let status = session.api.status().await?;
    if out.json() {
        return out.value(&status);
    }
    for (what, value) in lines(&status) {
        out.text(&format!("{what:<12}{}", clean(&value)))?;
    }
    if !status.neighbours.is_empty() {
        out.table(&peers::table(&status.neighbours))?;
    }
    Ok(())
}

/// How the own peer stands with a network that may ask for a login.
fn login(session: &body::Session) -> String {
    let user = session.user.as_ref().map(|user| format!("{user:?}"));
    match (session.state, user) {
        (SessionState::LoggedIn, Some(user)) => format!("as {user}"),
        (SessionState::Refused, Some(user)) => format!("refused, as {user}"),
        (SessionState::Needed, _) => "needed: `login USER`".to_owned(),
        _ => "not asked for".to_owned(),
    }
}

fn lines(status: &Status) -> Vec<(&'static str, String)> {
    let files = status.files;
    let transfers = status.transfers;
    let online = match (status.online, &status.offline_reason) {
        (true, _) => "yes".to_owned(),
        (false, Some(reason)) => {
            format!("no: {reason}; other peers cannot find what it shares")
        }
        (false, None) => "no: other peers cannot find what it shares now".to_owned(),
    };
    let uptime = HumanDuration(Duration::from_secs(status.uptime_seconds));
    let mut lines = vec![
        ("peer", status.peer.to_string()),
        (
            "url",
            status
                .url
                .clone()
                .unwrap_or_else(|| "not known yet".to_owned()),
        ),
        ("version", status.version.clone()),
        ("up for", uptime.to_string()),
        ("online", online),
        ("login", login(&status.session)),
        (
            "files",
            format!(
                "{} shared, {} fetched, {}; {} announced, {} still being hashed",
                files.shared,
                files.fetched,
                size(files.bytes),
                files.announced,
                files.hashing
            ),
        ),
        (
            "transfers",
            format!(
                "{} downloads, {} uploads now; {} received, {} sent",
                transfers.downloads,
                transfers.uploads,
                size(transfers.bytes_received),
                size(transfers.bytes_sent)
            ),
        ),
        (
            "neighbours",
            match status.neighbours.len() {
                0 => "none".to_owned(),
                count => count.to_string(),
            },
        ),
    ];
    if let Some(reach) = &status.reach {
        let said = match (&reach.problem, reach.state) {
            (Some(problem), _) => Some(problem.clone()),
            (None, LinkState::Up) => Some(format!("neighbour {} reaches it", reach.neighbour)),
            (None, _) => None,
        };
        lines.splice(2..2, said.map(|said| ("reach", said)));
    }
    if let Some(site) = &status.site {
        lines.insert(2, ("site", site.clone()));
    }
    lines
}
