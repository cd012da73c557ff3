//! Benchmark C: ten thousand peers that keep their leases, and lookups at a fixed rate while they
//! are idle, announce, die at once, and come back at once after the locator was killed.

use std::{collections::BTreeSet, net::SocketAddr, path::Path, time::Duration};

use anyhow::Context;
use tokio::{
    task::JoinSet,
    time::{Instant, sleep},
};
use vecino_grpc::v1::{LocateRequest, directory_client::DirectoryClient, locate_request::By};

use super::{
    Place, Plan,
    open_loop::{FIRST, OpenLoop, Outcome, goes_first},
    population::{Haste, Peers, Population, behind},
    records,
    session::{Manner, Progress, Session},
    table::Table,
};
use crate::process::{Process, free_address};

/// Records of each peer.
const RECORDS_EACH: u64 = 10;
/// Of so many peers one dies.
const DIES_OF: u64 = 10;
/// Peers that announce in that phase, from numbers that the others do not have.
const ANNOUNCERS: u64 = 100;
/// Records that each of them tells in one go.
const AT_ONCE: u64 = 2048;
/// As at a locator that nobody configured.
const LEASE_SECONDS: &str = "15";
/// How long all peers may take to be there, and all records to be located.
const WITHIN: Duration = Duration::from_secs(120);
/// Longer than a lease, and the time until its end is noticed.
const LEASES_END_WITHIN: Duration = Duration::from_secs(40);

/// Whether a thread may have its priority changed so.
fn is_allowed(change: fn() -> bool) -> &'static str {
    match std::thread::spawn(change).join() {
        Ok(true) => "yes",
        _ => "not allowed here",
    }
}

/// Runs it.
pub(crate) async fn run(plan: &Plan, place: &Place) -> anyhow::Result<()> {
    let (peers, records) = (plan.population, plan.population * RECORDS_EACH);
    println!(
        "# C: {peers} peers with leases of {LEASE_SECONDS} s, each over a connection of its own \
         from an address of its own; {} lookups a second\n\n\
         Peers and lookups are other machines. So the lookups' thread goes first (nice {FIRST}: {}), and \
         peers have what nobody else needs of the processors (chrt --idle: {}), but for the tenth that \
         dies and comes back: it does so at once, and what it costs to be a thousand that connect in \
         one moment is in the lookups' latency.\n",
        plan.rate,
        is_allowed(goes_first),
        is_allowed(behind),
    );
    let mut table = Table::new(&[
        "run",
        "phase",
        "lookups/s",
        "p50 µs",
        "p99 µs",
        "CPU of the locator",
        "errors",
        "more",
    ]);
    for run in 1..=plan.runs {
        let directory = place.directory()?;
        let mut scene = Scene::begin(plan, directory.path(), peers, records).await?;
        scene
            .play(plan, &mut |phase, outcome, cpu, more| {
                let (rate, p50, p99) = outcome.seen().map_or((0.0, f64::NAN, f64::NAN), |seen| {
                    (seen.rate, seen.p50, seen.p99)
                });
                table.row([
                    run.to_string(),
                    phase.to_owned(),
                    format!("{rate:.0}"),
                    format!("{p50:.0}"),
                    format!("{p99:.0}"),
                    format!("{:.0} %", cpu * 100.0),
                    outcome.errors(),
                    more,
                ]);
            })
            .await?;
    }
    table.print();
    Ok(())
}

async fn start(directory: &Path, addr: SocketAddr) -> anyhow::Result<Process> {
    let addr = addr.to_string();
    let settings = [
        ("HOST", addr.as_str()),
        ("METRICS_ADDR", "off"),
        ("LEASE_SECONDS", LEASE_SECONDS),
    ];
    Process::start("central-server", &[], &settings, directory.to_owned()).await
}

