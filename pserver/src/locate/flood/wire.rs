//! Between the messages of `gossip.proto` and ours. What comes from outside is parsed here or is
//! nothing: a bad name, address or id leaves out the file, the answer or the frame that has it.

use std::time::Duration;

use vecino_grpc::v1::{self, gossip_frame::Frame, gossip_question};
use vecino_rest::{Digest, Name, PeerId, PeerUrl};

use super::{
    limits::{FILES_PER_ANSWER, MAX_ELSEWHERE, MAX_HOP_WAIT, MAX_HOPS, MAX_PAGES, MAX_SITE_BYTES},
    message::{Answer, File, Held, Holder, Message, Question, QuestionId, Subject},
};
use crate::{download::provider_url, locate::overlay::Contact};

/// What only the two peers of a link know.
pub(super) type Token = [u8; 16];

/// A peer that says who it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Hello {
    pub(super) contact: Contact,
    pub(super) token: Option<Token>,
    pub(super) elsewhere: Vec<PeerUrl>,
    pub(super) on_request: bool,
}

/// A frame that is not of a [`Message`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Incoming {
    Hello(Hello),
    Refusal(v1::gossip_refusal::Reason, Vec<PeerUrl>),
    Goodbye,
    Ping(u64),
    Pong(u64),
    Message(Message),
}

pub(super) fn frame(frame: Frame) -> v1::GossipFrame {
    v1::GossipFrame { frame: Some(frame) }
}

/// The first frame of a caller.
pub(super) fn call(me: &Contact, token: Option<Token>, on_request: bool) -> v1::GossipFrame {
    frame(Frame::Hello(v1::GossipHello {
        on_request,
        ..hello(me, token, &[])
    }))
}

/// The first frame of who was called.
pub(super) fn welcome(me: &Contact, token: Token, elsewhere: &[PeerUrl]) -> v1::GossipFrame {
    frame(Frame::Hello(hello(me, Some(token), elsewhere)))
}

fn hello(me: &Contact, token: Option<Token>, elsewhere: &[PeerUrl]) -> v1::GossipHello {
    v1::GossipHello {
        peer_id: me.peer.as_bytes().to_vec().into(),
        overlay_url: me.overlay.to_string(),
        public_url: me.url.to_string(),
        site: me.site.clone().unwrap_or_default(),
        link_token: token.map(|token| token.to_vec()).unwrap_or_default().into(),
        elsewhere: elsewhere.iter().map(ToString::to_string).collect(),
        on_request: false,
    }
}

pub(super) fn refusal(
    reason: v1::gossip_refusal::Reason,
    elsewhere: &[PeerUrl],
) -> v1::GossipFrame {
    frame(Frame::Refusal(v1::GossipRefusal {
        reason: reason.into(),
        elsewhere: elsewhere.iter().map(ToString::to_string).collect(),
    }))
}

pub(super) fn message(message: Message) -> v1::GossipFrame {
    frame(match message {
        Message::Question(question) => Frame::Question(v1::GossipQuestion {
            id: question.id.0.to_vec().into(),
            hops: question.hops,
            budget: question.budget,
            patience_ms: u32::try_from(question.patience.as_millis()).unwrap_or(u32::MAX),
            subject: Some(match question.subject {
                Subject::Name(name) => gossip_question::Subject::Name(name.into()),
                Subject::Digest(digest) => {
                    gossip_question::Subject::Digest(digest.as_bytes().to_vec().into())
                }
                Subject::Everything(page) => gossip_question::Subject::Page(page),
            }),
        }),
        Message::Answer(answer) => {
            let (holder, files, more) = match answer.held {
                Some(held) => (Some(held.holder), held.files, held.more),
                None => (None, Vec::new(), false),
            };
            Frame::Answer(v1::GossipAnswer {
                id: answer.id.0.to_vec().into(),
                holder: holder.map(|holder| v1::GossipHolder {
                    peer_id: holder.peer.as_bytes().to_vec().into(),
                    url: holder.url.to_string(),
                    site: holder.site.unwrap_or_default(),
                }),
                files: files.into_iter().map(file).collect(),
                more,
                done: answer.done.is_some(),
                visited: answer.done.unwrap_or_default(),
            })
        }
    })
}

