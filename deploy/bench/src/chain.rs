//! Starts both chains, measures them in turn, prints medians and ratios.

use std::{
    path::Path,
    sync::{Arc, atomic::AtomicUsize},
    time::Duration,
};

use anyhow::Context;
use tokio::time::{Instant, sleep};
use tokio_stream::StreamExt;
use vecino_grpc::v1::{
    AnnounceRequest, Record, RegisterRequest, directory_client::DirectoryClient,
};
use vecino_rest::{Digest, PeerKey, route};

use crate::{
    load::{self, Seen},
    process::{Process, check_installed},
};

/// How long the records may take to be announced, and the peers to be ready.
const READY_WITHIN: Duration = Duration::from_secs(60);
/// Records of one announcement.
const BATCH: usize = 4000;

/// What to measure.
#[derive(Debug, Clone)]
pub(crate) struct Plan {
    pub(crate) rounds: usize,
    pub(crate) length: Duration,
    pub(crate) connections: Vec<usize>,
    pub(crate) names: usize,
}

impl Default for Plan {
    fn default() -> Self {
        Self {
            rounds: 5,
            length: Duration::from_secs(3),
            connections: vec![1, 64],
            names: 200_000,
        }
    }
}

impl Plan {
    /// Reads the options.
    pub(crate) fn parse(options: &[&str]) -> anyhow::Result<Self> {
        let mut plan = Self::default();
        for option in options.chunks(2) {
            match *option {
                ["--rounds", value] => plan.rounds = value.parse()?,
                ["--seconds", value] => plan.length = Duration::from_secs_f64(value.parse()?),
                ["--names", value] => plan.names = value.parse()?,
                ["--connections", value] => {
                    plan.connections =
                        value.split(',').map(str::parse).collect::<Result<_, _>>()?;
                }
                _ => anyhow::bail!("unknown option {option:?}; see --help"),
            }
        }
        anyhow::ensure!(
            plan.rounds > 0 && plan.names > 0,
            "--rounds and --names are at least 1"
        );
        Ok(plan)
    }
}

/// Runs the plan.
#[tokio::main]
pub(crate) async fn run(plan: Plan) -> anyhow::Result<()> {
    measure(plan).await
}

/// Runs the plan on the current runtime.
pub(crate) async fn measure(plan: Plan) -> anyhow::Result<()> {
    let work = tempfile::tempdir()?;
    let directory = |name: &str| -> anyhow::Result<_> {
        let path = work.path().join(name);
        std::fs::create_dir(&path)?;
        Ok(path)
    };
    let vecino = start_vecino(&directory).await?;
    let echo = start_echo(work.path()).await?;
    let names: Vec<String> = (0..plan.names)
        .map(|i| format!("file-{i:08}.bin"))
        .collect();
    announce(&vecino[2], &names).await?;
    let paths = Arc::new(
        names
            .iter()
            .map(|name| format!("{}/{name}", route::LOCATE))
            .collect::<Vec<_>>(),
    );
    let next = Arc::new(AtomicUsize::new(0));

    let mut chains = vec![("Vecino", vecino), ("echo", echo)];
    match check_installed(&["nginx"]) {
        Ok(()) => {
            let body = load::Connection::open(chains[0].1[0].addr)
                .await?
                .get(&paths[0])
                .await?
                .len();
            chains.push(("nginx", start_nginx(work.path(), body).await?));
        }
        Err(error) => println!("Without nginx ({error}).\n"),
    }

    println!(
        "A locate through client → own peer → neighbour → locator ({} records, redb), beside bare\n\
         echo hops (actix → actix → tonic) and nginx → nginx → nginx (one process each, the last\n\
         with a fixed body of the same size) in the same run; medians of {} interleaved rounds of {:?}.\n",
        plan.names, plan.rounds, plan.length,
    );
    println!("connections chain     lookups/s   p50 µs   p99 µs  CPU µs: first hop, second, third");
    for &connections in &plan.connections {
        let mut seen: Vec<Vec<Round>> = chains.iter().map(|_| Vec::new()).collect();
        for round in 0..=plan.rounds {
            for ((_, chain), seen) in chains.iter().zip(&mut seen) {
                let before = chain.each_ref().map(Process::cpu_seconds);
                let length = if round == 0 {
                    plan.length / 4
                } else {
                    plan.length
                };
                let measured =
                    load::measure(chain[0].addr, &paths, &next, connections, length).await?;
                // The first round only warms up.
                if round > 0 {
                    let lookups = measured.rate * length.as_secs_f64();
                    let cpu = std::array::from_fn(|hop| {
                        (chain[hop].cpu_seconds() - before[hop]) / lookups * 1e6
                    });
                    seen.push((measured, cpu));
                }
            }
        }
        let medians: Vec<_> = seen.iter().map(|rounds| Medians::of(rounds)).collect();
        for ((name, _), medians) in chains.iter().zip(&medians) {
            medians.print(connections, name);
        }
        for ((name, _), other) in chains.iter().zip(&medians).skip(1) {
            let vecino = &medians[0];
            println!(
                "{connections:>11} ratio     {:>9.2} {:>8.2} {:>8.2}  (Vecino / {name})",
                vecino.seen.rate / other.seen.rate,
                vecino.seen.p50 / other.seen.p50,
                vecino.seen.p99 / other.seen.p99,
            );
        }
        println!();
    }
    Ok(())
}

