"""Benchmark 4: a flash crowd. Everybody fetches the same file from one seed at the same moment.

Invariant: each run begins anew: a locator, a seed and peers that never met, or a tracker and a
swarm that never met; what everybody has at the end is compared byte for byte.
"""

import re
import threading
import time
from dataclasses import dataclass
from http.client import HTTPException
from statistics import median

from .nginx import origin
from .peer import Locator, Peer
from .scene import eventually, finished, same_bytes
from .table import Meter, Sample, columns, goal, heading, interleave, say
from .torrent import Leecher, Torrent, seed

NAME = "crowd.bin"
MIB = 1 << 20
# Larger files take minutes a run: they have runs of their own number.
LARGE_BYTES = 128 * MIB
# Nobody needs longer than everybody one after the other would; then something is wrong.
PATIENCE = 4
# Slowest over F/B, by peers and MiB.
GOALS = {(8, 64): 1.2, (8, 512): 1.1, (16, 64): 1.3, (16, 512): 1.15}
# A packet of 1514 bytes carries 1448.
HEADERS = 1514 / 1448


@dataclass
class Crowd:
    """Who wants what over which links."""

    scene: object
    network: object
    file: object
    peers: int
    mbit: int
    faults: object = None  # see faults.py
    busy: float = 0.0  # part of this machine's CPUs that the last run kept busy, with all others

    def ideal(self):
        """F/B: the time in which a link carries the file, headers not counted."""
        return self.file.stat().st_size * 8 / (self.mbit * 1e6)

    def within(self):
        """How long a run may take."""
        slowest = self.faults.slow_mbit if self.faults else self.mbit
        return PATIENCE * max(self.peers * self.ideal(), 2 * self.ideal() * self.mbit / slowest) + 30

    def hosts(self):
        """The hosts of the crowd, their links limited."""
        return [self.network.host(f"peer{number}", self.rate(number)) for number in range(self.peers)]

    def rate(self, number):
        """Mbit/s of a link."""
        return self.faults.slow_mbit if self.faults and number == self.faults.slow else self.mbit

    def all_at_once(self, action):
        """Runs `action(number)`, which gives when it was done, for everybody at one moment: seconds
        by number, without those that were killed."""
        barrier = threading.Barrier(self.peers + 1)
        ends, errors = {}, []

        def one(number):
            try:
                barrier.wait()
                ends[number] = action(number)
            except (OSError, RuntimeError, HTTPException) as error:
                if not (self.faults and self.faults.is_dead(number)):
                    errors.append(f"peer{number}: {error}")
        threads = [threading.Thread(target=one, args=(number,), daemon=True) for number in range(self.peers)]
        for thread in threads:
            thread.start()
        barrier.wait()
        began, meter = time.time(), Meter()
        if self.faults:
            self.faults.started()
        for thread in threads:
            thread.join()
        self.busy = meter.busy()
        if errors:
            raise RuntimeError("; ".join(errors[:4]))
        return {number: end - began for number, end in ends.items()}

    def sample(self, ends, files, peak=None):
        """The sample of the slowest, after everybody's bytes were compared."""
        wrong = [number for number in ends if not same_bytes(files[number], self.file)]
        if wrong:
            raise RuntimeError(f"WRONG BYTES at peers {wrong}")
        slow = self.faults.slow if self.faults else None
        normal = [end for number, end in ends.items() if number != slow]
        notes = {"median": sorted(normal)[len(normal) // 2], "whole": len(ends), "busy": self.busy}
        if slow is not None:
            notes["slow"] = ends[slow]
        return Sample(max(normal), peak=peak or {}, notes=notes)

    def vecino(self):
        """One run of Vecino."""
        hosts, scene = self.hosts(), self.scene
        locator = Locator(scene, self.network.host("hub"))
        source = Peer(scene, "seed", locator, self.network.host("seed", self.mbit))
        source.share(self.file, NAME)
        peers = [Peer(scene, f"peer{number}", locator, host) for number, host in enumerate(hosts)]
        ring = [source, *peers]
        for peer, neighbour in zip(ring, [*peers, source]):
            peer.neighbour = neighbour.endpoint()
            peer.start()
        for peer in ring:
            peer.await_ready()
        others = self.faults.vecino(self, locator, peers) if self.faults else []
        source.await_announced()
        source.await_located(NAME)
        # Nobody has it before F/B: asking would only take CPU from those that are measured.
        ends = self.all_at_once(lambda number: peers[number].fetch(
            NAME, every=0.2, within=self.within(), not_before=self.ideal()))
        peak = {"seed": source.process.peak_bytes(),
                "peer": max(peer.process.peak_bytes() for peer in peers),
                "locator": locator.process.peak_bytes()}
        files = {number: peers[number].fetched / NAME for number in ends}
        sample = self.sample(ends, files, peak)
        sample.notes["found"] = sum(wrong_bytes_found(peers[number]) for number in ends)
        # Nothing is to be said in order among those that go: they would wait for each other.
        self.discard([locator.process, *(peer.process for peer in ring), *others],
                     [peer.directory for peer in ring])
        return sample

    def bittorrent(self):
        """One run of a swarm."""
        hosts, scene = self.hosts(), self.scene
        torrent = Torrent(scene, self.file, self.network.host("hub"))
        source = seed(scene, self.file, torrent, self.network.host("seed", self.mbit))
        others = self.faults.bittorrent(self, torrent) if self.faults else []
        leechers = {}

        def one(number):
            leecher = leechers[number] = Leecher(scene, torrent, hosts[number])
            if self.faults:
                self.faults.register(number, leecher.process)
            return eventually(f"peer{number} has it", leecher.finished_at, self.within(), 0.05)
        ends = self.all_at_once(one)
        # The hook comes when the last piece is verified; the last bytes are written by then.
        sample = self.sample(ends, {number: leechers[number].file for number in ends})
        self.discard([torrent.process, source.process, *others,
                      *(leecher.process for leecher in leechers.values())],
                     [source.directory, *(leecher.directory for leecher in leechers.values())])
        return sample

    def curl(self):
        """One run of curl by all from one nginx."""
        hosts, scene = self.hosts(), self.scene
        server = origin(scene, self.file.parent, self.network.host("seed", self.mbit))
        server.await_ready(self.file.name)
        target = scene.directory("curl")

        def one(number):
            finished([scene.tools["curl"], "-sf", "-o", target / str(number), server.url(self.file.name)],
                     host=hosts[number], within=self.within())
            return time.time()
        ends = self.all_at_once(one)
        sample = self.sample(ends, {number: target / str(number) for number in ends})
        scene.end(server.process)
        scene.delete(target)
        return sample

    def discard(self, processes, directories):
        """Kills what served a run, and deletes what it wrote."""
        for process in processes:
            process.kill()
        self.scene.end(*processes)
        self.scene.delete(*directories)


def wrong_bytes_found(peer):
    """How often a peer received wrong bytes, by its metrics."""
    text = peer.ask("GET", "/metrics")[2].decode()
    count = re.search(r"^vecino_verification_failures_total(?:\{[^}]*\})? ([0-9.]+)$", text, re.MULTILINE)
    return float(count[1]) if count else 0


def table(title, crowd, results):
    """Prints the slowest over F/B, by contestant."""
    heading(title, results)
    ideal = crowd.ideal()
    rows = []
    for result in results.values():
        each = [sample.seconds for sample in result.samples]
        middle = median(sample.notes["median"] for sample in result.samples)
        row = [result.name, f"{result.seconds():.2f}", f"{min(each):.2f}-{max(each):.2f}",
               f"{result.seconds() / ideal:.2f}", f"{middle / ideal:.2f}",
               f"{median(sample.notes['busy'] for sample in result.samples):.0%}"]
        if crowd.faults:
            slow = median(sample.notes["slow"] for sample in result.samples)
            row.append(f"{slow / (ideal * crowd.mbit / crowd.faults.slow_mbit):.2f}")
        rows.append(row)
    head = ["", "slowest s", "min-max", "over F/B", "median peer", "CPUs busy"]
    columns(head + (["slow peer over its F/B"] if crowd.faults else []), rows)
    say(f"  F/B counts no headers: with those of TCP, IP and Ethernet nothing is below {HEADERS:.2f}")


def run(scene, network, file, peers, options):
    """Benchmark 4 for one file and one number of peers. Gives Vecino's peaks."""
    crowd = Crowd(scene, network, file, peers, options.mbit)
    size = file.stat().st_size // MIB
    large = file.stat().st_size > LARGE_BYTES
    contestants = {"vecino": crowd.vecino}
    if not options.vecino_only:
        contestants["BitTorrent"] = crowd.bittorrent
        if not large or options.large_curl:
            contestants["curl from nginx"] = crowd.curl
    results = interleave(contestants, options.large_runs if large else options.runs)
    table(f"4. flash crowd: {peers} peers, {size} MiB, {options.mbit} Mbit/s, F/B {crowd.ideal():.2f} s",
          crowd, results)
    if large and not options.large_curl and not options.vecino_only:
        say(f"  (curl from nginx left out: about {peers} x F/B; --large-curl measures it)")
    if (peers, size) in GOALS:
        goal("slowest over F/B", results["vecino"].seconds() / crowd.ideal(), GOALS[peers, size], False)
    return results["vecino"].peaks()