fn file(file: File) -> v1::GossipFile {
    v1::GossipFile {
        name: file.name.into(),
        digest: file.digest.as_bytes().to_vec().into(),
        size: file.size,
        modified_ms: file.modified_ms,
    }
}

/// `frame`, if it can be used.
pub(super) fn parse(frame: v1::GossipFrame) -> Option<Incoming> {
    Some(match frame.frame? {
        Frame::Hello(hello) => Incoming::Hello(parse_hello(hello)?),
        Frame::Refusal(refusal) => {
            Incoming::Refusal(refusal.reason(), parse_elsewhere(&refusal.elsewhere))
        }
        Frame::Goodbye(_) => Incoming::Goodbye,
        Frame::Ping(number) => Incoming::Ping(number),
        Frame::Pong(number) => Incoming::Pong(number),
        Frame::Question(question) => {
            Incoming::Message(Message::Question(parse_question(question)?))
        }
        Frame::Answer(answer) => Incoming::Message(Message::Answer(parse_answer(answer)?)),
    })
}

fn parse_hello(hello: v1::GossipHello) -> Option<Hello> {
    let token = match &*hello.link_token {
        [] => None,
        token => Some(token.try_into().ok()?),
    };
    Some(Hello {
        contact: Contact {
            peer: PeerId::from_slice(&hello.peer_id)?,
            overlay: provider_url::parse(&hello.overlay_url).ok()?,
            url: provider_url::parse(&hello.public_url).ok()?,
            site: parse_site(hello.site)?,
        },
        token,
        elsewhere: parse_elsewhere(&hello.elsewhere),
        on_request: hello.on_request,
    })
}

fn parse_elsewhere(urls: &[String]) -> Vec<PeerUrl> {
    let parsed = urls.iter().filter_map(|url| provider_url::parse(url).ok());
    parsed.take(MAX_ELSEWHERE).collect()
}

fn parse_site(site: String) -> Option<Option<String>> {
    let usable = site.len() <= MAX_SITE_BYTES && !site.contains(char::is_control);
    usable.then_some((!site.is_empty()).then_some(site))
}

fn parse_id(bytes: &[u8]) -> Option<QuestionId> {
    Some(QuestionId(bytes.try_into().ok()?))
}

fn parse_question(question: v1::GossipQuestion) -> Option<Question> {
    let subject = match question.subject? {
        gossip_question::Subject::Name(name) => Subject::Name(Name::parse(&name).ok()?),
        gossip_question::Subject::Digest(digest) => Subject::Digest(Digest::from_slice(&digest)?),
        gossip_question::Subject::Page(page) => Subject::Everything(page.min(MAX_PAGES)),
    };
    let patience = Duration::from_millis(question.patience_ms.into());
    Some(Question {
        id: parse_id(&question.id)?,
        hops: question.hops.min(MAX_HOPS),
        budget: question.budget,
        patience: patience.min(MAX_HOP_WAIT * MAX_HOPS),
        subject,
    })
}

fn parse_answer(answer: v1::GossipAnswer) -> Option<Answer> {
    Some(Answer {
        id: parse_id(&answer.id)?,
        held: answer
            .holder
            .and_then(|holder| parse_held(holder, answer.files, answer.more)),
        done: answer.done.then_some(answer.visited),
    })
}

fn parse_held(holder: v1::GossipHolder, files: Vec<v1::GossipFile>, more: bool) -> Option<Held> {
    let holder = Holder {
        peer: PeerId::from_slice(&holder.peer_id)?,
        url: provider_url::parse(&holder.url).ok()?,
        site: parse_site(holder.site)?,
    };
    let files: Vec<_> = files
        .into_iter()
        .take(FILES_PER_ANSWER)
        .filter_map(parse_file)
        .collect();
    (!files.is_empty()).then_some(Held {
        holder,
        files,
        more,
    })
}

fn parse_file(file: v1::GossipFile) -> Option<File> {
    Some(File {
        name: Name::parse(&file.name).ok()?,
        digest: Digest::from_slice(&file.digest)?,
        size: file.size,
        modified_ms: file.modified_ms,
    })
}
