"""Benchmarks 0, 1 and 2: one file between one provider and one receiver, on loopback."""

import time
from concurrent.futures import ThreadPoolExecutor

from .nginx import Cache, origin
from .peer import Locator, Peer
from .scene import CHUNK, eventually, finished, random_file
from .table import GIB, Sample, goal, interleave, say, throughput
from .torrent import Leecher, Torrent, seed

NAME = "one.bin"
CLIENTS = (1, 4)
BITTORRENT_WITHIN_SECONDS = 600
# Files of the size measured that are written and deleted before each sample.
BALLAST = 2
# A virtual machine gives what is free back to its host, in rounds of two seconds; what is freed meanwhile
# goes along. Nothing is freed for so long before the ballast.
SETTLE_SECONDS = 5
ZEROES = bytes(CHUNK)


class Pair:
    """A locator, a provider with one file, an own peer, and nginx serving the same file."""

    def __init__(self, scene, size):
        self.scene, self.size, self.curl = scene, size, scene.tools["curl"]
        self.data = scene.directory("data")
        self.file = random_file(self.data / NAME, size)
        self.nginx = origin(scene, self.data).await_ready(NAME)
        locator = Locator(scene)
        self.provider = Peer(scene, "provider", locator)
        self.own = Peer(scene, "own peer", locator, neighbour=self.provider.endpoint())
        self.provider.neighbour = self.own.endpoint()
        self.provider.share(self.file)
        for peer in (self.provider, self.own):
            peer.start().await_ready()
        self.provider.await_announced()
        self.own.await_located(NAME)

    def measured(self, work, processes, client=None):
        """A sample of `work`, which gives the CPU seconds of the client that it ran."""
        before = {name: process.cpu_seconds() for name, process in processes.items()}
        began = time.monotonic()
        ended, client_cpu = work()
        seconds = (ended or time.monotonic()) - began
        cpu = {name: process.cpu_seconds() - before[name] for name, process in processes.items()}
        if client:
            cpu[client] = client_cpu
        peak = {name: process.peak_bytes() for name, process in processes.items()}
        return Sample(seconds, cpu, peak)

    def writing(self, contestants, runs):
        """Interleaved samples of contestants that write the file.

        Each finds the same memory free: writing into memory that the machine has not used lately
        costs up to ten times as much, and what is free otherwise depends on who ran before.
        """
        ballast = self.scene.directory("ballast") / "ballast"

        def alike(sample):
            def run():
                time.sleep(SETTLE_SECONDS)
                with open(ballast, "wb") as file:
                    for _ in range(BALLAST * self.size // CHUNK):
                        file.write(ZEROES)
                ballast.unlink()
                return sample()
            return run
        return interleave({name: alike(sample) for name, sample in contestants.items()}, runs)

    def command(self, arguments):
        """Work that is one command; its end is the end."""
        def work():
            _, cpu = finished(arguments)
            return time.monotonic(), cpu
        return work

    def vecino(self):
        """Vecino's processes."""
        return {"provider": self.provider.process, "own peer": self.own.process}


def blobs(pair, runs):
    """Benchmark 0: a provider's content to curl, beside nginx."""
    digest = pair.provider.digest(NAME)
    urls = {"nginx": pair.nginx.url(NAME), "vecino": pair.provider.url(f"/v1/blobs/{digest}")}
    servers = {"nginx": pair.nginx.process, "vecino": pair.provider.process}

    def contestant(name, clients):
        arguments = [pair.curl, "-sf", "-o", "/dev/null", urls[name]]

        def work():
            with ThreadPoolExecutor(clients) as pool:
                cpu = sum(used for _, used in pool.map(lambda _: finished(arguments), range(clients)))
            return time.monotonic(), cpu
        return lambda: pair.measured(work, {"server": servers[name]}, "curl")

    for clients in CLIENTS:
        results = interleave({name: contestant(name, clients) for name in urls}, runs)
        total = pair.size * clients
        throughput(f"0. /v1/blobs to curl, {pair.size / GIB:g} GiB, {clients} at once",
                   results, total, "nginx")
        nginx, vecino = results["nginx"], results["vecino"]
        goal("throughput over nginx", nginx.seconds() / vecino.seconds(), 1.0, True)
        goal("server CPU over nginx", vecino.cpu("server") / max(nginx.cpu("server"), 1e-9), 1.3, False)


def through_own_peer(pair, runs):
    """Benchmark 1: provider, own peer, client; verified and kept. Gives Vecino's peaks."""
    scene, name = pair.scene, NAME
    cache = Cache(scene, pair.nginx)
    torrent = Torrent(scene, pair.file)
    seeder = seed(scene, pair.file, torrent)

    def via(arguments, client):
        command = pair.command(arguments)

        def work():
            ended, cpu = command()
            # Kept is part of the work: its CPU counts, though the client has everything already.
            eventually("the own peer keeps it", lambda: pair.own.holds(name), every=0.005)
            return ended, cpu

        def sample():
            result = pair.measured(work, pair.vecino(), client)
            pair.own.forget(name)
            return result
        return sample

    def cached():
        processes = {"origin": pair.nginx.process, "cache": cache.process}
        result = pair.measured(pair.command([pair.curl, "-sf", "-o", "/dev/null", cache.url(name)]),
                               processes, "curl")
        cache.empty()
        return result

    def aria2_http():
        target = scene.directory("aria2c")
        arguments = [scene.tools["aria2c"], "-q", "--no-conf=true", "--file-allocation=none", "-x4", "-s4",
                     f"--dir={target}", pair.nginx.url(name)]
        result = pair.measured(pair.command(arguments), {"nginx": pair.nginx.process}, "aria2c")
        (target / name).unlink()
        return result

    def bittorrent():
        before = seeder.process.cpu_seconds()
        began = time.time()
        leecher = Leecher(scene, torrent)
        done = eventually("BitTorrent has it", leecher.finished_at, BITTORRENT_WITHIN_SECONDS, 0.005)
        cpu = {"seed": seeder.process.cpu_seconds() - before, "leecher": leecher.process.cpu_seconds()}
        scene.end(leecher.process)
        leecher.file.unlink()
        return Sample(done - began, cpu)

    def plain_write():
        # What keeping costs whoever keeps it: the kernel's copying into pages that are new.
        target = scene.directory("dd") / name
        result = pair.measured(pair.command(
            ["dd", "if=/dev/zero", f"of={target}", "bs=1M", f"count={pair.size}", "iflag=count_bytes",
             "status=none"]), {}, "dd")
        target.unlink()
        return result

    direct = [pair.curl, "-sf", "-o", "/dev/null"]
    client = ["env", f"URL_PEERAS={pair.own.endpoint()}", scene.tools["client"], "--quiet",
              "download", name, "-o", "/dev/null"]
    results = pair.writing({
        "nginx > cache > curl": cached,
        "vecino > own peer > curl": via([*direct, pair.own.url(pair.own.file_path(name))], "curl"),
        "vecino > own peer > client": via(client, "client"),
        "nginx > curl (limit)": lambda: pair.measured(
            pair.command([*direct, pair.nginx.url(name)]), {"nginx": pair.nginx.process}, "curl"),
        "nginx > aria2c": aria2_http,
        "dd to a new file (limit)": plain_write,
        "BitTorrent": bittorrent,
    }, runs)
    scene.end(seeder.process, torrent.process, cache.process)
    throughput(f"1. provider > own peer > client, verified and kept, {pair.size / GIB:g} GiB",
               results, pair.size, "nginx > cache > curl")
    vecino = results["vecino > own peer > curl"]
    goal("over nginx > cache > curl", results["nginx > cache > curl"].seconds() / vecino.seconds(), 1.3, True)
    goal("CPU-s/GiB of the own peer", vecino.cpu("own peer") * GIB / pair.size, 1.0, False)
    written = results["dd to a new file (limit)"].cpu("dd")
    say(f"         CPU-s/GiB of writing alone, as dd does: {written * GIB / pair.size:.2f}")
    goal("over BitTorrent", results["BitTorrent"].seconds() / vecino.seconds(), 3.0, True)
    return vecino.peaks()


def into_own_peer(pair, runs):
    """Benchmark 2: into the own peer, beside curl to disk."""
    target = pair.scene.directory("curl") / NAME

    def vecino():
        def work():
            pair.own.fetch(NAME, every=0.005)
            return time.monotonic(), None
        result = pair.measured(work, pair.vecino())
        pair.own.forget(NAME)
        return result

    def curl(synced):
        def work():
            _, cpu = finished([pair.curl, "-sf", "-o", target, pair.nginx.url(NAME)])
            if synced:
                finished(["sync", target])
            return time.monotonic(), cpu
        result = pair.measured(work, {"nginx": pair.nginx.process}, "curl")
        target.unlink()
        return result

    results = pair.writing({
        "nginx > curl to disk": lambda: curl(False),
        "vecino > own peer (synced)": vecino,
        "nginx > curl to disk, sync": lambda: curl(True),
    }, runs)
    throughput(f"2. provider > own peer, {pair.size / GIB:g} GiB",
               results, pair.size, "nginx > curl to disk")
    taken = results["vecino > own peer (synced)"].seconds()
    goal("time over curl to disk", taken / results["nginx > curl to disk"].seconds(), 1.2, False)
    synced = results["nginx > curl to disk, sync"].seconds()
    say(f"         time over curl to disk and sync: {taken / synced:.2f}")
