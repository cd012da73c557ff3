//! [`Client`]: the real binary, in a folder of its own and with nothing in its environment but
//! what a test says.

use std::{
    io::Write,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::mpsc,
};

use tempfile::TempDir;

use crate::cluster::DEADLINE;

/// The client of one peer.
pub(crate) struct Client {
    dir: TempDir,
    own_peer: SocketAddr,
    env: Vec<(String, String)>,
}

/// How a run ended, with all that it printed.
#[derive(Debug)]
pub(crate) struct Done {
    pub(crate) code: i32,
    pub(crate) stdout: Vec<u8>,
    pub(crate) stderr: String,
}

impl Done {
    /// Its standard output as lines of JSON.
    pub(crate) fn json(&self) -> Vec<serde_json::Value> {
        let lines = self.stdout.split(|&byte| byte == b'\n');
        lines
            .filter(|line| !line.is_empty())
            .map(|line| serde_json::from_slice(line).unwrap())
            .collect()
    }

    /// The same run, which must have succeeded.
    #[track_caller]
    pub(crate) fn ok(self) -> Self {
        assert_eq!(self.code, 0, "{}", self.stderr);
        self
    }
}

impl Client {
    pub(crate) fn of(own_peer: SocketAddr) -> Self {
        Self {
            dir: tempfile::tempdir().unwrap(),
            own_peer,
            env: Vec::new(),
        }
    }

    pub(crate) fn env(mut self, name: &str, value: &str) -> Self {
        self.env.push((name.to_owned(), value.to_owned()));
        self
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub(crate) fn write(&self, name: &str, content: &[u8]) {
        std::fs::write(self.path(name), content).unwrap();
    }

    pub(crate) fn read(&self, name: impl AsRef<Path>) -> Vec<u8> {
        let path = self.dir.path().join(name);
        std::fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
    }

    pub(crate) fn start(&self, args: &[&str]) -> Child {
        Command::new(env!("CARGO_BIN_EXE_client"))
            .args(args)
            .current_dir(self.dir.path())
            .env_clear()
            .env("HOME", self.dir.path().join("home"))
            .env("URL_PEERAS", self.own_peer.to_string())
            .envs(self.env.iter().cloned())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap()
    }

    pub(crate) fn run(&self, args: &[&str]) -> Done {
        self.run_with(args, "")
    }

    pub(crate) fn run_with(&self, args: &[&str], input: &str) -> Done {
        let mut child = self.start(args);
        let mut stdin = child.stdin.take().unwrap();
        // A client that needs no input may be gone already.
        let _ = stdin.write_all(input.as_bytes());
        drop(stdin);
        finish(child)
    }

    /// Downloads `name`, which must succeed; its bytes.
    #[track_caller]
    pub(crate) fn download(&self, name: &str, more: &[&str]) -> Vec<u8> {
        let mut args = vec!["download", name, "-o", "downloaded"];
        args.extend(["--if-exists", "overwrite"]);
        args.extend(more);
        let done = self.run(&args);
        assert_eq!(done.code, 0, "{name}: {}", done.stderr);
        self.read("downloaded")
    }
}

/// Waits for the end of `child`, with all that it printed.
pub(crate) fn finish(mut child: Child) -> Done {
    drop(child.stdin.take());
    let (done, waiting) = mpsc::channel();
    let id = child.id();
    std::thread::spawn(move || done.send(child.wait_with_output()));
    let output = match waiting.recv_timeout(DEADLINE) {
        Ok(output) => output.unwrap(),
        Err(_) => {
            let process = rustix::process::Pid::from_raw(id.try_into().unwrap()).unwrap();
            let _ = rustix::process::kill_process(process, rustix::process::Signal::KILL);
            panic!("the client did not end: {:?}", waiting.recv());
        }
    };
    Done {
        code: output.status.code().unwrap_or(-1),
        stdout: output.stdout,
        stderr: String::from_utf8(output.stderr).unwrap(),
    }
}
