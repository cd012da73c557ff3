//! `connect` and `disconnect`: flood links of the own peer.

use vecino_rest::Kind;

use crate::{
    api::ApiError,
    cli::{ConnectArgs, DisconnectArgs},
    command::peers,
    failure::Failure,
    output::{Output, clean},
    session::Session,
};

/// Runs `connect`.
pub(crate) async fn connect(
    args: &ConnectArgs,
    session: &Session,
    out: &Output,
) -> Result<(), Failure> {
    let link = session.api.link(&args.url).await?;
    if out.json() {
        return out.value(&link);
    }
    out.table(&peers::table(&[link]))
}

/// Runs `disconnect`.
pub(crate) async fn disconnect(
    args: &DisconnectArgs,
    session: &Session,
    out: &Output,
) -> Result<(), Failure> {
    match session.api.unlink(&args.peer).await {
        Err(ApiError::Problem(problem)) if problem.kind() == Some(Kind::NotFound) => {
            return Err(Failure::NoLink(problem));
        }
        ended => ended?,
    }
    if out.json() {
        return out.value(&serde_json::json!({ "disconnected": args.peer }));
    }
    out.note(&format!("no link with {} any more", clean(&args.peer)));
    Ok(())
}
