//! Between the messages of `chord.proto` and the strategy's types. What others send is hostile:
//! what does not parse, is too long or leads inside is refused, naming the field.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use vecino_grpc::v1;
use vecino_rest::{Digest, Name, PeerId, PeerUrl};

use super::{
    id::Id,
    member::Member,
    records::Provided,
    timing::{MAX_LIST, RECORDS_A_MESSAGE, RECORDS_A_NAME},
};
use crate::{content::catalogue::Record, download::provider_url, locate::overlay::Contact};

/// Longest label of a place, in bytes.
const MAX_SITE_BYTES: usize = 64;
/// Records in a page that is handed over: those of the last name may exceed the limit.
const MAX_PAGE: usize = RECORDS_A_MESSAGE + RECORDS_A_NAME;

/// A message that is not what it should be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum Invalid {
    /// A field's value.
    #[error("{0}: {1}")]
    Field(&'static str, String),
    /// Nothing there.
    #[error("{0} is missing")]
    Missing(&'static str),
    /// A list.
    #[error("{0}: {1} entries; at most {2} are taken")]
    TooMany(&'static str, usize, usize),
}

/// Reads messages; knows whether this peer is itself on loopback, and so may have others there.
#[derive(Debug, Clone, Copy)]
pub(super) struct Reader {
    pub(super) on_loopback: bool,
}

impl Reader {
    pub(super) fn member(
        self,
        field: &'static str,
        member: Option<v1::ChordMember>,
    ) -> Result<Member, Invalid> {
        let member = member.ok_or(Invalid::Missing(field))?;
        let contact = self.contact(&member)?;
        Ok(Member::new(contact))
    }

    fn contact(self, member: &v1::ChordMember) -> Result<Contact, Invalid> {
        let overlay = self.url("overlay", &member.overlay)?;
        let url = self.url("url", &member.url)?;
        if overlay.host() != url.host() {
            let both = format!("{overlay} and {url} are at different hosts");
            return Err(Invalid::Field("overlay", both));
        }
        if member.site.len() > MAX_SITE_BYTES || member.site.chars().any(char::is_control) {
            let expected = format!("expected at most {MAX_SITE_BYTES} bytes of plain text");
            return Err(Invalid::Field("site", expected));
        }
        Ok(Contact {
            peer: peer("peer_id", &member.peer_id)?,
            overlay,
            url,
            site: (!member.site.is_empty()).then(|| member.site.clone()),
        })
    }

    fn url(self, field: &'static str, text: &str) -> Result<PeerUrl, Invalid> {
        let wrong = |error: &dyn std::fmt::Display| Invalid::Field(field, error.to_string());
        let url = provider_url::parse(text).map_err(|error| wrong(&error))?;
        match url.fault(self.on_loopback) {
            Some(fault) => Err(wrong(&fault)),
            None => Ok(url),
        }
    }

    pub(super) fn members(
        self,
        field: &'static str,
        members: Vec<v1::ChordMember>,
    ) -> Result<Vec<Member>, Invalid> {
        within(field, members.len(), MAX_LIST)?;
        members
            .into_iter()
            .map(|member| self.member(field, Some(member)))
            .collect()
    }

    /// Records that members keep of others; those that do not parse are left out.
    pub(super) fn provided(
        self,
        provided: Vec<v1::ChordProvided>,
        now: Duration,
        longest: Duration,
    ) -> Result<Vec<Provided>, Invalid> {
        within("provided", provided.len(), MAX_PAGE)?;
        let read = |one: v1::ChordProvided| {
            let life = Duration::from_millis(one.life_ms.into()).min(longest);
            Some(Provided {
                record: record(one.record?).ok()?,
                provider: Arc::new(self.contact(&one.provider?).ok()?),
                expires: now + life,
            })
        };
        Ok(provided.into_iter().filter_map(read).collect())
    }
}

fn within(field: &'static str, count: usize, limit: usize) -> Result<(), Invalid> {
    if count > limit {
        return Err(Invalid::TooMany(field, count, limit));
    }
    Ok(())
}

pub(super) fn peer(field: &'static str, bytes: &[u8]) -> Result<PeerId, Invalid> {
    PeerId::from_slice(bytes).ok_or_else(|| length(field, bytes.len(), PeerId::LEN))
}

pub(super) fn place(field: &'static str, bytes: &[u8]) -> Result<Id, Invalid> {
    Id::from_slice(bytes).ok_or_else(|| length(field, bytes.len(), Id::LEN))
}

/// As `place`, or nothing when there is none.
pub(super) fn cursor(bytes: &[u8]) -> Result<Option<Id>, Invalid> {
    if bytes.is_empty() {
        return Ok(None);
    }
    place("cursor", bytes).map(Some)
}

fn length(field: &'static str, is: usize, wanted: usize) -> Invalid {
    Invalid::Field(field, format!("{is} bytes; expected {wanted}"))
}

pub(super) fn records(records: Vec<v1::ChordPublished>) -> Result<Vec<Record>, Invalid> {
    within("records", records.len(), RECORDS_A_MESSAGE)?;
    records.into_iter().map(record).collect()
}

fn record(record: v1::ChordPublished) -> Result<Record, Invalid> {
    let digest = Digest::from_slice(&record.digest)
        .ok_or_else(|| length("digest", record.digest.len(), Digest::LEN))?;
    Ok(Record {
        name: name(&record.name)?,
        digest,
        size: record.size,
        modified_ms: record.modified_ms,
    })
}

pub(super) fn name(text: &str) -> Result<Name, Invalid> {
    Name::parse(text).map_err(|error| Invalid::Field("name", error.to_string()))
}

pub(super) fn from_id(id: &Id) -> Bytes {
    Bytes::copy_from_slice(id.as_bytes())
}

pub(super) fn from_peer(peer: &PeerId) -> Bytes {
    Bytes::copy_from_slice(peer.as_bytes())
}

pub(super) fn from_contact(contact: &Contact) -> v1::ChordMember {
    v1::ChordMember {
        peer_id: from_peer(&contact.peer),
        overlay: contact.overlay.to_string(),
        url: contact.url.to_string(),
        site: contact.site.clone().unwrap_or_default(),
    }
}

pub(super) fn from_member(member: &Member) -> v1::ChordMember {
    from_contact(&member.contact)
}

pub(super) fn from_members(members: &[Member]) -> Vec<v1::ChordMember> {
    members.iter().map(from_member).collect()
}

pub(super) fn from_record(record: &Record) -> v1::ChordPublished {
    v1::ChordPublished {
        name: record.name.to_string(),
        digest: Bytes::copy_from_slice(record.digest.as_bytes()),
        size: record.size,
        modified_ms: record.modified_ms,
    }
}

pub(super) fn from_provided(provided: &[Provided], now: Duration) -> Vec<v1::ChordProvided> {
    let write = |one: &Provided| v1::ChordProvided {
        record: Some(from_record(&one.record)),
        provider: Some(from_contact(&one.provider)),
        life_ms: u32::try_from(one.expires.saturating_sub(now).as_millis()).unwrap_or(u32::MAX),
    };
    provided.iter().map(write).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(overlay: &str, url: &str) -> v1::ChordMember {
        v1::ChordMember {
            peer_id: vec![1; PeerId::LEN].into(),
            overlay: overlay.to_owned(),
            url: url.to_owned(),
            site: String::new(),
        }
    }

    #[test]
    fn hostile_members_are_refused() {
        let outside = Reader { on_loopback: false };
        let good = message("http://10.0.0.1:90", "http://10.0.0.1:80");
        let member = outside.member("from", Some(good.clone())).expect("valid");
        assert_eq!(from_member(&member), good);
        let short = v1::ChordMember {
            peer_id: vec![1; 15].into(),
            ..good.clone()
        };
        let long = v1::ChordMember {
            site: "x".repeat(MAX_SITE_BYTES + 1),
            ..good.clone()
        };
        for (member, field) in [
            (
                message("http://127.0.0.1:90", "http://127.0.0.1:80"),
                "overlay",
            ),
            (
                message("http://169.254.169.254:90", "http://10.0.0.1:80"),
                "overlay",
            ),
            (
                message("http://10.0.0.1:90", "http://10.0.0.2:80"),
                "overlay",
            ),
            (message("http://10.0.0.1:90", "ftp://10.0.0.1:80"), "url"),
            (
                message("http://10.0.0.1:90/x", "http://10.0.0.1:80"),
                "overlay",
            ),
            (short, "peer_id"),
            (long, "site"),
        ] {
            let error = outside.member("from", Some(member)).expect_err("hostile");
            assert!(error.to_string().starts_with(field), "{error}");
        }
        assert_eq!(outside.member("from", None), Err(Invalid::Missing("from")));
        let many = vec![good; MAX_LIST + 1];
        assert!(matches!(
            outside.members("successors", many),
            Err(Invalid::TooMany("successors", 65, 64))
        ));
    }

    #[test]
    fn hostile_records_are_refused() {
        let good = v1::ChordPublished {
            name: "a.txt".to_owned(),
            digest: vec![1; Digest::LEN].into(),
            size: 1,
            modified_ms: 0,
        };
        assert_eq!(records(vec![good.clone()]).map(|all| all.len()), Ok(1));
        let outside = v1::ChordPublished {
            name: "../a.txt".to_owned(),
            ..good.clone()
        };
        assert!(records(vec![outside]).is_err());
        let short = v1::ChordPublished {
            digest: vec![1; 31].into(),
            ..good.clone()
        };
        assert!(records(vec![short]).is_err());
        assert!(records(vec![good; RECORDS_A_MESSAGE + 1]).is_err());
    }
}
