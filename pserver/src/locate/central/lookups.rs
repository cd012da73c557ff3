//! Many lookups on one `LocateStream`, opened when first needed and again after it broke.
//!
//! Invariant: each question is answered once, within [`ANSWER_WITHIN`]; when the stream breaks,
//! every question on it fails at once, so that the next locator can be asked. A locator that
//! speaks only the first system's contract is asked by `getResource` instead.

use std::{collections::HashMap, time::Duration};

use tokio::{
    sync::{mpsc, oneshot},
    time::{Instant, timeout},
};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Status, transport::Channel};
use vecino_grpc::{
    product_service::{Resource, product_service_client::ProductServiceClient},
    v1::{
        LocateRequest, LocateResponse, LocateStreamRequest, LocateStreamResponse, LookupError,
        directory_client::DirectoryClient, locate_request::By, locate_stream_response::Outcome,
    },
};
use vecino_rest::frozen;

use super::{ANSWER_WITHIN, convert};

/// Questions that wait to be sent.
const QUEUE: usize = 1024;
/// Questions that wait for their answer on one stream.
const MAX_PENDING: usize = 4096;
/// A locator that knew only the first system's contract is tried with ours again after so long.
const FIRST_SYSTEM_FOR: Duration = Duration::from_secs(60);

/// What a locator answers.
#[derive(Debug)]
pub(super) enum Answer {
    /// By the directory.
    Directory(LocateResponse),
    /// By the first system's contract: the URL of a provider, if there is one.
    FirstSystem(Option<String>),
}

/// Why there is no answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Failure {
    /// The locator does not answer.
    Unavailable,
    /// It answers that it cannot look up now.
    NotNow,
    /// The question was wrong.
    BadQuery(String),
}

impl From<&Status> for Failure {
    fn from(status: &Status) -> Self {
        match status.code() {
            Code::InvalidArgument => Self::BadQuery(convert::refusal(status.message())),
            _ => Self::Unavailable,
        }
    }
}

impl Failure {
    /// What a locator says of one lookup, on a stream that goes on.
    fn of_lookup(LookupError { code, message }: LookupError) -> Self {
        match Code::from_i32(code) {
            Code::Unavailable => Self::NotNow,
            code => Self::from(&Status::new(code, message)),
        }
    }
}

type Reply = oneshot::Sender<Result<Answer, Failure>>;

#[derive(Debug)]
struct Question {
    request: LocateRequest,
    reply: Reply,
}

/// The way to ask; cheap to share.
#[derive(Debug)]
pub(super) struct Lookups {
    questions: mpsc::Sender<Question>,
}

impl Lookups {
    /// Starts the task that carries the questions, for as long as this lives.
    pub(super) fn start(channel: Channel) -> Self {
        let (questions, queue) = mpsc::channel(QUEUE);
        tokio::spawn(carry(channel, queue));
        Self { questions }
    }

    /// The answer to `request`.
    pub(super) async fn ask(&self, request: LocateRequest) -> Result<Answer, Failure> {
        let asked = async {
            let (reply, answer) = oneshot::channel();
            self.questions
                .send(Question { request, reply })
                .await
                .ok()?;
            answer.await.ok()
        };
        match timeout(ANSWER_WITHIN, asked).await {
            Ok(Some(answer)) => answer,
            Ok(None) | Err(_) => Err(Failure::Unavailable),
        }
    }
}

async fn carry(channel: Channel, mut queue: mpsc::Receiver<Question>) {
    let mut first_system_until: Option<Instant> = None;
    while let Some(first) = queue.recv().await {
        if first_system_until.is_some_and(|until| Instant::now() < until) {
            tokio::spawn(ask_first_system(channel.clone(), first));
            continue;
        }
        match stream(channel.clone(), first, &mut queue).await {
            End::Closed => {}
            End::FirstSystem(questions) => {
                log::info!("a locator speaks only the first system's contract");
                first_system_until = Some(Instant::now() + FIRST_SYSTEM_FOR);
                for question in questions {
                    tokio::spawn(ask_first_system(channel.clone(), question));
                }
            }
        }
    }
}

/// How a stream ended.
enum End {
    /// It broke, or could not be opened.
    Closed,
    /// The locator does not know it; these questions are still to be answered.
    FirstSystem(Vec<Question>),
}

