//! Reads what a request carries: path, query, JSON body, cursor. Everything is bounded, and what
//! is wrong is said with the value and what would be right.

use std::time::Duration;

use actix_web::{HttpRequest, error::QueryPayloadError, http::header, web};
use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use bytes::{Bytes, BytesMut};
use futures_util::StreamExt;
use serde::de::DeserializeOwned;
use tokio::time::timeout;
use vecino_rest::{Kind, Name};

use super::error::ApiError;
use crate::copies::MAX_COPIES;

/// Largest JSON body, in bytes.
const MAX_JSON: usize = 64 * 1024;
/// How long a client may be silent within a body.
pub const SILENT_FOR: Duration = Duration::from_secs(30);
/// How long a body that is read as a whole may take.
const WHOLE_WITHIN: Duration = Duration::from_secs(60);
/// Items of a page, when the client does not say.
const DEFAULT_LIMIT: u32 = 100;
/// Characters of a wrong value that an error repeats.
const SHOWN: usize = 80;
/// Most items of a page.
const MAX_LIMIT: u32 = 1000;

/// The name after `prefix` in the path, percent-decoded once.
pub fn name_after(request: &HttpRequest, prefix: &str) -> Result<Name, ApiError> {
    name_in(request.uri().path(), prefix)
}

/// The same of a `path`.
pub fn name_in(path: &str, prefix: &str) -> Result<Name, ApiError> {
    let encoded = path
        .strip_prefix(prefix)
        .and_then(|rest| rest.strip_prefix('/'))
        .unwrap_or_default();
    Ok(Name::parse_url_path(encoded)?)
}

/// The query string as `T`.
pub fn query<T: DeserializeOwned>(request: &HttpRequest) -> Result<T, ApiError> {
    query_in(request.query_string())
}

/// The query string `text` as `T`.
pub fn query_in<T: DeserializeOwned>(text: &str) -> Result<T, ApiError> {
    web::Query::<T>::from_query(text)
        .map(web::Query::into_inner)
        .map_err(|error| ApiError::new(Kind::BadRequest, wrong_query::<T>(text, &error)))
}

/// What is wrong with a query string: the first pair that is wrong by itself, with its value.
fn wrong_query<T: DeserializeOwned>(text: &str, error: &QueryPayloadError) -> String {
    let why = |error: &QueryPayloadError| match error {
        QueryPayloadError::Deserialize(why) => why.to_string(),
        other => other.to_string(),
    };
    let is_lack = |why: &String| why.starts_with("missing field");
    let wrong = text.split('&').find_map(|pair| {
        let error = web::Query::<T>::from_query(pair).err()?;
        Some((pair, why(&error))).filter(|(_, why)| !is_lack(why))
    });
    match wrong {
        Some((pair, why)) => {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            let value: String = value.chars().take(SHOWN).collect();
            match name {
                "limit" => format!("limit={value:?}: expected 1 to {MAX_LIMIT}"),
                "replicas" => format!("replicas={value:?}: expected 0 to {MAX_COPIES}"),
                name => format!("{name:?}={value:?}: {why}"),
            }
        }
        None => format!("query string: {}", why(error)),
    }
}

/// The whole body, of at most `limit` bytes.
pub async fn body(payload: &mut web::Payload, limit: usize) -> Result<Bytes, ApiError> {
    let read = async {
        let mut body = BytesMut::new();
        while let Some(chunk) = next_chunk(payload).await? {
            if body.len() + chunk.len() > limit {
                return Err(ApiError::new(
                    Kind::TooLarge,
                    format!("the body is longer than {limit} bytes"),
                ));
            }
            body.extend_from_slice(&chunk);
        }
        Ok(body.freeze())
    };
    timeout(WHOLE_WITHIN, read).await.unwrap_or_else(|_| {
        Err(ApiError::new(
            Kind::BadRequest,
            format!("the body did not end within {WHOLE_WITHIN:?}"),
        ))
    })
}

