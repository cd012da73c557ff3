//! `/v1/files`: what this peer holds, and the transparent download.

use std::{sync::Arc, time::Duration};

use actix_web::{
    HttpRequest, HttpResponse,
    http::{Method, StatusCode, header},
    web,
};
use bytes::Bytes;
use futures_util::stream::{self, Stream};
use serde::Deserialize;
use tokio::time::timeout;
use vecino_rest::{
    Digest, Kind, Name,
    body::{FileEntry, Origin, Page, Stored},
    piece::MAX_SIZE,
    route,
};

use super::{
    context::Worker,
    error::ApiError,
    range::Asked,
    request,
    respond::{self, Described, Prepared},
};
use crate::{
    content::{Condition, Shared, Store, read::OpenFile, refuse_unshared, upload::Upload},
    copies::MAX_COPIES,
    download::{choice, choice::Wanted, fetch::Located},
};

/// While copies are placed, who waits for the answer hears something so often.
const SIGN_OF_LIFE: Duration = Duration::from_secs(5);

#[derive(Debug, Deserialize)]
struct ListQuery {
    #[serde(default)]
    prefix: String,
    limit: Option<u32>,
    cursor: Option<String>,
}

/// `GET /v1/files`.
pub async fn list(
    request: HttpRequest,
    worker: web::Data<Worker>,
) -> Result<web::Json<Page<FileEntry>>, ApiError> {
    let query: ListQuery = request::query(&request)?;
    let limit = request::limit(query.limit)?;
    let after = query
        .cursor
        .as_deref()
        .map(request::from_cursor)
        .transpose()?;
    let after = after.map(|place| Name::parse(&place)).transpose()?;
    // One more tells whether there is another page.
    let mut entries =
        worker
            .shared
            .store
            .catalogue()
            .list(&query.prefix, after.as_ref(), limit + 1);
    let more = entries.len() > limit;
    entries.truncate(limit);
    let next_cursor = entries
        .last()
        .filter(|_| more)
        .map(|entry| request::to_cursor(entry.name.as_str()));
    let items = entries.iter().map(|entry| entry.to_body()).collect();
    Ok(web::Json(Page { items, next_cursor }))
}

#[derive(Debug, Deserialize)]
struct GetQuery {
    digest: Option<String>,
    from: Option<String>,
}

/// What is asked for with a path below `/v1/files` and a query string.
pub fn wanted(path: &str, query: &str) -> Result<Wanted, ApiError> {
    let name = request::name_in(path, route::FILES)?;
    let query: GetQuery = request::query_in(query)?;
    let bad = |error: &dyn std::fmt::Display| ApiError::new(Kind::BadRequest, error.to_string());
    let digest = query
        .digest
        .map(|text| text.parse::<Digest>())
        .transpose()
        .map_err(|e| bad(&e))?;
    let from = query
        .from
        .map(|text| choice::From::parse(&text))
        .transpose()
        .map_err(|e| bad(&e))?;
    Ok(Wanted { name, digest, from })
}

/// `GET, HEAD /v1/files/NAME`; the plain ones are answered by [`upload`](crate::upload).
pub async fn get(
    request: HttpRequest,
    worker: web::Data<Worker>,
) -> Result<HttpResponse, ApiError> {
    let wanted = wanted(request.uri().path(), request.query_string())?;
    let shared = &worker.shared;
    let fetcher = &worker.fetcher;
    match fetcher.find(&wanted).await? {
        Located::Held(file) => held(&request, &wanted.name, file, &worker),
        Located::Content(digest, claims) => {
            let described = |size| Described {
                name: &wanted.name,
                digest,
                size,
                source: "",
            };
            // What needs no byte is answered without fetching any, as long as nobody disputes the
            // size; else it is proven first.
            if let [claim] = &claims[..]
                && let Prepared::Answered(response) =
                    respond::prepare(&request, &described(claim.size))?
            {
                return Ok(response);
            }
            let part = |size| match respond::asked(&request, &digest, size) {
                Asked::Part(range) => range,
                Asked::Whole | Asked::NotSatisfiable => 0..size,
            };
            let (job, reader) = fetcher.read(&wanted, digest, &claims, part, true).await?;
            let source = job.source().map(ToString::to_string);
            // What an earlier download left on the disk has no provider any more.
            let source = match *request.method() {
                // Without the bytes, nothing says that all of them are right.
                Method::HEAD => "",
                _ => source.as_deref().unwrap_or("local"),
            };
            let content = Described {
                source,
                ..described(job.layout.size())
            };
            Ok(match respond::prepare(&request, &content)? {
                Prepared::Answered(response) => response,
                Prepared::Body(builder, range) => respond::body(
                    builder,
                    range.end - range.start,
                    shared,
                    reader.stream(),
                    None,
                ),
            })
        }
        Located::Unverifiable(providers) => {
            respond::refuse_unmatched(&request, None)?;
            let mut builder = HttpResponse::Ok();
            respond::describe_name(&mut builder, &wanted.name);
            builder.insert_header((route::HEADER_VERIFIED, "none"));
            if request.method() == Method::HEAD {
                return Ok(builder.finish());
            }
            let (url, incoming) = fetcher.unverifiable(&wanted, &providers).await?;
            builder.insert_header((route::HEADER_SOURCE, url.to_string()));
            let length = incoming.length;
            let bytes = respond::sent(shared, incoming.into_stream());
            Ok(match length {
                Some(length) => builder.body(actix_web::body::SizedStream::new(length, bytes)),
                None => builder.streaming(bytes),
            })
        }
    }
}

