//! `/v1/session`: logging this peer in to the network, and out.

use actix_web::web;
use vecino_rest::{
    Kind,
    body::{LoginRequest, Session},
    user::check_password,
};

use super::{context::Worker, error::ApiError, request};
use crate::locate::central::account::Credentials;

/// `POST /v1/session`.
pub async fn login(
    mut payload: web::Payload,
    worker: web::Data<Worker>,
) -> Result<web::Json<Session>, ApiError> {
    let expected = r#"{"user": USER, "password": PASSWORD}"#;
    let body: LoginRequest = request::json(&mut payload, expected).await?;
    check_password(&body.password)
        .map_err(|error| ApiError::new(Kind::BadRequest, error.to_string()))?;
    let credentials = Credentials {
        user: body.user,
        password: body.password,
    };
    Ok(web::Json(worker.shared.account.login(credentials).await?))
}

/// `DELETE /v1/session`.
pub async fn logout(worker: web::Data<Worker>) -> web::Json<Session> {
    web::Json(worker.shared.account.logout().await)
}
