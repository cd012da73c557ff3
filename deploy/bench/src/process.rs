//! Servers as processes: started, heard of where they listen, ended with the run.

use std::{net::SocketAddr, path::PathBuf, process::Stdio, time::Duration};

use anyhow::Context;
use tokio::{
    io::{AsyncBufReadExt, BufReader},
    process::{Child, Command},
    time::timeout,
};

/// How long a server may take to listen.
const STARTS_WITHIN: Duration = Duration::from_secs(20);

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
        let listening = async {
            while let Some(line) = lines.next_line().await? {
                if let Some((_, address)) = line.split_once("listening on ")
                    && let Ok(addr) = address.trim().parse()
                {
                    return Ok(addr);
                }
            }
            anyhow::bail!("{program} ended before it listened")
        };
        let addr = timeout(STARTS_WITHIN, listening)
            .await
            .context("it does not listen")??;
        // What it logs from now on must not fill the pipe.
        tokio::spawn(async move { while let Ok(Some(_)) = lines.next_line().await {} });
        Ok(Self { addr, child })
    }

    /// CPU seconds that it used so far.
    pub(crate) fn cpu_seconds(&self) -> f64 {
        let ticks = || -> Option<f64> {
            let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.child.id()?)).ok()?;
            let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
            let field = |index: usize| fields.get(index)?.parse::<f64>().ok();
            // utime and stime (proc(5)), in hundredths of a second.
            Some(field(11)? + field(12)?)
        };
        ticks().unwrap_or_default() / 100.0
    }
}
