//! opentracker: who has a content, by HTTP (a connection a question, as it closes each) and by UDP
//! (BEP 15). An announce of somebody who wants the content is its lookup: it answers with peers.

use std::{
    fmt::Write as _,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    time::{Duration, Instant},
};

use anyhow::Context;
use tokio::{
    net::UdpSocket,
    time::{sleep, timeout},
};

use super::{Place, grpc::Names, records};
use crate::{
    load::{Asker, Connection},
    process::Process,
};

/// More contents take its list of allowed ones too long.
const MAX_CONTENTS: u64 = 1_000_000;
/// How long it may take to read its list.
const READS_WITHIN: Duration = Duration::from_secs(60);
/// A question by UDP without an answer is asked again after so long, and so often.
const RESENT_AFTER: Duration = Duration::from_millis(500);
const SENT_AT_MOST: usize = 20;
/// Questions by UDP that wait for their answers while it is filled.
const WINDOW: usize = 64;
/// The port of all peers.
const PORT: u16 = 80;

/// The content's name for a tracker.
fn info_hash(number: u64) -> [u8; 20] {
    let mut hash = [0; 20];
    hash.copy_from_slice(&records::digest(number).as_bytes()[..20]);
    hash
}

/// A tracker that knows a peer with each of `total` contents, at most a million; how many.
pub(crate) async fn filled(
    place: &Place,
    total: u64,
) -> anyhow::Result<(Process, u64, tempfile::TempDir)> {
    let total = total.min(MAX_CONTENTS);
    let directory = place.directory()?;
    let mut allowed = String::new();
    for number in 0..total {
        for byte in info_hash(number) {
            write!(allowed, "{byte:02x}")?;
        }
        allowed.push('\n');
    }
    std::fs::write(directory.path().join("allowed"), allowed)?;
    let process = Process::start_foreign("opentracker", directory.path(), |port| {
        let port = port.to_string();
        let path = directory.path().display().to_string();
        [
            "-i",
            "127.0.0.1",
            "-p",
            &port,
            "-P",
            &port,
            "-d",
            &path,
            "-w",
            "allowed",
        ]
        .map(str::to_owned)
        .to_vec()
    })
    .await?;
    let seed = Udp::open(process.addr, Ipv4Addr::new(127, 1, 0, 1)).await?;
    // It reads its list while it serves already.
    let begun = Instant::now();
    while seed.announce(total - 1, true).await.is_err() {
        anyhow::ensure!(begun.elapsed() < READS_WITHIN, "opentracker allows nothing");
        sleep(Duration::from_millis(50)).await;
    }
    let numbers: Vec<_> = (0..total).collect();
    for window in numbers.chunks(WINDOW) {
        for &number in window {
            seed.send(number, true).await?;
        }
        let answers = async {
            for _ in window {
                seed.answer().await?;
            }
            anyhow::Ok(())
        };
        // UDP may forget: then once more, one by one.
        if !matches!(timeout(RESENT_AFTER, answers).await, Ok(Ok(()))) {
            for &number in window {
                seed.announce(number, true).await?;
            }
        }
    }
    Ok((process, total, directory))
}

/// By HTTP.
pub(crate) struct Http {
    addr: SocketAddr,
    names: Names,
}

impl Http {
    pub(crate) fn new(addr: SocketAddr, names: Names) -> Self {
        Self { addr, names }
    }
}

impl Asker for Http {
    async fn ask(&mut self) -> anyhow::Result<u64> {
        let mut path = "/announce?info_hash=".to_owned();
        for byte in info_hash(self.names.next()) {
            write!(path, "%{byte:02x}")?;
        }
        write!(
            path,
            "&peer_id=-VB0000-000000000000&port={PORT}&uploaded=0&downloaded=0&left=1&compact=1"
        )?;
        let mut connection = Connection::open(self.addr).await?;
        let body = connection.get(&path).await?;
        let has_peers = body.windows(7).any(|bytes| bytes == b"5:peers");
        anyhow::ensure!(has_peers, "{}", String::from_utf8_lossy(body));
        Ok(1)
    }
}

/// By UDP.
pub(crate) struct Udp {
    socket: UdpSocket,
    connection: [u8; 8],
}

impl Udp {
    async fn open(addr: SocketAddr, from: Ipv4Addr) -> anyhow::Result<Self> {
        let socket = UdpSocket::bind((IpAddr::V4(from), 0)).await?;
        socket.connect(addr).await?;
        let mut hello = [0; 16];
        hello[..8].copy_from_slice(&0x0417_2710_1980_u64.to_be_bytes());
        let mut udp = Self {
            socket,
            connection: [0; 8],
        };
        udp.socket.send(&hello).await?;
        let answer = timeout(RESENT_AFTER, udp.answer()).await;
        let (answer, length) = answer.context("opentracker does not answer")??;
        anyhow::ensure!(length == 16, "opentracker answers otherwise");
        udp.connection.copy_from_slice(&answer[8..16]);
        Ok(udp)
    }

    async fn answer(&self) -> anyhow::Result<([u8; 512], usize)> {
        let mut answer = [0; 512];
        let length = self.socket.recv(&mut answer).await?;
        Ok((answer, length))
    }

    async fn send(&self, number: u64, has_it: bool) -> anyhow::Result<()> {
        let mut request = Vec::with_capacity(98);
        request.extend_from_slice(&self.connection);
        request.extend_from_slice(&1_u32.to_be_bytes());
        request.extend_from_slice(&transaction(number));
        request.extend_from_slice(&info_hash(number));
        request.extend_from_slice(b"-VB0000-000000000000");
        request.extend_from_slice(&[0; 8]);
        request.extend_from_slice(&u64::from(!has_it).to_be_bytes());
        // Uploaded, event, address, key.
        request.extend_from_slice(&[0; 20]);
        request.extend_from_slice(&(-1_i32).to_be_bytes());
        request.extend_from_slice(&PORT.to_be_bytes());
        self.socket.send(&request).await?;
        Ok(())
    }

    /// A peer is in the answer.
    async fn announce(&self, number: u64, has_it: bool) -> anyhow::Result<()> {
        let answer = async {
            loop {
                let (answer, length) = self.answer().await?;
                // Late ones are to questions that were asked again.
                if answer[4..8] == transaction(number) {
                    anyhow::ensure!(answer[..4] == [0, 0, 0, 1] && length >= 26, "no peers");
                    return Ok(());
                }
            }
        };
        tokio::pin!(answer);
        for _ in 0..SENT_AT_MOST {
            self.send(number, has_it).await?;
            if let Ok(answered) = timeout(RESENT_AFTER, &mut answer).await {
                return answered;
            }
        }
        anyhow::bail!("opentracker does not answer")
    }
}

/// Names a question and its answer.
fn transaction(number: u64) -> [u8; 4] {
    (number as u32).to_be_bytes()
}

/// Somebody who asks by UDP.
pub(crate) struct UdpAsker {
    udp: Udp,
    names: Names,
}

impl UdpAsker {
    pub(crate) async fn open(addr: SocketAddr, names: Names) -> anyhow::Result<Self> {
        let udp = Udp::open(addr, Ipv4Addr::LOCALHOST).await?;
        Ok(Self { udp, names })
    }
}

impl Asker for UdpAsker {
    async fn ask(&mut self) -> anyhow::Result<u64> {
        self.udp.announce(self.names.next(), false).await?;
        Ok(1)
    }
}
