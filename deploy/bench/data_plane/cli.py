"""The command: what is to be measured, what it needs, how long it takes, and the run."""

import argparse
import os
import platform
import signal
import subprocess
import sys
import time
from pathlib import Path

from . import crowd, faults, folder, memory, needs, pair
from .hosts import Network
from .scene import Scene, random_file
from .table import others_busy, say

ALL = ["0", "1", "2", "3", "4", "5", "6"]


def size(text):
    """Bytes of `64M`, `1G` and the like."""
    units = {"K": 1 << 10, "M": 1 << 20, "G": 1 << 30}
    unit = units.get(text[-1:].upper())
    return int(text[:-1]) * unit if unit else int(text)


def numbers(text):
    """The benchmarks of a list with commas."""
    chosen = text.split(",")
    unknown = [part for part in chosen if part not in ALL]
    if unknown:
        raise argparse.ArgumentTypeError(f"{','.join(unknown)}: expected some of {','.join(ALL)}")
    return chosen


def sizes(text):
    """Sizes in a list with commas."""
    return [size(part) for part in text.split(",")]


def integers(text):
    """Whole numbers in a list with commas."""
    return [int(part) for part in text.split(",")]


def parser():
    """The options."""
    options = argparse.ArgumentParser(
        prog="deploy/bench/data-plane", formatter_class=argparse.RawDescriptionHelpFormatter,
        description="Vecino and its peers side by side in one run: medians of interleaved runs, as ratios.",
        epilog="""\
benchmarks:
  0  /v1/blobs of a provider to curl, beside nginx
  1  provider > own peer > client, beside nginx's proxy_cache, aria2c, BitTorrent
  2  provider > own peer, beside curl to disk
  3  many small files in a folder, beside nginx + aria2c -i, rsync
  4  a flash crowd on limited links, beside BitTorrent, curl
  5  the same with two peers killed, a slow one, one that sends wrong bytes
  6  memory: peaks during 1, 4 and 5, and with a client that reads slowly

It takes the binaries of $VECINO_BIN [target/release], writes to $TMPDIR [target/bench], and
deletes what it wrote. Exit 2: something that it needs is missing.""")
    options.add_argument("--only", type=numbers, default=ALL, help="benchmarks, with commas [all]")
    options.add_argument("--runs", type=int, default=5, help="interleaved runs of which the median counts [5]")
    options.add_argument("--size", type=size, default=size("1G"), help="file of 0, 1 and 2 [1G]")
    options.add_argument("--files", type=int, default=10_000, help="files of 4 KiB in 3 [10000]")
    options.add_argument("--peers", type=integers, default=[8, 16], help="peers of the crowd in 4 [8,16]")
    options.add_argument("--crowd-size", type=sizes, default=sizes("64M,512M"), help="files of 4 [64M,512M]")
    options.add_argument("--fault-size", type=sizes, default=sizes("64M"), help="files of 5 [64M]")
    options.add_argument("--large-runs", type=int, default=1, help="runs of crowds with more than 128M [1]")
    options.add_argument("--large-curl", action="store_true",
                         help="curl by all from nginx also for those: peers x F/B each")
    options.add_argument("--mbit", type=int, default=100, help="Mbit/s of a link in 4 and 5 [100]")
    options.add_argument("--vecino-only", action="store_true", help="4 and 5 without the others")
    return options


def conditions(tools):
    """Prints what the figures were taken on."""
    with open("/proc/cpuinfo", encoding="ascii", errors="replace") as file:
        model = [line.split(":", 1)[1].strip() for line in file if line.startswith("model name")]
    tcp = Path("/proc/sys/net/ipv4/tcp_congestion_control").read_text(encoding="ascii").strip()
    say(f"{time.strftime('%Y-%m-%d %H:%M')}, {os.cpu_count()} CPUs {model[0] if model else ''}, "
        f"Linux {platform.release()}, TCP {tcp}, load average {os.getloadavg()[0]:.2f}")
    for name in needs.BINARIES:
        version = subprocess.run([tools[name], "--version"], capture_output=True, text=True, check=False)
        say(f"{version.stdout.strip() or name}: {tools[name]}")
    if others_busy() > 0.1:
        say("The machine is not idle: ratios count, figures do not.")


