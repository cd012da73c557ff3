//! Requests of `vecino.v1` into the words of the domain. A request that breaks the contract
//! becomes [`Invalid`], which names the field, its value and what would be right.

use std::net::IpAddr;

use vecino_grpc::v1;
use vecino_rest::{
    Digest, Name, PeerId, PeerKey, PeerUrl, UserName,
    name::InvalidName,
    user::{InvalidPassword, InvalidUserName, check_password},
};

use super::{
    DEFAULT_HITS, DEFAULT_PROVIDERS, MAX_BATCH_RECORDS, MAX_BUCKET_BATCH_RECORDS, MAX_DIRECTORIES,
    MAX_EXCLUDED, MAX_HITS, MAX_PLACED, MAX_PROVIDERS,
};
use crate::{
    account::Login,
    directory::{
        Announcement, Credentials, Lookup, MAX_SITE_BYTES, ProviderFilter, Registration,
        choice::Need, partial::PartialChange,
    },
    store::{Change, Key, Resource, bucket_of},
    zone::Joining,
};

/// A field that breaks the contract.
#[derive(Debug, thiserror::Error)]
pub(super) enum Invalid {
    #[error("{field} has {bytes} bytes: expected {expected}")]
    Length {
        field: &'static str,
        bytes: usize,
        expected: usize,
    },
    #[error("{field} is {value}: expected {expected}")]
    Number {
        field: &'static str,
        value: u64,
        expected: &'static str,
    },
    #[error("{field} is missing: expected {expected}")]
    Missing {
        field: &'static str,
        expected: &'static str,
    },
    #[error("{field}: {fault}")]
    Name {
        field: &'static str,
        fault: InvalidName,
    },
    #[error("{records} records in one batch: expected at most {expected}")]
    Batch { records: usize, expected: usize },
    #[error("digest {digest} of {name:?} is not in bucket {bucket}, which replace_bucket names")]
    Bucket {
        name: Name,
        digest: Digest,
        bucket: u8,
    },
    #[error("withdraw has {0} records: expected none beside replace_bucket")]
    WithdrawInBucket(usize),
    #[error("announce has the partial record {0:?}: expected whole ones beside replace_bucket")]
    PartialInBucket(Name),
    #[error(
        "provider {0:?} is not valid: expected a peer id (32 hex digits) or http[s]://host:port"
    )]
    Provider(String),
    #[error("registered_in has {0} directories: expected at most {MAX_DIRECTORIES}")]
    Directories(usize),
    #[error("site has {0} bytes: expected at most {MAX_SITE_BYTES}")]
    Site(usize),
    #[error(transparent)]
    User(#[from] InvalidUserName),
    #[error(transparent)]
    Password(#[from] InvalidPassword),
}

type Result<T> = std::result::Result<T, Invalid>;

fn fixed<const N: usize>(field: &'static str, bytes: &[u8]) -> Result<[u8; N]> {
    let length = |_| Invalid::Length {
        field,
        bytes: bytes.len(),
        expected: N,
    };
    bytes.try_into().map_err(length)
}

fn name(field: &'static str, text: &str) -> Result<Name> {
    Name::parse(text).map_err(|fault| Invalid::Name { field, fault })
}

/// `value` when it is from 1 to `max`; `default` when it is 0.
fn count(
    field: &'static str,
    value: u32,
    max: u32,
    default: u32,
    expected: &'static str,
) -> Result<usize> {
    match value {
        0 => Ok(default as usize),
        value if value <= max => Ok(value as usize),
        value => Err(Invalid::Number {
            field,
            value: value.into(),
            expected,
        }),
    }
}

pub(super) fn peer_key(bytes: &[u8]) -> Result<PeerKey> {
    Ok(PeerKey::from_bytes(fixed("peer_key", bytes)?))
}

pub(super) fn login(request: v1::LoginRequest, address: IpAddr) -> Result<Login> {
    check_password(&request.password)?;
    Ok(Login {
        peer: peer_key(&request.peer_key)?.peer_id(),
        user: UserName::parse(&request.user)?,
        password: request.password,
        address,
    })
}

pub(super) fn registration(request: v1::RegisterRequest, observed: IpAddr) -> Result<Registration> {
    let key = peer_key(&request.peer_key)?;
    let wrong_port = || Invalid::Number {
        field: "port",
        value: request.port.into(),
        expected: "1 to 65535 when public_url is empty",
    };
    let port = u16::try_from(request.port).map_err(|_| wrong_port())?;
    if port == 0 && request.public_url.is_empty() {
        return Err(wrong_port());
    }
    if request.registered_in.len() > MAX_DIRECTORIES {
        return Err(Invalid::Directories(request.registered_in.len()));
    }
    let registered_in = request
        .registered_in
        .iter()
        .map(|id| fixed("registered_in", id));
    Ok(Registration {
        key,
        public_url: request.public_url,
        port,
        site: request.site,
        free_bytes: request.free_bytes,
        observed,
        registered_in: registered_in.collect::<Result<_>>()?,
    })
}

pub(super) fn joining(request: v1::ZoneJoinRequest, observed: IpAddr) -> Result<Joining> {
    Ok(Joining {
        key: peer_key(&request.peer_key)?,
        public_url: request.public_url,
        overlay_url: request.overlay_url,
        site: request.site,
        wanted: request.slot,
        observed,
    })
}

pub(super) fn credentials(peer_id: &[u8], lease_token: &[u8]) -> Result<Credentials> {
    Ok(Credentials {
        peer: PeerId::from_bytes(fixed("peer_id", peer_id)?),
        token: fixed("lease_token", lease_token)?,
    })
}

fn resource(record: v1::Record) -> Result<Resource> {
    Ok(Resource {
        name: name("announce.name", &record.name)?,
        digest: Digest::from_bytes(fixed("announce.digest", &record.digest)?),
        size: record.size,
        modified_ms: record.modified_ms,
    })
}

pub(super) fn announcement(
    announce: Vec<v1::Record>,
    withdraw: Vec<v1::Record>,
    replace_bucket: Option<u32>,
) -> Result<Announcement> {
    let bounded = |records: usize, expected: usize| {
        if records > expected {
            Err(Invalid::Batch { records, expected })
        } else {
            Ok(())
        }
    };
    let Some(bucket) = replace_bucket else {
        bounded(announce.len() + withdraw.len(), MAX_BATCH_RECORDS)?;
        let withdrawn = |record: v1::Record| {
            let digest = fixed("withdraw.digest", &record.digest)?;
            Ok((
                name("withdraw.name", &record.name)?,
                Digest::from_bytes(digest),
            ))
        };
        let is_partial = |record: &v1::Record| record.partial;
        let (begun, announce): (Vec<_>, Vec<_>) = announce.into_iter().partition(is_partial);
        let (ended, withdraw): (Vec<_>, Vec<_>) = withdraw.into_iter().partition(is_partial);
        let whole = Change::Difference {
            announce: announce.into_iter().map(resource).collect::<Result<_>>()?,
            withdraw: withdraw.into_iter().map(withdrawn).collect::<Result<_>>()?,
        };
        let partial = PartialChange {
            begun: begun.into_iter().map(resource).collect::<Result<_>>()?,
            ended: ended.into_iter().map(withdrawn).collect::<Result<_>>()?,
        };
        return Ok(Announcement { whole, partial });
    };
    let bucket = u8::try_from(bucket).map_err(|_| Invalid::Number {
        field: "replace_bucket",
        value: bucket.into(),
        expected: "0 to 255",
    })?;
    if !withdraw.is_empty() {
        return Err(Invalid::WithdrawInBucket(withdraw.len()));
    }
    bounded(announce.len(), MAX_BUCKET_BATCH_RECORDS)?;
    let resource_of_bucket = |record: v1::Record| {
        let is_partial = record.partial;
        let resource = resource(record)?;
        if is_partial {
            return Err(Invalid::PartialInBucket(resource.name));
        }
        Ok(resource)
    };
    let records = announce.into_iter().map(resource_of_bucket);
    let records: Vec<_> = records.collect::<Result<_>>()?;
    if let Some(stray) = records
        .iter()
        .find(|record| bucket_of(&record.digest) != bucket)
    {
        return Err(Invalid::Bucket {
            name: stray.name.clone(),
            digest: stray.digest,
            bucket,
        });
    }
    Ok(Announcement {
        whole: Change::Bucket { bucket, records },
        partial: PartialChange::default(),
    })
}

/// What a `provider` filter says. A URL is only compared, never contacted: any host will do.
fn provider(text: &str) -> Result<Option<ProviderFilter>> {
    if text.is_empty() {
        return Ok(None);
    }
    if let Ok(id) = text.parse() {
        return Ok(Some(ProviderFilter::Peer(id)));
    }
    let url = PeerUrl::parse(text);
    let invalid = |_| Invalid::Provider(text.chars().take(80).collect());
    Ok(Some(ProviderFilter::Url(url.map_err(invalid)?.to_string())))
}

pub(super) fn lookup(request: v1::LocateRequest) -> Result<Lookup> {
    use v1::locate_request::By;
    let key = match request.by {
        Some(By::Name(text)) => Key::Name(name("name", &text)?),
        Some(By::Digest(bytes)) => Key::Digest(Digest::from_bytes(fixed("digest", &bytes)?)),
        None => {
            return Err(Invalid::Missing {
                field: "by",
                expected: "a name or a digest",
            });
        }
    };
    Ok(Lookup {
        key,
        provider: provider(&request.provider)?,
        max_providers: count(
            "max_providers",
            request.max_providers,
            MAX_PROVIDERS,
            DEFAULT_PROVIDERS,
            "1 to 64, or 0 for 16",
        )?,
        with_partial: true,
    })
}

pub(super) fn stream_lookup(request: Option<v1::LocateRequest>) -> Result<Lookup> {
    let missing = Invalid::Missing {
        field: "request",
        expected: "a lookup",
    };
    lookup(request.ok_or(missing)?)
}

pub(super) fn limit(limit: u32) -> Result<usize> {
    count(
        "limit",
        limit,
        MAX_HITS,
        DEFAULT_HITS,
        "1 to 1000, or 0 for 100",
    )
}

pub(super) fn need(request: v1::PlaceRequest) -> Result<Need> {
    if request.count == 0 || request.count > MAX_PLACED {
        return Err(Invalid::Number {
            field: "count",
            value: request.count.into(),
            expected: "1 to 16",
        });
    }
    if request.exclude.len() > MAX_EXCLUDED {
        return Err(Invalid::Number {
            field: "number of exclude",
            value: request.exclude.len() as u64,
            expected: "at most 1024",
        });
    }
    if request.site.len() > MAX_SITE_BYTES {
        return Err(Invalid::Site(request.site.len()));
    }
    let exclude = request.exclude.iter();
    let exclude = exclude.map(|id| Ok(PeerId::from_bytes(fixed("exclude", id)?)));
    Ok(Need {
        size: request.size,
        count: request.count as usize,
        exclude: exclude.collect::<Result<_>>()?,
        site: request.site,
    })
}
