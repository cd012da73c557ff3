"""Machines in network namespaces: each has files, processes and an sshd of its own.

Invariant: whatever a machine writes is in memory and in its namespaces; it is gone with `close`.
"""

import os
import signal
import subprocess
import time
from pathlib import Path

BOOT = Path(__file__).with_name("boot")
CGROUPS = (Path("/sys/fs/cgroup/unified"), Path("/sys/fs/cgroup"))
READY_WITHIN_SECONDS = 60


def cgroup_root():
    """Where cgroup2 is mounted."""
    for path in CGROUPS:
        if (path / "cgroup.procs").exists() and (path / "cgroup.controllers").exists():
            return path
    raise RuntimeError("cgroup2 is not mounted, which a machine with systemd needs: use --init none")


class Machine:
    """A host of the network that one can log in to."""

    def __init__(self, scene, host, init):
        self.scene, self.host, self.name, self.address = scene, host, host.name, host.address
        self.directory = scene.directory / host.name
        self.directory.mkdir()
        (self.directory / "authorized_keys").write_bytes(Path(f"{scene.key}.pub").read_bytes())
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", self.directory / "host_key"], check=True)
        self.cgroup = None
        join = []
        if init == "systemd":
            self.cgroup = cgroup_root() / f"{host.namespace}"
            self.cgroup.mkdir()
            join = ["bash", "-c", f"echo $$ >{self.cgroup}/cgroup.procs; exec \"$@\"", "join"]
        self.log = open(self.directory / "console", "wb")
        # The namespaces end with the first process in them, and that with us.
        self.process = subprocess.Popen(
            ["setpriv", "--pdeathsig", "KILL", *join, *host.prefix(),
             "unshare", "--mount", "--uts", "--ipc", "--pid", "--cgroup", "--fork", "--kill-child",
             BOOT, self.directory, init],
            stdin=subprocess.DEVNULL, stdout=self.log, stderr=self.log, start_new_session=True)

    def await_ssh(self):
        """Waits until its sshd answers."""
        deadline = time.monotonic() + READY_WITHIN_SECONDS
        while True:
            try:
                with self.host.connect(self.address, 22, 2) as connection:
                    connection.settimeout(2)
                    if connection.recv(4) == b"SSH-":
                        return
            except OSError:
                pass
            if time.monotonic() > deadline or self.process.poll() is not None:
                console = (self.directory / "console").read_text(errors="replace")
                raise RuntimeError(f"{self.name} does not boot: {console[-2000:]}")
            time.sleep(0.05)

    def first_process(self):
        """Its init, as this system numbers it."""
        return int(Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()[0])

    def processes(self):
        """The names of all that runs on it."""
        def space(pid):
            return os.readlink(f"/proc/{pid}/ns/pid")
        mine, found = space(self.first_process()), []
        for entry in Path("/proc").iterdir():
            try:
                if entry.name.isdigit() and space(entry.name) == mine:
                    found.append((entry / "comm").read_text().strip())
            except OSError:
                pass
        return sorted(found)

    def inside(self, *command, check=True, binary=False):
        """What a command prints there, in its files and namespaces, without ssh."""
        done = subprocess.run(["nsenter", "-t", str(self.first_process()), "-a", "-r", "-w", *command],
                              capture_output=True, text=not binary, check=False)
        if check and done.returncode:
            raise RuntimeError(f"{self.name}: {' '.join(command)}: {done.stderr}")
        return done.stdout

    def written(self):
        """Everything in its layer of files, and in /run and /tmp, as paths on it."""
        layer = self.inside("find", "/run/test/layer", "-mindepth", "1", "-printf", "/%P\n")
        return set(layer.splitlines()) | set(self.inside("find", "/run", "/tmp", "/dev/shm", "-xdev").splitlines())

    def close(self):
        """Ends it and all that runs on it."""
        if self.process.poll() is None:
            try:
                os.kill(self.first_process(), signal.SIGKILL)
            except (OSError, IndexError):
                self.process.kill()
            self.process.wait(10)
        self.log.close()
        if self.cgroup:
            deadline = time.monotonic() + 10
            while self.cgroup.exists() and time.monotonic() < deadline:
                for below, _, _ in os.walk(self.cgroup, topdown=False):
                    try:
                        os.rmdir(below)
                    except OSError:
                        time.sleep(0.05)
