//! What peers of the flood overlay say to each other, parsed: names are names, addresses are of
//! the right form, numbers are clamped. What is not, never becomes a value of these types.

use std::{fmt, time::Duration};

use vecino_rest::{Digest, Name, PeerId, PeerUrl, body::LocateQuery};

use super::limits::{MAX_DISCOVERED_A_PAGE, MAX_FOUND};

/// Which question: 128 random bits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct QuestionId(pub [u8; 16]);

impl fmt::Debug for QuestionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", u128::from_be_bytes(self.0))
    }
}

/// What is asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Subject {
    /// Who holds a file of this name.
    Name(Name),
    /// Who holds this content.
    Digest(Digest),
    /// What there is: one page of it a peer.
    Everything(u32),
}

impl Subject {
    /// The subject of a lookup.
    pub fn of(query: &LocateQuery) -> Option<Self> {
        match (&query.name, &query.digest) {
            (Some(name), _) => Some(Self::Name(name.clone())),
            (None, Some(digest)) => Some(Self::Digest(*digest)),
            (None, None) => None,
        }
    }

    /// Whether `file` answers this.
    pub fn accepts(&self, file: &File) -> bool {
        match self {
            Self::Name(name) => file.name == *name,
            Self::Digest(digest) => file.digest == *digest,
            Self::Everything(_) => true,
        }
    }

    /// Files that one peer takes or passes on for it.
    pub fn max_files(&self) -> u32 {
        match self {
            Self::Name(_) | Self::Digest(_) => MAX_FOUND,
            Self::Everything(_) => MAX_DISCOVERED_A_PAGE,
        }
    }
}

/// A question on its way.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Question {
    /// Which one.
    pub id: QuestionId,
    /// How deep it may go, its receiver included.
    pub hops: u32,
    /// How many peers it may visit, its receiver included.
    pub budget: u32,
    /// How long its sender waits.
    pub patience: Duration,
    /// What is asked for.
    pub subject: Subject,
}

/// Who holds something.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Holder {
    /// Which peer.
    pub peer: PeerId,
    /// Its REST.
    pub url: PeerUrl,
    /// Its place.
    pub site: Option<String>,
}

/// A file that somebody holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct File {
    /// Its name.
    pub name: Name,
    /// Its content.
    pub digest: Digest,
    /// Bytes.
    pub size: u64,
    /// Last modified, in milliseconds since 1970.
    pub modified_ms: i64,
}

/// What one holder has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Held {
    /// Who.
    pub holder: Holder,
    /// What.
    pub files: Vec<File>,
    /// Whether there is a further page.
    pub more: bool,
}

/// An answer on its way back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// To which question.
    pub id: QuestionId,
    /// What was found, if anything.
    pub held: Option<Held>,
    /// Nothing more comes from this side; so many peers were visited there.
    pub done: Option<u32>,
}

/// A message on a link that is up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Message {
    /// Passed on from link to link.
    Question(Question),
    /// Goes back the same way.
    Answer(Answer),
}
