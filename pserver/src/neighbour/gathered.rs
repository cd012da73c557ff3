//! Lookups that are wanted at the same moment go to a neighbour in one request.
//!
//! What is asked while the event loop takes one turn is gathered: nobody is kept waiting for others
//! to come, and the more there is to do, the more goes together. Answers come in any order, so a
//! slow lookup holds nobody up.

use std::{cell::RefCell, collections::HashMap, time::Instant};

use awc::http::StatusCode;
use bytes::BytesMut;
use futures_util::{StreamExt, future::join_all};
use tokio::{
    sync::oneshot,
    task::yield_now,
    time::{Instant as Deadline, timeout_at},
};
use vecino_rest::{
    body::{LocateMany, LocateQuery, LocatedOne, Variant},
    route,
};

use super::{
    link::Link,
    outbound::{ANSWER_WITHIN, MAX_ANSWER, Outbound, RawAnswer, Reply, understood},
};

/// Bytes of one request, about: less than a peer takes.
const REQUEST_BYTES: usize = 48 << 10;
/// ... of which a query takes so many beside its texts.
const QUERY_BYTES: usize = 128;

struct Question {
    query: LocateQuery,
    /// Nobody waits any more when it is closed.
    asker: oneshot::Sender<Reply<Vec<Variant>>>,
}

impl Question {
    fn answer(self, reply: Reply<Vec<Variant>>) {
        // The asker may be gone.
        let _ = self.asker.send(reply);
    }

    /// About how long it is as JSON.
    fn bytes(&self) -> usize {
        let name = self
            .query
            .name
            .as_ref()
            .map_or(0, |name| name.as_str().len());
        let provider = self.query.provider.as_ref().map_or(0, String::len);
        // Quotes are escaped.
        QUERY_BYTES + 2 * (name + provider)
    }
}

/// What is to be asked, by the URL of the neighbour.
#[derive(Default)]
pub(super) struct Gathered(RefCell<HashMap<String, Vec<Question>>>);

impl Gathered {
    /// Whether it is the first one.
    fn add(&self, url: &str, question: Question) -> bool {
        let mut gathered = self.0.borrow_mut();
        let questions = gathered.entry(url.to_owned()).or_default();
        questions.push(question);
        questions.len() == 1
    }

    fn take(&self, url: &str) -> Vec<Question> {
        let mut gathered = self.0.borrow_mut();
        gathered
            .get_mut(url)
            .map(std::mem::take)
            .unwrap_or_default()
    }
}

/// Splits questions into requests.
fn requests(questions: Vec<Question>) -> Vec<Vec<Question>> {
    let mut requests: Vec<Vec<Question>> = Vec::new();
    let mut left = 0;
    for question in questions {
        let bytes = question.bytes();
        match requests.last_mut() {
            Some(request) if request.len() < LocateMany::MAX && bytes <= left => {
                request.push(question);
                left -= bytes;
            }
            _ => {
                left = REQUEST_BYTES.saturating_sub(bytes);
                requests.push(vec![question]);
            }
        }
    }
    requests
}

impl Outbound {
    /// Asks a neighbour of our contract, together with what else it is asked now.
    pub(super) async fn locate_together(
        &self,
        link: &Link,
        query: &LocateQuery,
    ) -> Reply<Vec<Variant>> {
        let (asker, answer) = oneshot::channel();
        let query = query.clone();
        if self.gathered.add(link.url(), Question { query, asker }) {
            let (outbound, url) = (self.clone(), link.url().to_owned());
            // Not by this asker, who may go before there is an answer.
            actix_web::rt::spawn(async move {
                yield_now().await;
                outbound.ask_gathered(&url).await;
            });
        }
        let dropped = |_| Reply::Failed("nobody asked it".to_owned());
        answer.await.unwrap_or_else(dropped)
    }

    async fn ask_gathered(&self, url: &str) {
        let questions = self.gathered.take(url);
        let Some(link) = self.links.iter().find(|link| link.url() == url) else {
            return;
        };
        let asked = requests(questions).into_iter().map(async |request| {
            if request.len() == 1 || link.is_one_at_a_time(Instant::now()) {
                self.ask_each(link, request).await;
            } else {
                self.ask_together(link, request).await;
            }
        });
        join_all(asked).await;
    }

    async fn ask_each(&self, link: &Link, questions: Vec<Question>) {
        let asked = questions.into_iter().map(async |mut question| {
            let asked = self.locate_alone(link, &question.query);
            tokio::select! {
                reply = asked => question.answer(reply),
                () = question.asker.closed() => {}
            }
        });
        join_all(asked).await;
    }