/// What a round saw, and the CPU microseconds a lookup of each hop.
type Round = (Seen, [f64; 3]);

fn median(rounds: &[Round], value: impl Fn(&Round) -> f64) -> f64 {
    load::median(rounds.iter().map(value))
}

struct Medians {
    seen: Seen,
    cpu: [f64; 3],
}

impl Medians {
    fn of(rounds: &[Round]) -> Self {
        Self {
            seen: Seen {
                rate: median(rounds, |round| round.0.rate),
                p50: median(rounds, |round| round.0.p50),
                p99: median(rounds, |round| round.0.p99),
            },
            cpu: std::array::from_fn(|hop| median(rounds, |round| round.1[hop])),
        }
    }

    fn print(&self, connections: usize, chain: &str) {
        let Seen { rate, p50, p99 } = self.seen;
        let [first, second, third] = self.cpu;
        println!(
            "{connections:>11} {chain:<9} {rate:>9.0} {p50:>8.0} {p99:>8.0}  {first:>6.1} {second:>6.1} {third:>6.1}"
        );
    }
}

/// Own peer, neighbour and locator, in the order in which a lookup passes them.
async fn start_vecino(
    directory: &impl Fn(&str) -> anyhow::Result<std::path::PathBuf>,
) -> anyhow::Result<[Process; 3]> {
    let listen = [
        ("HOST", "127.0.0.1:0"),
        ("METRICS_ADDR", "off"),
        ("LEASE_SECONDS", "3600"),
    ];
    let locator = Process::start("central-server", &[], &listen, directory("locator")?).await?;
    let locator_addr = locator.addr.to_string();
    let peer = [
        ("URL_Request", locator_addr.as_str()),
        ("BIND", "127.0.0.1"),
        ("PORT", "0"),
    ];
    let neighbour = Process::start("pserver", &[], &peer, directory("neighbour")?).await?;
    let neighbour_addr = neighbour.addr.to_string();
    let own = [
        ("URL_PEERSU", neighbour_addr.as_str()),
        ("BIND", "127.0.0.1"),
        ("PORT", "0"),
    ];
    let own = Process::start("pserver", &[], &own, directory("own")?).await?;
    Ok([own, neighbour, locator])
}

/// The bare hops in the same order.
async fn start_echo(work: &Path) -> anyhow::Result<[Process; 3]> {
    let hop = |arguments: Vec<String>| async move {
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        Process::start("vecino-bench", &arguments, &[], work.to_owned()).await
    };
    let third = hop(vec!["echo-grpc".to_owned()]).await?;
    let second = hop(vec!["echo-last".to_owned(), third.addr.to_string()]).await?;
    let first = hop(vec!["echo-first".to_owned(), second.addr.to_string()]).await?;
    Ok([first, second, third])
}