async fn stream(channel: Channel, first: Question, queue: &mut mpsc::Receiver<Question>) -> End {
    let (requests, outbound) = mpsc::channel(QUEUE);
    let mut client = DirectoryClient::new(channel);
    let opened = timeout(
        ANSWER_WITHIN,
        client.locate_stream(ReceiverStream::new(outbound)),
    )
    .await;
    let mut inbound = match opened {
        Ok(Ok(response)) => response.into_inner(),
        failed => {
            let unimplemented =
                matches!(&failed, Ok(Err(status)) if status.code() == Code::Unimplemented);
            // Whoever asked meanwhile would wait for the next try in vain.
            let mut waiting = vec![first];
            while let Ok(question) = queue.try_recv() {
                waiting.push(question);
            }
            if unimplemented {
                return End::FirstSystem(waiting);
            }
            if let Ok(Err(status)) = failed {
                log::debug!("lookups: {status}");
            }
            for question in waiting {
                let _ = question.reply.send(Err(Failure::Unavailable));
            }
            return End::Closed;
        }
    };
    let mut pending: HashMap<u64, Reply> = HashMap::new();
    let mut id = 0;
    let mut next = Some(first);
    loop {
        if let Some(Question { request, reply }) = next.take() {
            id += 1;
            pending.insert(id, reply);
            // A permit was reserved below (or the channel is new).
            let request = LocateStreamRequest {
                id,
                request: Some(request),
            };
            if requests.try_send(request).is_err() {
                break;
            }
        }
        if pending.len() >= MAX_PENDING {
            pending.retain(|_, reply| !reply.is_closed());
            if pending.len() >= MAX_PENDING {
                break;
            }
        }
        let question = async {
            drop(requests.reserve().await.ok()?);
            queue.recv().await
        };
        tokio::select! {
            question = question => match question {
                Some(question) => next = Some(question),
                None => return End::Closed,
            },
            message = inbound.message() => match message {
                Ok(Some(LocateStreamResponse { id, outcome })) => {
                    if let (Some(reply), Some(outcome)) = (pending.remove(&id), outcome) {
                        // Who does not wait any more is not told.
                        let _ = reply.send(match outcome {
                            Outcome::Response(response) => Ok(Answer::Directory(response)),
                            Outcome::Error(error) => Err(Failure::of_lookup(error)),
                        });
                    }
                }
                Ok(None) => break,
                Err(status) => {
                    log::debug!("lookups: {status}");
                    break;
                }
            },
        }
    }
    // Dropping the replies fails what is pending.
    End::Closed
}

async fn ask_first_system(channel: Channel, question: Question) {
    let Question { request, reply } = question;
    let Some(By::Name(name)) = request.by else {
        // That contract knows no digests.
        let _ = reply.send(Ok(Answer::FirstSystem(None)));
        return;
    };
    let mut client = ProductServiceClient::new(channel);
    let answer = timeout(
        ANSWER_WITHIN,
        client.get_resource(Resource {
            resource_name: name,
        }),
    )
    .await;
    let _ = reply.send(match answer {
        Ok(Ok(response)) => {
            let response = response.into_inner();
            let known = response.status_code == 200 && response.response != frozen::NOT_FOUND;
            Ok(Answer::FirstSystem(known.then_some(response.response)))
        }
        Ok(Err(status)) => Err(Failure::from(&status)),
        Err(_) => Err(Failure::Unavailable),
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_locator_that_cannot_look_up_now_is_told_from_one_that_is_gone() {
        let said = |code: Code| {
            Failure::of_lookup(LookupError {
                code: code.into(),
                message: "the store failed; try again".to_owned(),
            })
        };
        assert_eq!(said(Code::Unavailable), Failure::NotNow);
        assert_eq!(said(Code::Internal), Failure::Unavailable);
        let gone = Failure::from(&Status::unavailable("connection refused"));
        assert_eq!(gone, Failure::Unavailable);
    }

    #[test]
    fn a_locators_own_words_are_not_repeated() {
        let told = |message: &str| Failure::from(&Status::invalid_argument(message));
        for message in ["ask 10.9.8.7:51015", "query: ask 10.9.8.7:51015"] {
            let Failure::BadQuery(why) = told(message) else {
                panic!("{message:?} is about the question")
            };
            assert!(!why.contains("10.9.8.7") && !why.contains("51015"), "{why}");
        }
        assert_ne!(told("query has no word"), told("cursor is not valid"));
    }
}
