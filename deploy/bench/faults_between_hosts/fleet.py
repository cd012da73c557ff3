"""The locator, four peers in a ring, and what they share.

Invariant: every file is shared by two peers and its bytes are known, so that nothing may be missing
while one host is in trouble, and every byte that anybody receives can be checked.
"""

import concurrent.futures
import hashlib
import http.client
import random
import subprocess
import urllib.parse
from dataclasses import dataclass

from data_plane.hosts import Network
from data_plane.peer import Locator, Peer

PEERS = 4
LEASE_SECONDS = 5
METRICS_PORT = 51016
CACHE_LIMIT = "4M"
# Small ones in numbers, and some of several pieces.
SIZES = [48 << 10] * 16 + [160 << 10] * 12 + [400 << 10] * 8 + [3 << 20] * 4
# Of the locator, and of the peer that has a disk of its own: all that it shares, its cache, and what
# must stay free.
DISK_BYTES = 96 << 20
DISK_OF = "peer2"
# Files that are looked for at once.
AT_ONCE = 6


def made(name, size):
    """The bytes of the file of this name: no two alike, and no copy of them is needed."""
    return random.Random(name).randbytes(size)


@dataclass(frozen=True)
class File:
    """A file that is shared, and what it must be."""

    name: str
    size: int
    sha256: bytes
    holders: tuple  # names of peers

    def path(self):
        """`/v1/files/NAME`."""
        return "/v1/files/" + urllib.parse.quote(self.name)


class Fleet:
    """All hosts; `close` of the scene ends them."""

    def __init__(self, scene):
        self.scene = scene
        self.network = Network(scene)
        host = self.network.host("locator")
        self.locator = Locator(scene, host, self.small_disk, LEASE_SECONDS=LEASE_SECONDS,
                               METRICS_ADDR=f"{host.address}:{METRICS_PORT}")
        self.peers = {}
        names = [f"peer{number + 1}" for number in range(PEERS)]
        for name in names:
            host = self.network.host(name)
            self.peers[name] = Peer(scene, name, self.locator, host, CACHE_LIMIT=CACHE_LIMIT)
        for number, name in enumerate(names):
            # A ring, and the one after the next in case that the next is down.
            following = [self.peers[names[(number + step) % PEERS]].endpoint() for step in (1, 2)]
            self.peers[name].neighbour = ",".join(following)
        self.small_disk(self.peers[DISK_OF].directory)
        self.peers[DISK_OF].shared.mkdir()
        self.files = [self.share(number, size, names) for number, size in enumerate(SIZES)]
        for peer in self.peers.values():
            peer.start()
        for peer in self.peers.values():
            peer.await_ready().await_announced()

    def small_disk(self, directory):
        """Makes a directory a small disk of its own."""
        run(self.scene.tools["mount"], "-t", "tmpfs", "-o", f"size={DISK_BYTES}", "vecino-faults", directory)
        self.scene.closers.append(lambda: run(self.scene.tools["umount"], "--lazy", directory))

    def share(self, number, size, names):
        """Makes a file, shared by two peers that are not neighbours in the ring."""
        name = f"load/{number:02}.bin"
        data = made(name, size)
        holders = (names[number % PEERS], names[(number + 2) % PEERS])
        for holder in holders:
            path = self.peers[holder].shared / name
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(data)
        return File(name, size, hashlib.sha256(data).digest(), holders)

    def processes(self):
        """Every server by its name."""
        return {"locator": self.locator} | self.peers

    def dead(self):
        """Names of servers whose process has ended."""
        return [name for name, server in self.processes().items() if server.process.child.poll() is not None]

    def other(self, file):
        """A peer that does not share `file`, and so has to look it up."""
        return next(peer for name, peer in self.peers.items() if name not in file.holders)

    def missing(self, files):
        """Why the fleet is not whole: the first thing that is wrong with it; nothing when all is well."""
        for name, peer in self.peers.items():
            status, _, body = peer.ask("GET", "/readyz", quiet=True)
            if status != 200:
                return f"{name} is not ready: {body}"
        for file in files:
            if lacking := self.unfound(file):
                return f"{file.name}: {', '.join(lacking)} not found to hold it"
        return None

    def unfound(self, file):
        """Its holders that another peer does not find."""
        asker = self.other(file)
        path = "/v1/locate/" + urllib.parse.quote(file.name)
        status, _, body = asker.ask("GET", path, quiet=True)
        found = set()
        if status == 200:
            found = {provider["url"].rstrip("/") for variant in body["variants"] for provider in variant["providers"]}
        return [holder for holder in file.holders if self.peers[holder].url("") not in found]

    def lost(self, files):
        """What is not whole at its holder, not found from elsewhere, or wrong: nothing, if all is well."""
        with concurrent.futures.ThreadPoolExecutor(AT_ONCE) as pool:
            return [problem for found in pool.map(self.problems, files) for problem in found]

    def problems(self, file):
        """What is wrong with one file."""
        found = [f"{file.name}: {holder} is not found" for holder in self.unfound(file)]
        for name in (*file.holders, self.other(file).name):
            try:
                status, _, data = self.peers[name].ask("GET", file.path(), quiet=True)
            except (OSError, http.client.HTTPException) as error:
                status, data = repr(error), b""
            if status != 200:
                found.append(f"{file.name} from {name}: {status}")
            elif hashlib.sha256(data).digest() != file.sha256:
                found.append(f"{file.name} from {name}: wrong bytes")
        return found

    def forget(self, files):
        """Deletes files at those who share them."""
        def delete(file):
            self.peers[file.holders[0]].ask("DELETE", file.path(), quiet=True)
        with concurrent.futures.ThreadPoolExecutor(AT_ONCE) as pool:
            list(pool.map(delete, files))


def run(*command):
    """One command, which must succeed."""
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(map(str, command))}: {done.stderr.strip()}")