/// Three of nginx: the first two pass on over connections that they keep, the last answers with a
/// body of so many bytes.
async fn start_nginx(work: &Path, body: usize) -> anyhow::Result<[Process; 3]> {
    let hop = |number: u8, serves: String| async move {
        let directory = work.join(format!("nginx-{number}"));
        std::fs::create_dir(&directory)?;
        let config = directory.join("nginx.conf");
        Process::start_foreign("nginx", &directory, |port| {
            // What cannot be written makes nginx fail, which is told.
            let _ = std::fs::write(&config, nginx_config(port, &serves));
            let prefix = format!("{}/", directory.display());
            ["-p", &prefix, "-c", "nginx.conf", "-e", "stderr"]
                .map(str::to_owned)
                .to_vec()
        })
        .await
    };
    let passes_on = |next: &Process| {
        format!(
            "upstream next {{ server {}; keepalive 128; keepalive_requests 100000000; }}\n\
             {PROXY_HEAD} location / {{ proxy_pass http://next; proxy_http_version 1.1; \
             proxy_set_header Connection \"\"; }} }}",
            next.addr
        )
    };
    let last = format!(
        "{PROXY_HEAD} location / {{ default_type application/json; return 200 \"{}\"; }} }}",
        "x".repeat(body)
    );
    let third = hop(3, last).await?;
    let second = hop(2, passes_on(&third)).await?;
    let first = hop(1, passes_on(&second)).await?;
    Ok([first, second, third])
}

/// The beginning of each server; the port is filled in.
const PROXY_HEAD: &str = "server { listen 127.0.0.1:PORT;";

/// One process, no logs, nothing outside of its own directory.
fn nginx_config(port: u16, serves: &str) -> String {
    let serves = serves.replace("PORT", &port.to_string());
    format!(
        "daemon off; master_process off; pid pid; error_log stderr crit;\n\
         events {{ worker_connections 4096; }}\n\
         http {{\naccess_log off; tcp_nodelay on; keepalive_requests 100000000; \
         client_body_temp_path body; proxy_temp_path proxy; fastcgi_temp_path fastcgi; \
         uwsgi_temp_path uwsgi; scgi_temp_path scgi;\n{serves}\n}}\n"
    )
}

/// Announces `names` as the files of one provider, which nobody will ask for them.
async fn announce(locator: &Process, names: &[String]) -> anyhow::Result<()> {
    let deadline = Instant::now() + READY_WITHIN;
    let mut client = loop {
        match DirectoryClient::connect(format!("http://{}", locator.addr)).await {
            Ok(client) => break client,
            Err(error) if Instant::now() > deadline => return Err(error.into()),
            Err(_) => sleep(Duration::from_millis(20)).await,
        }
    };
    let key = PeerKey::from_bytes([42; 32]);
    let registered = client
        .register(RegisterRequest {
            peer_key: key.as_bytes().to_vec().into(),
            public_url: "http://127.0.0.1:9".to_owned(),
            port: 9,
            ..Default::default()
        })
        .await?
        .into_inner();
    let batches: Vec<_> = (1..)
        .zip(names.chunks(BATCH))
        .map(|(batch, names)| AnnounceRequest {
            peer_id: registered.peer_id.clone(),
            lease_token: registered.lease_token.clone(),
            batch,
            announce: names
                .iter()
                .map(|name| Record {
                    name: name.clone(),
                    digest: Digest::of(name.as_bytes()).as_bytes().to_vec().into(),
                    size: 1,
                    modified_ms: 0,
                    partial: false,
                })
                .collect(),
            withdraw: Vec::new(),
            replace_bucket: None,
        })
        .collect();
    let last = batches.len() as u64;
    let mut acks = client
        .announce(tokio_stream::iter(batches))
        .await?
        .into_inner();
    let acknowledged = async {
        while let Some(ack) = acks.next().await {
            if ack?.batch == last {
                return anyhow::Ok(());
            }
        }
        anyhow::bail!("the locator ended the stream")
    };
    tokio::time::timeout(READY_WITHIN, acknowledged)
        .await
        .context("announcing takes too long")?
}