/// A locator, its peers, and the lookups.
struct Scene<'a> {
    directory: &'a Path,
    locator: Process,
    peers: u64,
    records: u64,
    /// Those that will die, and those that will not.
    mortals: Option<Population>,
    others: Population,
    lookups: OpenLoop,
    begun: String,
}

impl<'a> Scene<'a> {
    async fn begin(
        plan: &Plan,
        directory: &'a Path,
        peers: u64,
        records: u64,
    ) -> anyhow::Result<Self> {
        let locator = start(directory, free_address()?).await?;
        let begun = Instant::now();
        let mortal = peers / DIES_OF;
        let population = |from, to, haste| {
            let peers = Peers {
                from,
                to,
                of: peers,
                records,
            };
            Population::begin(locator.addr, peers, haste)
        };
        let mortals = population(0, mortal, Haste::AtOnce)?;
        let others = population(mortal, peers, Haste::Behind)?;
        mortals.all_present(0, WITHIN).await?;
        others.all_present(0, WITHIN).await?;
        let begun = format!("all there after {:.1} s", begun.elapsed().as_secs_f64());
        // Whoever dies is not asked for.
        let choose = move || {
            let peer = fastrand::u64(mortal..peers);
            peer + peers * fastrand::u64(..RECORDS_EACH)
        };
        let lookups = OpenLoop::start(&[locator.addr], plan.rate, choose)?;
        sleep(Duration::from_millis(500)).await;
        lookups.take();
        Ok(Self {
            directory,
            locator,
            peers,
            records,
            mortals: Some(mortals),
            others,
            lookups,
            begun,
        })
    }

    async fn play(
        &mut self,
        plan: &Plan,
        tell: &mut impl FnMut(&str, &Outcome, f64, String),
    ) -> anyhow::Result<()> {
        let (began, cpu) = (Instant::now(), self.locator.cpu_seconds());
        sleep(plan.length).await;
        let used = |now: f64, cpu: f64, began: Instant| (now - cpu) / began.elapsed().as_secs_f64();
        let outcome = self.lookups.take();
        let cpu = used(self.locator.cpu_seconds(), cpu, began);
        tell("idle", &outcome, cpu, std::mem::take(&mut self.begun));

        let (began, cpu) = (Instant::now(), self.locator.cpu_seconds());
        let rate = self.announce(plan.length).await?;
        let outcome = self.lookups.take();
        let cpu = used(self.locator.cpu_seconds(), cpu, began);
        tell("announcing", &outcome, cpu, format!("{rate:.0} records/s"));

        let (began, cpu) = (Instant::now(), self.locator.cpu_seconds());
        drop(self.mortals.take());
        sleep(plan.length).await;
        let outcome = self.lookups.take();
        let of = used(self.locator.cpu_seconds(), cpu, began);
        tell("a tenth died", &outcome, of, String::new());
        let mortal = self.peers / DIES_OF;
        let dead: BTreeSet<u64> = (0..mortal).collect();
        let gone = self
            .until_located(dead.clone(), false, LEASES_END_WITHIN)
            .await?;
        let outcome = self.lookups.take();
        let of = used(self.locator.cpu_seconds(), cpu, began);
        let more = format!(
            "none of them located {:.1} s after",
            (gone - began).as_secs_f64()
        );
        tell("until they are gone", &outcome, of, more);

        let (began, cpu) = (Instant::now(), self.locator.cpu_seconds());
        let peers = Peers {
            from: 0,
            to: mortal,
            of: self.peers,
            records: self.records,
        };
        let mortals = Population::begin(self.locator.addr, peers, Haste::AtOnce)?;
        mortals.all_present(0, WITHIN).await?;
        let present = began.elapsed();
        let located = self.until_located(dead, true, WITHIN).await?;
        let outcome = self.lookups.take();
        let of = used(self.locator.cpu_seconds(), cpu, began);
        let more = format!(
            "registered {:.1} s, located {:.1} s after",
            present.as_secs_f64(),
            (located - began).as_secs_f64()
        );
        tell("that tenth came back", &outcome, of, more);
        self.mortals = Some(mortals);
        self.crash(tell).await
    }

