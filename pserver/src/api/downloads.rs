//! `/v1/downloads`: downloads that a client asked the peer to make for it.

use actix_web::{HttpRequest, HttpResponse, http::header, web};
use serde::Deserialize;
use vecino_rest::{
    Kind,
    body::{Download, DownloadRequest, Page},
    route,
};

use super::{
    context::Worker,
    error::{self, ApiError},
    request,
};
use crate::download::choice::{self, Wanted};

#[derive(Debug, Deserialize)]
struct ListQuery {
    limit: Option<u32>,
    cursor: Option<String>,
}

/// `GET /v1/downloads`.
pub async fn list(
    request: HttpRequest,
    worker: web::Data<Worker>,
) -> Result<web::Json<Page<Download>>, ApiError> {
    let query: ListQuery = request::query(&request)?;
    let limit = request::limit(query.limit)?;
    let after = match query.cursor {
        None => 0,
        Some(cursor) => request::from_cursor(&cursor)?.parse().map_err(|_| {
            ApiError::new(Kind::BadRequest, "cursor is not one that a page ended with")
        })?,
    };
    let (items, more) = worker.shared.downloads.records.list(after, limit);
    let next_cursor = more.map(|last| request::to_cursor(&last.to_string()));
    Ok(web::Json(Page { items, next_cursor }))
}

/// `POST /v1/downloads`.
pub async fn begin(
    mut payload: web::Payload,
    worker: web::Data<Worker>,
) -> Result<HttpResponse, ApiError> {
    let body: DownloadRequest = request::json(
        &mut payload,
        r#"{"name": NAME, "digest"?: DIGEST, "from"?: PEER}"#,
    )
    .await?;
    let from = body.from.map(|text| choice::From::parse(&text)).transpose();
    let from = from.map_err(|error| ApiError::new(Kind::BadRequest, error.to_string()))?;
    let wanted = Wanted {
        name: body.name,
        digest: body.digest,
        from,
    };
    let records = &worker.shared.downloads.records;
    let (record, cancel) = records.begin(wanted.name.clone()).ok_or_else(|| {
        ApiError::new(
            Kind::Busy,
            "too many downloads run already: try again later",
        )
    })?;
    let (fetcher, shared, body) = (
        worker.fetcher.clone(),
        worker.shared.clone(),
        record.clone(),
    );
    actix_web::rt::spawn(async move {
        let outcome = tokio::select! {
            outcome = fetcher.fetch(&wanted, &record) => outcome,
            () = cancel.notified() => Ok(()),
        };
        let outcome = outcome.map_err(|error| ApiError::from(error).into_problem());
        shared.downloads.records.ended(&record.id, outcome);
    });
    Ok(HttpResponse::Accepted()
        .insert_header((header::LOCATION, route::download(&body.id)))
        .json(body))
}

fn unknown(id: &str) -> ApiError {
    ApiError::new(
        Kind::NotFound,
        format!("there is no download {:?}", error::shown(id)),
    )
}

/// `GET /v1/downloads/ID`.
pub async fn get(
    id: web::Path<String>,
    worker: web::Data<Worker>,
) -> Result<web::Json<Download>, ApiError> {
    worker
        .shared
        .downloads
        .records
        .get(&id)
        .map(web::Json)
        .ok_or_else(|| unknown(&id))
}

/// `DELETE /v1/downloads/ID`: cancels it, or forgets it when it is over.
pub async fn cancel(
    id: web::Path<String>,
    worker: web::Data<Worker>,
) -> Result<HttpResponse, ApiError> {
    if worker.shared.downloads.records.cancel(&id) {
        Ok(HttpResponse::NoContent().finish())
    } else {
        Err(unknown(&id))
    }
}
