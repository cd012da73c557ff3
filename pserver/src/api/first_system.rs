//! The first system's contract (FROZEN, see [`vecino_rest::frozen`]): a thin adapter over the
//! same code as v1.

use actix_web::{HttpRequest, HttpResponse, http::header::ContentType, web};
use rand::seq::IteratorRandom;
use vecino_rest::{
    Kind, Name,
    body::LocateQuery,
    frozen::{self, ConnectBody, PedirRecursoBody},
};

use super::{context::Worker, error::ApiError, request, respond};

fn answer(url: Option<String>) -> HttpResponse {
    HttpResponse::Ok()
        .insert_header(ContentType::plaintext())
        .body(url.unwrap_or_else(|| frozen::NOT_FOUND.to_owned()))
}

/// `POST /connect`, on the own peer.
pub async fn connect(
    mut payload: web::Payload,
    worker: web::Data<Worker>,
) -> Result<HttpResponse, ApiError> {
    let ConnectBody { body: [name] } = request::json(&mut payload, r#"{"body":["NAME"]}"#).await?;
    let name = Name::parse(&name)?;
    Ok(answer(worker.fetcher.outbound.pedir_recurso(&name).await?))
}

/// `POST /pedirRecurso`, on the neighbour.
pub async fn pedir_recurso(
    mut payload: web::Payload,
    worker: web::Data<Worker>,
) -> Result<HttpResponse, ApiError> {
    let PedirRecursoBody { body } = request::json(&mut payload, r#"{"body":"NAME"}"#).await?;
    let query = LocateQuery {
        name: Some(Name::parse(&body)?),
        digest: None,
        provider: None,
        fresh: false,
    };
    let variants = worker.shared.inbound.locate(query).await?;
    let providers = variants.iter().flat_map(|variant| &variant.providers);
    // This contract knows whole files only.
    let providers = providers.filter(|provider| !provider.partial);
    Ok(answer(
        providers
            .choose(&mut rand::rng())
            .map(|provider| provider.url.clone()),
    ))
}

/// `GET` or `POST /download/NAME`, on a provider.
pub async fn download(
    request: HttpRequest,
    worker: web::Data<Worker>,
) -> Result<HttpResponse, ApiError> {
    let name = request::name_after(&request, frozen::DOWNLOAD.trim_end_matches('/'))?;
    let store = &worker.shared.store;
    let not_held = || ApiError::new(Kind::NotFound, format!("this peer does not hold {name:?}"));
    let entry = store.catalogue().by_name(&name).ok_or_else(not_held)?;
    let file = store.read(entry).await?.ok_or_else(not_held)?;
    respond::file(&request, &name, file, &worker.shared, None)
}
