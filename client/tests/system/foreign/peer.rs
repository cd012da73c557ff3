//! A peer of the first system: own peer (`/connect`), neighbour (`/pedirRecurso`) and provider
//! (`/download/NAME`), as strict as its framework makes it: JSON only as `application/json`, 404
//! for every other route.

use std::{
    collections::HashMap,
    net::SocketAddr,
    sync::{Arc, Mutex, mpsc},
};

use actix_web::{
    App, HttpRequest, HttpResponse, HttpServer, Responder, dev::ServerHandle,
    http::header::ContentType, rt::System, web,
};
use serde::{Deserialize, Serialize};

use super::wire;
use crate::cluster::DEADLINE;

/// What it is connected to, and holds.
#[derive(Debug, Clone, Default)]
pub(crate) struct ForeignPeer {
    neighbour: Option<SocketAddr>,
    locator: Option<SocketAddr>,
    files: HashMap<String, Vec<u8>>,
}

impl ForeignPeer {
    /// An own peer, whose neighbour this is.
    pub(crate) fn with_neighbour(neighbour: SocketAddr) -> Self {
        Self {
            neighbour: Some(neighbour),
            ..Self::default()
        }
    }

    /// A neighbour, whose locator this is.
    pub(crate) fn with_locator(locator: SocketAddr) -> Self {
        Self {
            locator: Some(locator),
            ..Self::default()
        }
    }

    /// A provider of `content`.
    pub(crate) fn with_file(name: &str, content: &[u8]) -> Self {
        Self {
            files: HashMap::from([(name.to_owned(), content.to_owned())]),
            ..Self::default()
        }
    }

    pub(crate) fn start(self) -> Running {
        let (started, starting) = mpsc::channel();
        let seen: Arc<Mutex<Vec<String>>> = Arc::default();
        let (state, log) = (Arc::new(self), seen.clone());
        std::thread::spawn(move || {
            System::new().block_on(async move {
                let server = HttpServer::new(move || {
                    App::new()
                        .app_data(web::Data::from(state.clone()))
                        .app_data(web::Data::from(log.clone()))
                        .route("/connect", web::post().to(connect))
                        .route("/pedirRecurso", web::post().to(pedir_recurso))
                        .route("/download/{name:.*}", web::get().to(download))
                        .route("/download/{name:.*}", web::post().to(download))
                        .default_service(web::to(not_found))
                })
                .workers(1)
                .disable_signals()
                .shutdown_timeout(0)
                .bind(("127.0.0.1", 0))
                .unwrap();
                let addr = server.addrs()[0];
                let server = server.run();
                started.send((addr, server.handle())).unwrap();
                server.await.unwrap();
            });
        });
        let (addr, handle) = starting.recv_timeout(DEADLINE).unwrap();
        Running { addr, seen, handle }
    }
}

/// A peer of the first system that runs. It ends with the test.
pub(crate) struct Running {
    addr: SocketAddr,
    seen: Arc<Mutex<Vec<String>>>,
    handle: ServerHandle,
}

impl Running {
    pub(crate) fn addr(&self) -> SocketAddr {
        self.addr
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.addr)
    }

    /// Method and path of what it was asked.
    pub(crate) fn seen(&self) -> Vec<String> {
        self.seen.lock().unwrap().clone()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        drop(self.handle.stop(false));
    }
}

type State = web::Data<ForeignPeer>;
type Log = web::Data<Mutex<Vec<String>>>;

#[derive(Deserialize)]
struct ConnectBody {
    body: Vec<String>,
}

#[derive(Serialize, Deserialize)]
struct ResourceBody {
    body: String,
}

fn note(log: &Log, request: &HttpRequest) {
    let line = format!("{} {}", request.method(), request.uri());
    log.lock().unwrap().push(line);
}

async fn not_found(request: HttpRequest, log: Log) -> impl Responder {
    note(&log, &request);
    HttpResponse::NotFound()
}

fn text(answer: String) -> HttpResponse {
    HttpResponse::Ok()
        .insert_header(ContentType::plaintext())
        .body(answer)
}

async fn connect(
    request: HttpRequest,
    body: web::Json<ConnectBody>,
    state: State,
    log: Log,
) -> HttpResponse {
    note(&log, &request);
    let Some(neighbour) = state.neighbour else {
        return HttpResponse::InternalServerError().finish();
    };
    let question = ResourceBody {
        body: body.body[0].clone(),
    };
    let sent = awc::Client::new()
        .post(format!("http://{neighbour}/pedirRecurso"))
        .send_json(&question);
    let mut answer = sent.await.unwrap();
    let answer = answer.body().await.unwrap();
    text(String::from_utf8(answer.to_vec()).unwrap())
}

async fn pedir_recurso(
    request: HttpRequest,
    body: web::Json<ResourceBody>,
    state: State,
    log: Log,
) -> HttpResponse {
    note(&log, &request);
    let Some(locator) = state.locator else {
        return HttpResponse::InternalServerError().finish();
    };
    match wire::ask(locator, &body.body).await {
        Ok((200, url)) => text(url),
        Ok(_) => text("404".to_owned()),
        Err(_) => HttpResponse::InternalServerError().finish(),
    }
}

async fn download(request: HttpRequest, state: State, log: Log) -> HttpResponse {
    note(&log, &request);
    let encoded = request.uri().path().strip_prefix("/download/").unwrap();
    match state.files.get(&decoded(encoded)) {
        Some(content) => HttpResponse::Ok().body(content.clone()),
        None => HttpResponse::NotFound().finish(),
    }
}

/// `encoded` without its percent-encoding.
fn decoded(encoded: &str) -> String {
    let mut bytes = Vec::new();
    let mut left = encoded.as_bytes();
    while let Some((&first, rest)) = left.split_first() {
        let hex = rest.get(..2).and_then(|two| std::str::from_utf8(two).ok());
        match hex.and_then(|two| u8::from_str_radix(two, 16).ok()) {
            Some(byte) if first == b'%' => {
                bytes.push(byte);
                left = &rest[2..];
            }
            _ => {
                bytes.push(first);
                left = rest;
            }
        }
    }
    String::from_utf8(bytes).unwrap()
}