/// Answers with what is held here; who takes all of it has it kept under that name too.
fn held(
    request: &HttpRequest,
    name: &Name,
    file: OpenFile,
    worker: &Worker,
) -> Result<HttpResponse, ApiError> {
    let entry = file.entry().clone();
    let response = respond::file(request, name, file, &worker.shared, None)?;
    if request.method() == Method::GET && response.status() == StatusCode::OK {
        worker.fetcher.keep_also(&entry, name);
    }
    Ok(response)
}

fn condition(request: &HttpRequest) -> Result<Condition, ApiError> {
    if let Some(value) = request.headers().get(header::IF_MATCH) {
        let Some(tags) = request::strong_etags(value) else {
            return Ok(Condition::Exists);
        };
        let digests: Result<Vec<Digest>, _> = tags.iter().map(|tag| tag.parse()).collect();
        return digests
            .map(Condition::Matches)
            .map_err(|error| ApiError::new(Kind::BadRequest, format!("If-Match: {error}")));
    }
    match request
        .headers()
        .get(header::IF_NONE_MATCH)
        .map(request::etags)
    {
        None => Ok(Condition::None),
        Some(None) => Ok(Condition::Absent),
        Some(Some(_)) => Err(ApiError::new(
            Kind::BadRequest,
            "If-None-Match: only * is understood here",
        )),
    }
}

/// `PUT /v1/files/NAME`.
pub async fn put(
    request: HttpRequest,
    mut payload: web::Payload,
    worker: web::Data<Worker>,
) -> Result<HttpResponse, ApiError> {
    let name = request::name_after(&request, route::FILES)?;
    let condition = condition(&request)?;
    let store = &worker.shared.store;
    let copies = copies(&request)?;
    let announced = request::content_length(&request).unwrap_or(0);
    if announced > MAX_SIZE {
        return Err(ApiError::new(
            Kind::TooLarge,
            format!("{announced} bytes: at most {MAX_SIZE}"),
        ));
    }
    refuse_unshared(&name)?;
    let free = store.free_bytes(Origin::Shared);
    if announced > free {
        return Err(ApiError::new(
            Kind::NoSpace,
            format!("the body has {announced} bytes, and this peer has room for {free}"),
        ));
    }
    let mut upload = store.begin_upload().await?;
    receive(&mut payload, store, &mut upload).await?;
    let shared = store.share(upload, name.clone(), condition).await?;
    let stored = Stored {
        name: name.clone(),
        digest: shared.entry.digest,
        size: shared.entry.stamp.size,
        holders: worker.shared.own_url().into_iter().collect(),
    };
    let mut response = if shared.created {
        HttpResponse::Created()
    } else {
        HttpResponse::Ok()
    };
    response
        .insert_header((header::ETAG, format!("\"{}\"", shared.entry.digest)))
        .insert_header((header::LOCATION, route::file(&name)));
    if copies == 0 {
        return Ok(response.json(stored));
    }
    response.insert_header(header::ContentType::json());
    Ok(response.streaming(placing(worker, shared, copies, stored)))
}

#[derive(Debug, Deserialize)]
struct PutQuery {
    #[serde(default)]
    replicas: usize,
}

/// How many further peers are to hold what is put.
fn copies(request: &HttpRequest) -> Result<usize, ApiError> {
    let PutQuery { replicas } = request::query(request)?;
    if replicas > MAX_COPIES {
        return Err(ApiError::new(
            Kind::BadRequest,
            format!("replicas={replicas}: expected 0 to {MAX_COPIES}"),
        ));
    }
    Ok(replicas)
}

/// The answer to who put a file that is shared by now, while copies of it are placed: `stored` as
/// JSON, and until it is known who holds it, white space.
fn placing(
    worker: web::Data<Worker>,
    shared: Shared,
    copies: usize,
    mut stored: Stored,
) -> impl Stream<Item = Result<Bytes, serde_json::Error>> + 'static {
    let placed = async move {
        let own_url = worker.shared.own_url();
        let (entry, was_shared) = (&shared.entry, !shared.created);
        let copier = &worker.copier;
        let holders = copier.copy(entry, copies, own_url.as_deref(), was_shared);
        stored.holders.extend(holders.await);
        serde_json::to_vec(&stored).map(Bytes::from)
    };
    stream::unfold(Some(Box::pin(placed)), async |placing| {
        let mut placed = placing?;
        match timeout(SIGN_OF_LIFE, &mut placed).await {
            Ok(stored) => Some((stored, None)),
            Err(_) => Some((Ok(Bytes::from_static(b"\n")), Some(placed))),
        }
    })
}

async fn receive(
    payload: &mut web::Payload,
    store: &Arc<Store>,
    upload: &mut Upload,
) -> Result<(), ApiError> {
    while let Some(block) = request::next_block(payload).await? {
        store.write(upload, block).await?;
    }
    Ok(())
}

/// `DELETE /v1/files/NAME`.
pub async fn delete(
    request: HttpRequest,
    worker: web::Data<Worker>,
) -> Result<HttpResponse, ApiError> {
    let name = request::name_after(&request, route::FILES)?;
    let condition = condition(&request)?;
    if worker.shared.store.delete(name.clone(), condition).await? {
        Ok(HttpResponse::NoContent().finish())
    } else {
        Err(ApiError::new(
            Kind::NotFound,
            format!("this peer does not hold {name:?}"),
        ))
    }
}