    async fn ask_together(&self, link: &Link, questions: Vec<Question>) {
        let queries = questions.iter().map(|question| question.query.clone());
        let body = LocateMany {
            queries: queries.collect(),
        };
        let mut waiting: Vec<_> = questions.into_iter().map(Some).collect();
        let reply = match self.read_answers(link, &body, &mut waiting).await {
            Ok(reply) => reply,
            Err(why) => Reply::Failed(why),
        };
        let waiting = waiting.into_iter().flatten();
        match reply {
            Reply::FirstSystem => {
                link.takes_one_at_a_time(Instant::now());
                self.ask_each(link, waiting.collect()).await;
            }
            // One of them may be to blame.
            Reply::BadQuery(_) => self.ask_each(link, waiting.collect()).await,
            other => waiting.for_each(|question| question.answer(other.without_answer())),
        }
    }

    /// Gives each its answer; what those get who had none.
    async fn read_answers(
        &self,
        link: &Link,
        body: &LocateMany,
        waiting: &mut [Option<Question>],
    ) -> Result<Reply<()>, String> {
        let deadline = Deadline::now() + ANSWER_WITHIN;
        let begun = self.begin(link, route::NEIGHBOUR_LOCATE_MANY, body);
        let mut response = begun.await?;
        let status = response.status();
        if status != StatusCode::OK {
            let answer = RawAnswer::read(response).await?;
            if matches!(status.as_u16(), 404 | 405 | 501) {
                // Whatever it says of it: it does not know the route.
                return Ok(Reply::FirstSystem);
            }
            return Ok(answer.understood().without_answer());
        }
        let mut rest = BytesMut::new();
        loop {
            let more = timeout_at(deadline, response.next()).await;
            let Some(chunk) = more.map_err(|_| "its answer does not end".to_owned())? else {
                return match waiting.iter().all(Option::is_none) {
                    true => Ok(Reply::Answer(())),
                    false => Err("its answer ended early".to_owned()),
                };
            };
            let mut unsearched = rest.len();
            rest.extend_from_slice(&chunk.map_err(|error| error.to_string())?);
            while let Some(end) = rest[unsearched..].iter().position(|byte| *byte == b'\n') {
                let line = rest.split_to(unsearched + end + 1);
                unsearched = 0;
                let one: LocatedOne = serde_json::from_slice(&line)
                    .map_err(|error| format!("its answer cannot be read: {error}"))?;
                let place = usize::try_from(one.query).ok();
                let question = place.and_then(|place| waiting.get_mut(place));
                let Some(question) = question.and_then(Option::take) else {
                    return Err(format!(
                        "it answered query {}, which was not asked",
                        one.query
                    ));
                };
                question.answer(match one.problem {
                    Some(problem) => Reply::of_problem(problem),
                    None => Reply::Answer(understood(one.variants)),
                });
            }
            if rest.len() > MAX_ANSWER {
                return Err(format!("more than {MAX_ANSWER} bytes"));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use actix_web::{App, HttpResponse, HttpServer, web};
    use vecino_rest::{Kind, Name, PeerUrl, Problem, body::Located};

    use super::*;
    use crate::neighbour::{link::Links, outbound::OutboundError};

    fn query(name: &str) -> LocateQuery {
        LocateQuery {
            name: Some(Name::parse(name).expect("valid")),
            digest: None,
            provider: None,
            fresh: false,
        }
    }

    fn found(query: &LocateQuery) -> Variant {
        let name = query.name.clone().expect("asked by name");
        Variant::unverifiable(name, "http://192.0.2.1:80".to_owned())
    }

    /// A neighbour that answers several lookups as `many` says; those at `/v1/neighbour/locate` it
    /// finds. It notes what it was asked, by the number of queries.
    async fn neighbour(many: fn(LocateMany) -> HttpResponse) -> (Outbound, Arc<Mutex<Vec<usize>>>) {
        let asked: Arc<Mutex<Vec<usize>>> = Arc::default();
        let log = asked.clone();
        let server = HttpServer::new(move || {
            let (log, single) = (log.clone(), log.clone());
            let many = move |body: web::Json<LocateMany>| {
                log.lock().expect("whole").push(body.queries.len());
                std::future::ready(many(body.into_inner()))
            };
            let one = move |body: web::Json<LocateQuery>| {
                single.lock().expect("whole").push(1);
                let variants = vec![found(&body)];
                std::future::ready(web::Json(Located { variants }))
            };
            App::new()
                .route(route::NEIGHBOUR_LOCATE_MANY, web::post().to(many))
                .route(route::NEIGHBOUR_LOCATE, web::post().to(one))
        });
        let server = server.workers(1).bind("127.0.0.1:0").expect("binds");
        let url = PeerUrl::parse(&format!("http://{}", server.addrs()[0])).expect("a URL");
        actix_web::rt::spawn(server.run());
        let links = Arc::new(Links::new(&[url], &Arc::default()));
        let client = awc::Client::default();
        (
            Outbound::new(client, links, Arc::default(), Arc::default()),
            asked,
        )
    }

    /// Asks for all of `names` at once.
    async fn ask(outbound: &Outbound, names: &[&str]) -> Vec<Result<Vec<Variant>, OutboundError>> {
        let asked = names
            .iter()
            .map(async |name| outbound.locate(&query(name)).await);
        join_all(asked).await
    }

    fn lines(answers: impl Iterator<Item = LocatedOne>) -> HttpResponse {
        let lines = answers.map(|answer| serde_json::to_string(&answer).expect("plain") + "\n");
        HttpResponse::Ok().body(lines.collect::<String>())
    }

    fn answered(query: u32, variants: Vec<Variant>) -> LocatedOne {
        LocatedOne {
            query,
            variants,
            problem: None,
        }
    }

    #[actix_web::test]
    async fn what_is_asked_at_once_goes_in_one_request_and_each_gets_its_answer() {
        let (outbound, asked) = neighbour(|body| {
            let answers = (0..)
                .zip(&body.queries)
                .map(|(number, query)| match number {
                    1 => LocatedOne {
                        problem: Some(Problem::new(Kind::LookupFailed, "not now")),
                        ..answered(number, Vec::new())
                    },
                    2 => answered(number, Vec::new()),
                    _ => answered(number, vec![found(query)]),
                });
            lines(answers.collect::<Vec<_>>().into_iter().rev())
        })
        .await;
        let mut answers = ask(&outbound, &["a", "b", "c", "d"]).await;
        assert_eq!(*asked.lock().expect("whole"), [4]);
        assert_eq!(
            answers.pop().expect("four").expect("found"),
            [found(&query("d"))]
        );
        assert_eq!(answers.pop().expect("three").expect("known"), []);
        assert!(matches!(
            answers.pop(),
            Some(Err(OutboundError::LookupFailed))
        ));
        assert_eq!(
            answers.pop().expect("one").expect("found"),
            [found(&query("a"))]
        );
        // Alone: as ever.
        assert_eq!(ask(&outbound, &["e"]).await.len(), 1);
        assert_eq!(*asked.lock().expect("whole"), [4, 1]);
    }

    #[actix_web::test]
    async fn who_does_not_know_the_route_is_asked_one_by_one() {
        let plain: fn(LocateMany) -> HttpResponse = |_| HttpResponse::NotFound().finish();
        // As a peer says it that has no such route.
        let problem = |_| {
            let problem = Problem::new(Kind::NotFound, "no such route");
            HttpResponse::NotFound()
                .content_type(vecino_rest::problem::MEDIA_TYPE)
                .body(serde_json::to_string(&problem).expect("plain"))
        };
        for ignorant in [plain, problem] {
            let (outbound, asked) = neighbour(ignorant).await;
            for expected in [vec![2, 1, 1], vec![2, 1, 1, 1, 1]] {
                for answer in ask(&outbound, &["a", "b"]).await {
                    assert_eq!(answer.expect("found").len(), 1);
                }
                assert_eq!(*asked.lock().expect("whole"), expected);
            }
        }
    }

    #[actix_web::test]
    async fn one_bad_query_spoils_nobody_elses() {
        let (outbound, _) = neighbour(|_| {
            let problem = Problem::new(Kind::BadRequest, "one of them");
            HttpResponse::BadRequest()
                .content_type(vecino_rest::problem::MEDIA_TYPE)
                .json(problem)
        })
        .await;
        for answer in ask(&outbound, &["a", "b"]).await {
            assert_eq!(answer.expect("found").len(), 1);
        }
    }

    #[actix_web::test]
    async fn an_answer_that_is_wrong_or_ends_early_fails_those_who_wait() {
        // A query that was not asked, then one that was.
        let (outbound, _) = neighbour(|body| {
            let right = answered(0, vec![found(&body.queries[0])]);
            lines([right.clone(), right].into_iter())
        })
        .await;
        let answers = ask(&outbound, &["a", "b"]).await;
        assert!(answers[0].is_ok());
        assert!(matches!(&answers[1], Err(OutboundError::NoneAnswers(_))));
        let (outbound, _) = neighbour(|_| HttpResponse::Ok().body("{")).await;
        for answer in ask(&outbound, &["a", "b"]).await {
            assert!(matches!(answer, Err(OutboundError::NoneAnswers(_))));
        }
    }

    #[test]
    fn a_request_is_bounded() {
        let question = |bytes: usize| Question {
            query: LocateQuery {
                provider: Some("p".repeat(bytes)),
                ..query("a")
            },
            asker: oneshot::channel().0,
        };
        let sizes = |bytes: &[usize]| -> Vec<usize> {
            let questions = bytes.iter().map(|bytes| question(*bytes)).collect();
            requests(questions).iter().map(Vec::len).collect()
        };
        assert_eq!(sizes(&[1; 70]), [32, 32, 6]);
        assert_eq!(sizes(&[10_000, 10_000, 10_000, 1]), [2, 2]);
        assert_eq!(sizes(&[1, REQUEST_BYTES, 1]), [1, 1, 1]);
    }
}