    /// Kills the locator and starts it again.
    async fn crash(
        &mut self,
        tell: &mut impl FnMut(&str, &Outcome, f64, String),
    ) -> anyhow::Result<()> {
        let mortals = self.mortals.as_ref().context("they came back")?;
        let before = (mortals.registrations(), self.others.registrations());
        let ended = mortals.ended() + self.others.ended();
        let addr = self.locator.addr;
        let began = Instant::now();
        self.lookups.take();
        self.locator.kill().await?;
        self.locator = start(self.directory, addr).await?;
        let (served, cpu) = (began.elapsed(), self.locator.cpu_seconds());
        let mortal = self.peers / DIES_OF;
        mortals.all_present(before.0 + mortal, WITHIN).await?;
        self.others
            .all_present(before.1 + self.peers - mortal, WITHIN)
            .await?;
        let present = began.elapsed();
        let located = self
            .until_located((0..self.peers).collect(), true, WITHIN)
            .await?;
        let outcome = self.lookups.take();
        let cpu = (self.locator.cpu_seconds() - cpu) / (began.elapsed() - served).as_secs_f64();
        let ended = mortals.ended() + self.others.ended() - ended;
        let after = |moment: Option<Instant>| {
            moment.map_or(f64::NAN, |moment| (moment - began).as_secs_f64())
        };
        let more = format!(
            "listens {:.2} s, first lookup answered {:.2} s, last error {:.1} s, all registered \
             {:.1} s, all located {:.1} s after the kill; {ended} sessions ended",
            served.as_secs_f64(),
            after(outcome.first_answer),
            after(outcome.last_error),
            present.as_secs_f64(),
            after(Some(located)),
        );
        tell("kill -9 and restart", &outcome, cpu, more);
        Ok(())
    }

    /// Others announce for `length`; records a second. They are other machines: what it costs to be
    /// them is done when nobody else needs the processors.
    async fn announce(&self, length: Duration) -> anyhow::Result<f64> {
        let (addr, first, base) = (self.locator.addr, self.peers, self.records);
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .on_thread_start(|| {
                behind();
            })
            .enable_all()
            .build()?;
        let began = Instant::now();
        let mut tasks = JoinSet::new();
        for announcer in 0..ANNOUNCERS {
            let announcing = async move {
                let mut session = Session::open(addr, first + announcer).await?;
                let progress = Progress::begin(u64::MAX);
                let mut next = base + (announcer << 20);
                while began.elapsed() < length {
                    let numbers = next..next + AT_ONCE;
                    session
                        .announce(Manner::Changes, numbers, &progress)
                        .await?;
                    next += AT_ONCE;
                }
                anyhow::Ok(progress.records())
            };
            tasks.spawn_on(announcing, runtime.handle());
        }
        let mut announced = 0;
        while let Some(done) = tasks.join_next().await {
            announced += done??;
        }
        runtime.shutdown_background();
        Ok(announced as f64 / began.elapsed().as_secs_f64())
    }

    /// Waits until the first record of each of `peers` is located, or of none; when that was.
    async fn until_located(
        &self,
        mut peers: BTreeSet<u64>,
        wanted: bool,
        within: Duration,
    ) -> anyhow::Result<Instant> {
        let deadline = Instant::now() + within;
        let url = format!("http://{}", self.locator.addr);
        let mut client = DirectoryClient::connect(url).await?;
        while let Some(&peer) = peers.first() {
            let request = LocateRequest {
                by: Some(By::Name(records::name(peer))),
                ..Default::default()
            };
            let response = client.locate(request).await?.into_inner();
            if response.variants.is_empty() == wanted {
                anyhow::ensure!(Instant::now() < deadline, "{} peers left", peers.len());
                sleep(Duration::from_millis(10)).await;
            } else {
                peers.remove(&peer);
            }
        }
        Ok(Instant::now())
    }
}
