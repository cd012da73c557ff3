//! Servers as processes: started, heard of where they listen, ended with the run.

use std::{
    net::{Ipv4Addr, SocketAddr, TcpListener},
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use anyhow::Context;
use rustix::process::{Pid, Signal, kill_process};
use tokio::{
    io::{AsyncBufReadExt, BufReader},
    net::TcpStream,
    process::{Child, Command},
    time::{Instant, sleep, timeout},
};

/// How long a server may take to listen: a great store takes its time.
const STARTS_WITHIN: Duration = Duration::from_secs(120);
/// How long a server may take to end.
const ENDS_WITHIN: Duration = Duration::from_secs(60);
/// Ports that are tried for a program that cannot choose its own.
const PORTS_TRIED: usize = 5;

/// Programs of others, and Debian's packages that have them.
const PACKAGES: [(&str, &str); 6] = [
    ("redis-server", "redis-server"),
    ("redis-cli", "redis-tools"),
    ("etcd", "etcd-server"),
    ("opentracker", "opentracker"),
    ("nginx", "nginx-light"),
    ("python3", "python3"),
];

/// Says which of `programs` are missing, and how to get them.
pub(crate) fn check_installed(programs: &[&str]) -> anyhow::Result<()> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let is_there = |program: &str| {
        std::env::split_paths(&path).any(|directory| directory.join(program).is_file())
    };
    let missing: Vec<_> = PACKAGES
        .iter()
        .filter(|(program, _)| programs.contains(program) && !is_there(program))
        .map(|(_, package)| *package)
        .collect();
    anyhow::ensure!(
        missing.is_empty(),
        "not installed: apt-get install {}",
        missing.join(" ")
    );
    Ok(())
}

/// Memory of a process in bytes.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Memory {
    /// Now.
    pub(crate) resident: u64,
    /// At most so far.
    pub(crate) peak: u64,
}

/// A server; killed when dropped.
pub(crate) struct Process {
    /// Where it listens.
    pub(crate) addr: SocketAddr,
    child: Child,
}

impl Process {
    /// Starts `program`, which lies beside this one, and waits for `listening on ADDR` in what it
    /// logs.
    pub(crate) async fn start(
        program: &str,
        arguments: &[&str],
        env: &[(&str, &str)],
        directory: PathBuf,
    ) -> anyhow::Result<Self> {
        let path = std::env::current_exe()?.with_file_name(program);
        let mut child = Command::new(&path)
            .args(arguments)
            .env_clear()
            .envs(env.iter().copied())
            .current_dir(directory)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .with_context(|| format!("{} cannot be started", path.display()))?;
        let stderr = child.stderr.take().context("stderr is piped")?;
        let mut lines = BufReader::new(stderr).lines();
        let mut last = String::new();
        let listening = async {
            while let Some(line) = lines.next_line().await? {
                if let Some((_, address)) = line.split_once("listening on ")
                    && let Ok(addr) = address.trim().parse()
                {
                    return Ok(addr);
                }
                last = line;
            }
            anyhow::bail!("{program} ended before it listened: {last}")
        };
        let addr = timeout(STARTS_WITHIN, listening)
            .await
            .context("it does not listen")??;
        // What it logs from now on must not fill the pipe.
        tokio::spawn(async move { while let Ok(Some(_)) = lines.next_line().await {} });
        Ok(Self { addr, child })
    }

    /// Starts a program of others with the arguments for a port, and waits until it takes
    /// connections there.
    pub(crate) async fn start_foreign(
        program: &str,
        directory: &Path,
        arguments: impl Fn(u16) -> Vec<String>,
    ) -> anyhow::Result<Self> {
        for _ in 0..PORTS_TRIED {
            let addr = free_address()?;
            let mut child = Command::new(program)
                .args(arguments(addr.port()))
                .current_dir(directory)
                .stdin(Stdio::null())
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .kill_on_drop(true)
                .spawn()
                .with_context(|| format!("{program} cannot be started"))?;
            let deadline = Instant::now() + STARTS_WITHIN;
            while child.try_wait()?.is_none() && Instant::now() < deadline {
                if TcpStream::connect(addr).await.is_ok() {
                    return Ok(Self { addr, child });
                }
                sleep(Duration::from_millis(10)).await;
            }
        }
        anyhow::bail!("{program} does not listen after {PORTS_TRIED} tries")
    }

    /// Its id in the system.
    pub(crate) fn pid(&self) -> Option<u32> {
        self.child.id()
    }

    /// CPU seconds that it used so far.
    pub(crate) fn cpu_seconds(&self) -> f64 {
        self.pid().map_or(0.0, cpu_seconds)
    }

    /// Its memory.
    pub(crate) fn memory(&self) -> Memory {
        let status = self
            .pid()
            .and_then(|pid| std::fs::read_to_string(format!("/proc/{pid}/status")).ok())
            .unwrap_or_default();
        let bytes = |field: &str| {
            let kibibytes = status.lines().find_map(|line| {
                let value = line.strip_prefix(field)?.strip_suffix("kB")?;
                value.trim().parse::<u64>().ok()
            });
            kibibytes.unwrap_or_default() * 1024
        };
        Memory {
            resident: bytes("VmRSS:"),
            peak: bytes("VmHWM:"),
        }
    }

    /// Ends it as a crash does.
    pub(crate) async fn kill(&mut self) -> anyhow::Result<()> {
        Ok(self.child.kill().await?)
    }

    /// Ends it in order.
    pub(crate) async fn stop(mut self) -> anyhow::Result<()> {
        let pid = self.pid().and_then(|pid| Pid::from_raw(pid.cast_signed()));
        kill_process(pid.context("it runs no more")?, Signal::TERM)?;
        timeout(ENDS_WITHIN, self.child.wait())
            .await
            .context("it does not end")??;
        Ok(())
    }
}

/// CPU seconds that a process used so far.
pub(crate) fn cpu_seconds(pid: u32) -> f64 {
    let ticks = || -> Option<f64> {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
        let field = |index: usize| fields.get(index)?.parse::<f64>().ok();
        // utime and stime (proc(5)), in hundredths of a second.
        Some(field(11)? + field(12)?)
    };
    ticks().unwrap_or_default() / 100.0
}

/// An address that nobody has now.
pub(crate) fn free_address() -> anyhow::Result<SocketAddr> {
    Ok(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?)
}

/// Bytes on the disk of all files below `directory`.
pub(crate) fn disk_bytes(directory: &Path) -> u64 {
    use std::os::unix::fs::MetadataExt as _;
    let entries = std::fs::read_dir(directory).into_iter().flatten().flatten();
    let sizes = entries.map(|entry| match entry.metadata() {
        Ok(metadata) if metadata.is_dir() => disk_bytes(&entry.path()),
        Ok(metadata) => metadata.blocks() * 512,
        Err(_) => 0,
    });
    sizes.sum()
}
