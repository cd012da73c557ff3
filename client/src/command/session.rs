//! `login` and `logout`: the own peer's account in the network.

use vecino_rest::{
    body::{self, LoginRequest, SessionState},
    user::check_password,
};

use crate::{
    cli::LoginArgs,
    command::password,
    failure::Failure,
    output::{Output, clean},
    session::Session,
};

/// Runs `login`.
pub(crate) async fn login(
    args: &LoginArgs,
    session: &Session,
    out: &Output,
) -> Result<(), Failure> {
    let user = match &args.user {
        Some(user) => user.clone(),
        None => password::ask_user().await?,
    };
    let password = match &args.password_file {
        Some(path) => password::in_file(path)?,
        None => password::ask(&user).await?,
    };
    check_password(&password).map_err(|error| Failure::Usage(error.to_string()))?;
    let request = LoginRequest { user, password };
    let logged_in = session.api.login(&request).await?;
    if out.json() {
        return out.value(&logged_in);
    }
    out.note(&format!("logged in as {}", clean(request.user.as_str())));
    Ok(())
}

/// Runs `logout`.
pub(crate) async fn logout(session: &Session, out: &Output) -> Result<(), Failure> {
    let body::Session { state, user } = session.api.logout().await?;
    if out.json() {
        return out.value(&body::Session { state, user });
    }
    out.note(match state {
        SessionState::NotAsked => "the network asks for no login: your peer stays in it",
        _ => "logged out: what your peer shares has left the network",
    });
    Ok(())
}