/// The next chunk of the body; `None` at its end.
pub async fn next_chunk(payload: &mut web::Payload) -> Result<Option<Bytes>, ApiError> {
    match timeout(SILENT_FOR, payload.next()).await {
        Ok(None) => Ok(None),
        Ok(Some(Ok(chunk))) => Ok(Some(chunk)),
        Ok(Some(Err(error))) => Err(ApiError::new(
            Kind::BadRequest,
            format!("the body broke off: {error}"),
        )),
        Err(_) => Err(ApiError::new(
            Kind::BadRequest,
            format!("no more of the body came for {SILENT_FOR:?}"),
        )),
    }
}

/// Bytes that are written at once.
const BLOCK: usize = 1 << 20;

/// The next bytes of the body, a block of what the network gives in smaller chunks; `None` at its
/// end.
pub async fn next_block(payload: &mut web::Payload) -> Result<Option<Vec<u8>>, ApiError> {
    let mut block = Vec::new();
    while block.len() < BLOCK {
        let Some(chunk) = next_chunk(payload).await? else {
            break;
        };
        if block.capacity() < BLOCK && block.len() + chunk.len() > block.capacity() {
            // A large body fills it; a small one ends first.
            block.reserve_exact(if block.is_empty() {
                chunk.len()
            } else {
                BLOCK + chunk.len()
            });
        }
        block.extend_from_slice(&chunk);
    }
    Ok((!block.is_empty()).then_some(block))
}

/// The length that the client says the body has.
pub fn content_length(request: &HttpRequest) -> Option<u64> {
    let value = request.headers().get(header::CONTENT_LENGTH)?;
    value.to_str().ok()?.parse().ok()
}

/// A JSON body. Says of what it is not `expected`.
pub async fn json<T: DeserializeOwned>(
    payload: &mut web::Payload,
    expected: &str,
) -> Result<T, ApiError> {
    let body = body(payload, MAX_JSON).await?;
    serde_json::from_slice(&body).map_err(|error| {
        ApiError::new(
            Kind::BadRequest,
            format!("the body is not {expected}: {error}"),
        )
    })
}

/// The number of items that a page may have.
pub fn limit(asked: Option<u32>) -> Result<usize, ApiError> {
    match asked.unwrap_or(DEFAULT_LIMIT) {
        limit @ 1..=MAX_LIMIT => Ok(limit as usize),
        other => Err(ApiError::new(
            Kind::BadRequest,
            format!("limit={other}: expected 1 to {MAX_LIMIT}"),
        )),
    }
}

/// A cursor that says where a page ended.
pub fn to_cursor(place: &str) -> String {
    BASE64_URL_SAFE_NO_PAD.encode(place)
}

/// What [`to_cursor`] was given.
pub fn from_cursor(cursor: &str) -> Result<String, ApiError> {
    let place = BASE64_URL_SAFE_NO_PAD
        .decode(cursor)
        .ok()
        .and_then(|bytes| String::from_utf8(bytes).ok());
    place.ok_or_else(|| ApiError::new(Kind::BadRequest, "cursor is not one that a page ended with"))
}

/// The digests of an `If-None-Match` header, weak tags included; `None` for `*`.
pub fn etags(value: &header::HeaderValue) -> Option<Vec<String>> {
    list(value, |tag| Some(tag.trim_start_matches("W/")))
}

/// The digests of an `If-Match` header; `None` for `*`. A weak tag is equal to none by the strong
/// comparison that is asked for there (RFC 9110, section 13.1.1).
pub fn strong_etags(value: &header::HeaderValue) -> Option<Vec<String>> {
    list(value, |tag| (!tag.starts_with("W/")).then_some(tag))
}

fn list(value: &header::HeaderValue, counts: impl Fn(&str) -> Option<&str>) -> Option<Vec<String>> {
    let text = value.to_str().unwrap_or_default().trim();
    (text != "*").then(|| {
        text.split(',')
            .filter_map(|tag| counts(tag.trim()))
            .map(|tag| tag.trim_matches('"').to_owned())
            .collect()
    })
}