def estimate(options):
    """Seconds that it will take, roughly; printed before it begins."""
    gib, runs = options.size / (1 << 30), options.runs
    seconds = 10.0 * gib if {"0", "1", "2"} & set(options.only) else 0.0
    for number, each in (("0", 6 * gib), ("1", 20 * gib + 35), ("2", 8 * gib + 15), ("3", options.files / 300)):
        seconds += each * runs if number in options.only else 0
    for file in options.crowd_size if "4" in options.only else []:
        ideal, large = file * 8 / (options.mbit * 1e6), file > crowd.LARGE_BYTES
        for peers in options.peers:
            others = 0 if options.vecino_only else 2.4 + (0 if large and not options.large_curl else peers * 1.05)
            seconds += (options.large_runs if large else runs) * (ideal * (1.3 + others) + 6)
    for file in options.fault_size if "5" in options.only else []:
        ideal = file * 8 / (options.mbit * 1e6)
        each = ideal * (12 if options.vecino_only else 25) + 6
        seconds += each * (options.large_runs if file > crowd.LARGE_BYTES else runs)
    return seconds + (45 if "6" in options.only else 0)


def on_loopback(scene, options, peaks):
    """Benchmarks 0, 1 and 2, which share their provider and own peer."""
    two = pair.Pair(scene, options.size)
    if "0" in options.only:
        pair.blobs(two, options.runs)
    if "1" in options.only:
        merge(peaks, "1", pair.through_own_peer(two, options.runs))
    if "2" in options.only:
        pair.into_own_peer(two, options.runs)


def in_folder(scene, options, peaks):
    """Benchmark 3."""
    merge(peaks, "3", folder.run(scene, options))


def in_crowd(scene, options, peaks):
    """Benchmark 4."""
    network = Network(scene)
    for size_bytes in options.crowd_size:
        file = random_file(scene.directory("crowd") / crowd.NAME, size_bytes)
        for peers in options.peers:
            merge(peaks, "4", crowd.run(scene, network, file, peers, options))
        scene.delete(file.parent)


def with_faults(scene, options, peaks):
    """Benchmark 5."""
    network = Network(scene)
    for size_bytes in options.fault_size:
        file = random_file(scene.directory("crowd") / crowd.NAME, size_bytes)
        merge(peaks, "5", faults.run(scene, network, file, options))
        scene.delete(file.parent)


def memory_peaks(scene, _, peaks):
    """Benchmark 6."""
    memory.run(scene, peaks)


STAGES = ((on_loopback, "012"), (in_folder, "3"), (in_crowd, "4"), (with_faults, "5"), (memory_peaks, "6"))


def run(options, tools):
    """Everything that was asked for; whether all of it could be measured."""
    peaks, whole = {}, True
    for stage, benchmarks in STAGES:
        if not set(benchmarks) & set(options.only):
            continue
        scene = Scene(tools, os.environ.get("TMPDIR", needs.ROOT / "target" / "bench"))
        try:
            stage(scene, options, peaks)
        except (RuntimeError, TimeoutError, OSError) as error:
            say(f"\nFAILED {stage.__doc__} {error}")
            whole = False
        finally:
            scene.close()
    return whole


def merge(peaks, benchmark, found):
    """Keeps the highest peak of each process in a benchmark."""
    kept = peaks.setdefault(benchmark, {})
    for name, value in found.items():
        kept[name] = max(kept.get(name, 0), value)


def interrupted(*_):
    """Ctrl-C, and what other signals ask it to end."""
    raise KeyboardInterrupt


def main():
    """Runs the command; its exit code."""
    options = parser().parse_args()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, interrupted)
    try:
        tools = needs.find(options.only)
        conditions(tools)
        say(f"This takes about {estimate(options) / 60:.0f} minutes.")
        return 0 if run(options, tools) else 1
    except needs.Missing as missing:
        print(f"data-plane: {missing}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("data-plane: interrupted", file=sys.stderr)
        return 130
