//! `/v1/downloads`: downloads that a client asked the peer to make for it.

use std::time::Duration;

use actix_web::{HttpRequest, HttpResponse, http::header, web};
use serde::Deserialize;
use tokio::{
    sync::oneshot,
    time::{sleep, timeout},
};
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
use crate::{
    download::{
        choice::{self, Wanted},
        fetch::{FetchError, Fetcher},
        record::Task,
    },
    neighbour::outbound::OutboundError,
};

/// How often a download of before a restart is tried while no neighbour can look up: a neighbour
/// may be restarting as well.
const RESUME_TRIES: u32 = 6;
/// The wait after the first try; doubled each time.
const RESUME_AFTER: Duration = Duration::from_secs(1);

/// Downloads of before wait for files that are still being hashed, so long ...
const HASHED_WITHIN: Duration = Duration::from_secs(600);
/// ... and look so often.
const LOOK_EVERY: Duration = Duration::from_millis(100);

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
    let store = &worker.shared.store;
    if !store.keeps() {
        return Err(ApiError::new(Kind::NotKept, store.why_not_kept(0)));
    }
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
    let task = records.begin(wanted).ok_or_else(|| {
        ApiError::new(
            Kind::Busy,
            "too many downloads run already: try again later",
        )
    })?;
    let (fetcher, body) = (worker.fetcher.clone(), task.record.clone());
    let (saved, is_saved) = oneshot::channel();
    // Whether or not the client waits for the answer.
    actix_web::rt::spawn(async move {
        fetcher.downloads.records.save_now().await;
        let _ = saved.send(());
        run(&fetcher, task, 1).await;
    });
    let _ = is_saved.await;
    Ok(HttpResponse::Accepted()
        .insert_header((header::LOCATION, route::download(&body.id)))
        .json(body))
}

/// Runs again what ran when the peer ended, one after the other.
pub async fn resume(fetcher: Fetcher) {
    // What is held is known then: a file may have got its name right before the peer ended.
    let importer = fetcher.tools.store.importer();
    importer.first_scan().await;
    let hashed = async {
        while importer.waiting() > 0 {
            sleep(LOOK_EVERY).await;
        }
    };
    let _ = timeout(HASHED_WITHIN, hashed).await;
    while let Some(task) = fetcher.downloads.records.next_unfinished() {
        run(&fetcher, task, RESUME_TRIES).await;
    }
}

/// Makes one download to its end. While no neighbour can look up it is tried again, `tries` times
/// in all.
async fn run(fetcher: &Fetcher, task: Task, tries: u32) {
    let Task {
        record,
        wanted,
        cancel,
    } = task;
    let fetch = async {
        let mut tried = 1;
        loop {
            match fetcher.fetch(&wanted, &record).await {
                Err(FetchError::Outbound(
                    OutboundError::NoneAnswers(_) | OutboundError::LookupFailed,
                )) if tried < tries => sleep(RESUME_AFTER * 2u32.pow(tried - 1)).await,
                outcome => return outcome,
            }
            tried += 1;
        }
    };
    let outcome = tokio::select! {
        outcome = fetch => outcome,
        () = cancel.notified() => Ok(()),
    };
    let outcome = outcome.map_err(|error| ApiError::from(error).into_problem());
    fetcher.downloads.records.ended(&record.id, outcome);
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
