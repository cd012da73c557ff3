"""Benchmark 5: the crowd of benchmark 4 with two peers killed half way, one at a tenth of the rate,
and one that sends wrong bytes.

Invariant: what the survivors have at the end is compared byte for byte; a fault that did not
happen (nobody was killed in time, nobody asked the liar) is said, for it proves nothing.
"""

import os
import shutil
import sys
import threading
from pathlib import Path

from .crowd import LARGE_BYTES, NAME, Crowd, table
from .peer import Peer
from .scene import eventually
from .table import goal, interleave, say
from .torrent import seed

PEERS = 8
KILLED = (2, 5)
SLOW = 7
GOAL = 1.5


class Faults:
    """What goes wrong in one crowd."""

    def __init__(self, mbit):
        self.slow, self.slow_mbit = SLOW, mbit / 10
        self.killed = {}

    def is_dead(self, number):
        """Whether this peer was killed."""
        return number in self.killed

    def register(self, number, process):
        """Tells of a process that is to be killed, if this is one of those."""
        if number in KILLED:
            self.processes[number] = process

    def begin(self, crowd):
        """Forgets the run before."""
        self.killed, self.processes = {}, {}
        self.after = crowd.ideal() / 2

    def started(self):
        """The crowd has started: kills when half of F/B is over."""
        def kill():
            for number, process in self.processes.items():
                self.killed[number] = process.child.poll() is None
                process.kill()
        timer = threading.Timer(self.after, kill)
        timer.daemon = True
        timer.start()

    def vecino(self, crowd, locator, peers):
        """Adds the liar: a peer that has the whole file and is reached through a proxy."""
        self.begin(crowd)
        for number in KILLED:
            self.register(number, peers[number].process)
        scene, host = crowd.scene, crowd.network.host("liar", crowd.mbit)
        liar = Peer(scene, "liar", locator, host, port=8080, neighbour=peers[0].endpoint(),
                    public=f"http://{host.address}:80")
        liar.share(crowd.file, NAME)
        directory = scene.directory("proxy")
        proxy = scene.start("liar", [
            sys.executable, Path(__file__).with_name("liar.py"), f"{host.address}:80", f"127.0.0.1:{liar.port}",
        ], directory, host=host)
        liar.start().await_ready().await_announced()
        eventually("the liar listens", lambda: host.get(f"http://{host.address}:80/healthz?"))
        return [proxy, liar.process]

    def bittorrent(self, crowd, torrent):
        """Adds a seed whose every piece is wrong in one byte."""
        self.begin(crowd)
        file = crowd.scene.directory("wrong") / NAME
        shutil.copyfile(crowd.file, file)
        with open(file, "r+b") as wrong:
            for start in range(0, torrent.size, torrent.piece):
                where = min(start + torrent.piece // 2, torrent.size - 1)
                wrong.seek(where)
                byte = wrong.read(1)
                wrong.seek(where)
                wrong.write(bytes([byte[0] ^ 1]))
        liar = seed(crowd.scene, file, torrent, crowd.network.host("liar", crowd.mbit))
        os.unlink(file)
        return [liar.process]


def run(scene, network, file, options):
    """Benchmark 5 for one file. Gives Vecino's peaks."""
    crowd = Crowd(scene, network, file, PEERS, options.mbit, Faults(options.mbit))
    size = file.stat().st_size >> 20
    contestants = {"vecino": crowd.vecino}
    if not options.vecino_only:
        contestants["BitTorrent"] = crowd.bittorrent
    results = interleave(contestants, options.large_runs if file.stat().st_size > LARGE_BYTES else options.runs)
    table(f"5. the same with {len(KILLED)} of {PEERS} killed at half of F/B, one at a tenth of the rate, "
          f"one that lies: {size} MiB, F/B {crowd.ideal():.2f} s", crowd, results)
    say("  every survivor's file is right, byte for byte")
    for result in results.values():
        for number, sample in enumerate(result.samples):
            if sample.notes["whole"] != PEERS - len(KILLED):
                say(f"  {result.name}, run {number + 1}: only {PEERS - sample.notes['whole']} were killed "
                    "before they were done")
            if sample.notes.get("found") == 0:
                say(f"  {result.name}, run {number + 1}: nobody says that the liar lied; was it asked?")
    goal("slowest of the survivors at full rate over F/B",
         results["vecino"].seconds() / crowd.ideal(), GOAL, False)
    return results["vecino"].peaks()
