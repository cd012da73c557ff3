"""Benchmark 6: the most memory that Vecino's processes ever had resident."""

import os
import time

from .peer import Locator, Peer
from .table import columns, goal, say

NAME = "slow.bin"
BYTES = 4 << 30
RATE_BYTES = 1_000_000
SECONDS = 20
STEP_BYTES = 50_000
# Without them the file would be one long zero, whose pieces are all the same.
MARK_EVERY_BYTES, MARK_BYTES = 1 << 20, 4096
BOUND_MIB = 150


def sparse_file(path):
    """A file of 4 GiB that takes little room: some random bytes in each MiB."""
    with open(path, "wb") as file:
        file.truncate(BYTES)
        for start in range(0, BYTES, MARK_EVERY_BYTES):
            file.seek(start)
            file.write(os.urandom(MARK_BYTES))
    return path


def slow_reader(scene):
    """Peaks while a client reads 1 MB/s of a large file for a while."""
    file = sparse_file(scene.directory("slow") / NAME)
    locator = Locator(scene)
    provider = Peer(scene, "provider", locator)
    own = Peer(scene, "own peer", locator, neighbour=provider.endpoint())
    provider.neighbour = own.endpoint()
    provider.share(file)
    for peer in (provider, own):
        peer.start().await_ready()
    provider.await_announced()
    own.await_located(NAME)
    connection = own.connection()
    connection.request("GET", own.file_path(NAME))
    answer = connection.getresponse()
    began, taken = time.monotonic(), 0
    while time.monotonic() - began < SECONDS:
        taken += len(answer.read(STEP_BYTES))
        time.sleep(max(0.0, began + taken / RATE_BYTES - time.monotonic()))
    fetched = own.ask("GET", "/v1/status")[2]["transfers"]["bytes_received"]
    peaks = {"provider": provider.process.peak_bytes(), "own peer": own.process.peak_bytes(),
             "locator": locator.process.peak_bytes()}
    connection.close()
    scene.end(provider.process, own.process, locator.process)
    scene.delete(file.parent, own.directory, provider.directory)
    return peaks, taken, fetched


def run(scene, peaks):
    """Prints `peaks` (benchmark: process: bytes) and those with a slow reader."""
    slow, taken, fetched = slow_reader(scene)
    peaks["slow reader"] = slow
    say("\n6. memory: highest peak of resident memory (VmHWM), all runs")
    rows = [(benchmark, name, f"{size / (1 << 20):.1f}")
            for benchmark, found in peaks.items() for name, size in found.items()]
    columns(("during", "process", "MiB"), rows)
    say(f"  slow reader: it took {taken / 1e6:.1f} MB of 4 GiB in {SECONDS} s; "
        f"the own peer had received {fetched / 1e6:.0f} MB then")
    goal("MiB of the largest", max(size for found in peaks.values() for size in found.values()) / (1 << 20),
         BOUND_MIB, False)
