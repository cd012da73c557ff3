"""Benchmark 3: a folder of many small files, on loopback.

Invariant: nothing is deleted before the last run. ext4 does not use an inode again for 5 s after
its file was deleted, and searches past all of those for each new file: whoever came next would pay.
"""

import os

from .nginx import origin
from .peer import Locator, Peer
from .scene import finished, free_port
from .table import Sample, columns, goal, heading, interleave

FOLDER = "small"
FILE_BYTES = 4096
FILES_A_DIRECTORY = 100
AT_ONCE = 16
# Twice as fast as its defaults are: it remembers nothing of what it finished.
ARIA2 = ["-q", "--no-conf=true", "--file-allocation=none", "--auto-save-interval=0",
         "--enable-http-pipelining=true", "--download-result=hide", "--max-download-result=0"]
RSYNC = """
use chroot = no
address = 127.0.0.1
port = {port}
log file = {log}
pid file = {pid}
[{folder}]
path = {path}
read only = yes
uid = {uid}
gid = {gid}
"""


class Folder:
    """Small files, a provider of them, nginx and rsync's daemon beside it."""

    def __init__(self, scene, count):
        self.scene, self.count = scene, count
        self.data = scene.directory("folder")
        self.names = [f"{FOLDER}/{number // FILES_A_DIRECTORY:03}/{number:05}.bin" for number in range(count)]
        self.locator = Locator(scene)
        self.provider = Peer(scene, "provider", self.locator)
        self.own_port = free_port()
        self.provider.neighbour = f"127.0.0.1:{self.own_port}"
        for name in self.names:
            path = self.data / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(os.urandom(FILE_BYTES))
            self.provider.share(path, name)
        self.provider.start().await_ready().await_announced()
        self.nginx = origin(scene, self.data).await_ready(self.names[0])
        work = scene.directory("rsync")
        self.rsync_port = free_port()
        (work / "rsyncd.conf").write_text(RSYNC.format(
            port=self.rsync_port, log=work / "rsync.log", pid=work / "rsync.pid", folder=FOLDER,
            path=self.data / FOLDER, uid=os.getuid(), gid=os.getgid()))
        self.rsync = scene.start(
            "rsync", [scene.tools["rsync"], "--daemon", "--no-detach", f"--config={work / 'rsyncd.conf'}"], work)
        # aria2c's list of what to fetch, and under which name.
        self.list = work / "list"
        self.list.write_text("".join(f"{self.nginx.url(name)}\n  out={name}\n" for name in self.names))

    def check(self, target):
        """Every file must be there and right."""
        root = target / FOLDER
        for name in self.names:
            if (root / name[len(FOLDER) + 1:]).read_bytes() != (self.data / name).read_bytes():
                raise RuntimeError(f"WRONG BYTES in {name}")

    def measured(self, arguments, target, processes, client):
        """A sample of one command that fetches everything into `target`."""
        before = {name: process.cpu_seconds() for name, process in processes.items()}
        seconds, used = finished(arguments)
        cpu = {name: process.cpu_seconds() - before[name] for name, process in processes.items()}
        peak = {name: process.peak_bytes() for name, process in processes.items()}
        self.check(target)
        return Sample(seconds, cpu | {client: used}, peak)

    def vecino(self):
        """The client's folder download, through an own peer that has nothing yet."""
        scene, target = self.scene, self.scene.directory("client")
        own = Peer(scene, "own peer", self.locator, port=self.own_port, neighbour=self.provider.endpoint())
        own.start().await_ready()
        for name in (self.names[0], self.names[-1]):
            own.await_located(name)
        processes = {"provider": self.provider.process, "own peer": own.process}
        arguments = ["env", f"URL_PEERAS={own.endpoint()}", scene.tools["client"], "--quiet",
                     "download", f"{FOLDER}/", "-o", target / FOLDER]
        sample = self.measured(arguments, target, processes, "client")
        scene.end(own.process)
        return sample

    def aria2(self):
        """aria2c with a list, from nginx."""
        target = self.scene.directory("aria2c")
        return self.measured(
            [self.scene.tools["aria2c"], *ARIA2, "-j", AT_ONCE, "-i", self.list, f"--dir={target}"],
            target, {"nginx": self.nginx.process}, "aria2c")

    def rsynced(self):
        """rsync from its daemon, which works in a child that is gone afterwards: its CPU is not seen."""
        target = self.scene.directory("rsync-target")
        return self.measured(
            [self.scene.tools["rsync"], "-a", f"rsync://127.0.0.1:{self.rsync_port}/{FOLDER}/", target / FOLDER],
            target, {}, "rsync")


def run(scene, options):
    """Benchmark 3. Gives Vecino's peaks."""
    folder = Folder(scene, options.files)
    results = interleave({
        "nginx > aria2c -i": folder.aria2,
        "vecino > own peer > client": folder.vecino,
        "rsync daemon > rsync": folder.rsynced,
    }, options.runs)
    heading(f"3. {folder.count} files of 4 KiB in a folder", results)
    base = results["nginx > aria2c -i"].seconds()
    rows = []
    for result in results.values():
        each = [sample.seconds for sample in result.samples]
        cpu = ", ".join(f"{name} {result.cpu(name):.2f}" for name in result.processes())
        rows.append((result.name, f"{result.seconds():.2f}", f"{min(each):.2f}-{max(each):.2f}",
                     f"{folder.count / result.seconds():.0f}", f"{base / result.seconds():.2f}", cpu))
    columns(("", "s", "min-max", "files/s", "rate / nginx > aria2c -i", "CPU-s"), rows)
    vecino = results["vecino > own peer > client"]
    goal("over nginx > aria2c -i", base / vecino.seconds(), 1.0, True)
    return vecino.peaks()
