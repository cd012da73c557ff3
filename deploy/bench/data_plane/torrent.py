"""BitTorrent, as aria2c speaks it, with opentracker.

Invariant: peers find each other by the tracker alone, as Vecino's do by the locator: no DHT, no
local discovery.
"""

import hashlib
import os
import urllib.parse

from .scene import eventually, finished, free_port, reads

SWARM = [
    "--enable-dht=false", "--enable-dht6=false", "--bt-enable-lpd=false", "--disable-ipv6=true",
    "--file-allocation=none", "--seed-ratio=0", "--bt-max-peers=0", "--bt-tracker-interval=5",
    "--summary-interval=0", "--show-console-readout=false", "--console-log-level=warn",
    "--no-conf=true",
]
# Pieces as makers of torrents choose them for these sizes: a thousand to a file, more or less.
MIN_PIECE_POWER, MAX_PIECE_POWER = 18, 24


class Torrent:
    """A torrent of one file, and the running opentracker that knows it alone."""

    def __init__(self, scene, path, host=None):
        self.scene, self.host = scene, host
        self.name, self.size = path.name, path.stat().st_size
        address, port = (host.address, 6969) if host else ("127.0.0.1", free_port())
        self.tracker = f"http://{address}:{port}"
        directory = scene.directory("tracker")
        self.path = directory / f"{path.name}.torrent"
        power = min(max((self.size // 1024 - 1).bit_length(), MIN_PIECE_POWER), MAX_PIECE_POWER)
        self.piece = 1 << power
        finished([scene.tools["mktorrent"], "-a", f"{self.tracker}/announce", "-l", power,
                  "-o", self.path, path])
        data = self.path.read_bytes()
        # `info` is the last key of what mktorrent writes; its bytes are what is hashed.
        self.info_hash = hashlib.sha1(data[data.index(b"4:info") + 6:-1])
        # As root it moves into its directory and becomes nobody. Debian's serves only what is listed.
        (directory / "listed").write_text(self.info_hash.hexdigest() + "\n")
        for part in (scene.root, directory):
            part.chmod(0o755)
        listed = "/listed" if os.geteuid() == 0 else directory / "listed"
        self.process = scene.start("opentracker", [
            scene.tools["opentracker"], "-i", address, "-p", port, "-d", directory, "-w", listed,
        ], directory, host=host)
        eventually("the tracker answers", lambda: self.seeds() is not None, every=0.1)

    def seeds(self):
        """How many whole copies the tracker knows of; None where it does not answer."""
        url = f"{self.tracker}/scrape?info_hash={urllib.parse.quote(self.info_hash.digest())}"
        try:
            if self.host:
                answer = self.host.get(url)
            else:
                answer = reads(url)
        except OSError:
            return None
        _, found, rest = answer.partition(b"8:completei")
        return int(rest.split(b"e")[0]) if found else 0


class Leecher:
    """An aria2c that fetches and then seeds."""

    def __init__(self, scene, torrent, host=None, *options, directory=None):
        self.directory = directory or scene.directory("leecher")
        self.done = self.directory / "hook.done"
        hook = self.directory / "hook"
        hook.write_text(f"#!/bin/sh\n: > '{self.done}'\n")
        hook.chmod(0o755)
        self.file = self.directory / torrent.name
        port = 6881 if host else free_port()
        self.process = scene.start(
            "aria2c", [scene.tools["aria2c"], *SWARM, f"--listen-port={port}", f"--dir={self.directory}",
                       f"--on-bt-download-complete={hook}", *options, torrent.path],
            self.directory, host=host)

    def finished_at(self):
        """When it had everything, or nothing yet."""
        if self.done.exists():
            return self.done.stat().st_mtime
        if self.process.child.poll() is not None:
            raise RuntimeError(f"aria2c ended: {self.process.log.read_text()[-800:]}")
        return None


def seed(scene, path, torrent, host=None):
    """An aria2c that has the whole file at `path`, once the tracker knows of it."""
    directory = scene.directory("seed")
    os.link(path, directory / torrent.name)
    before = torrent.seeds()
    # It is told that the file is whole: what it is to seed, right or wrong, is not its question.
    seeder = Leecher(scene, torrent, host, "--bt-seed-unverified=true", directory=directory)
    eventually("the seed is known to the tracker", lambda: torrent.seeds() > before, every=0.1)
    return seeder
