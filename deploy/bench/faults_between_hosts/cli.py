"""The command: which scenarios, how often, and the table of what came of them."""

import argparse
import os
import resource
import shutil
import signal
import sys
import time
from pathlib import Path

from data_plane import needs
from data_plane.scene import Scene
from data_plane.table import columns, say

from .faults import FAKETIME
from .fleet import Fleet
from .load import Load
from .play import play
from .scenarios import SCENARIOS
from .watch import Watch

TOOLS = {"ip": "iproute2", "nft": "nftables", "mount": "mount", "umount": "mount"}
# What a login shell or a unit without limits gives.
OPEN_FILES = 1024
HEAD = ("scenario", "load before (downloads/s + lookups/s)", "answered/s meanwhile", "errors", "at its own clients",
        "slowest answer (s)", "lost / checked", "heals (s)", "")


def names(text):
    """The scenarios of a list with commas."""
    known = {scenario.name: scenario for scenario in SCENARIOS}
    chosen = [part.strip() for part in text.split(",")]
    unknown = [part for part in chosen if part not in known]
    if unknown:
        raise argparse.ArgumentTypeError(f"{', '.join(unknown)}: expected some of {', '.join(known)}")
    return [known[name] for name in chosen]


def parser():
    """The options."""
    options = argparse.ArgumentParser(
        prog="deploy/bench/faults", formatter_class=argparse.RawDescriptionHelpFormatter,
        description="A locator and four peers on hosts of their own (network namespaces), a steady load, and one "
                    "fault after the other.",
        epilog="""\
Every row states the load before its fault, the errors that clients of other peers were told (none may
be), those of the peers that the fault strikes, the slowest answer elsewhere, what was lost of all that
was shared and acknowledged (nothing may be), and how long after its end everything was right again.
A row fails when the load before was too low to mean anything, when the fault surely did not happen,
or when a bound of the scenario (--list) is broken. "answered/s meanwhile" is all kinds of requests.

It takes the binaries of $VECINO_BIN [target/release], writes to $TMPDIR [target/bench], deletes what
it wrote, and needs root. Exit 1: a bound was broken; 2: something that it needs is missing.""")
    options.add_argument("--runs", type=int, default=1, help="how often in a row [1]")
    options.add_argument("--only", type=names, default=list(SCENARIOS), help="scenarios, with commas [all]")
    options.add_argument("--seed", type=int, default=None, help="of the load's choices [the time; printed]")
    options.add_argument("--list", action="store_true", help="say what the scenarios are, and end")
    options.add_argument("--alerts", action="store_true",
                         help="scrape with a real Prometheus, and see that the alerts fire that should")
    options.add_argument("--verbose", action="store_true", help="say which errors clients were told")
    options.add_argument("--keep-logs", type=Path, help="copy the servers' logs to this directory at the end")
    return options


def list_scenarios():
    """Prints what each scenario is, and its bounds."""
    rows = [(scenario.name, scenario.at, f"{scenario.seconds:g}", f"{scenario.heals:g}", f"{scenario.longest:g}",
             scenario.means) for scenario in SCENARIOS]
    columns(("scenario", "at", "lasts (s)", "heals within (s)", "answers within (s)", "what happens"), rows)


def find_tools(options):
    """What the run needs, by name."""
    found, problems = needs.binaries()
    path = os.environ.get("PATH", "") + ":/usr/sbin:/sbin"
    for tool, package in (TOOLS | ({"prometheus": "prometheus"} if options.alerts else {})).items():
        found[tool] = shutil.which(tool, path=path)
        if not found[tool]:
            problems.append(f"missing {tool}: apt-get install {package}")
    found["tc"] = None
    if any(scenario.kind == "clock" for scenario in options.only) and not Path(FAKETIME).exists():
        problems.append(f"missing {FAKETIME}: apt-get install libfaketime, or leave out 'clock jumps'")
    if os.geteuid() != 0:
        problems.append("it makes network namespaces: run it as root")
    if problems:
        raise needs.Missing("\n".join(problems))
    return found


def row(result):
    """One line of the table."""
    healed = "never" if result.heals is None else f"{result.heals:.1f}"
    return (result.scenario.name, f"{result.downloads:.0f} + {result.lookups:.0f}", f"{result.during:.0f}",
            result.errors, result.own_errors, f"{result.longest:.1f}", f"{len(result.lost)} / {result.checked}",
            healed, "FAILED" if result.failures else "ok")


def run(options, tools, number):
    """One run of all scenarios; whether every bound was kept."""
    seed = options.seed if options.seed is not None else time.time_ns() % 1_000_000
    scene = Scene(tools, os.environ.get("TMPDIR", needs.ROOT / "target" / "bench"))
    results, began, load = [], time.monotonic(), None
    try:
        fleet = Fleet(scene)
        watch = Watch(fleet) if options.alerts else None
        load = Load(fleet, seed)
        for scenario in options.only:
            if sys.stderr.isatty():
                print(f"\r\033[K  run {number}: {scenario.name}", end="", file=sys.stderr, flush=True)
            results.append(play(fleet, load, scenario, watch))
        peaks = ", ".join(f"{name} {server.process.peak_bytes() >> 20}"
                          for name, server in fleet.processes().items())
    finally:
        if sys.stderr.isatty():
            print("\r\033[K", end="", file=sys.stderr, flush=True)
        if load:
            load.stopping.set()
        if options.keep_logs:
            keep_logs(scene, options.keep_logs)
        scene.close()
        if results:
            say(f"\nrun {number} of {options.runs}, seed {seed}: {time.monotonic() - began:.0f} s")
            columns(HEAD, [row(result) for result in results])
            if options.alerts:
                columns(("scenario", "alerts that had to fire", "that fired"),
                        [(result.scenario.name, short(result.scenario.alerts), short(result.alerts))
                         for result in results])
            tell(results, options.verbose)
    say(f"  peaks of memory (MiB): {peaks}")
    return all(not result.failures for result in results)


def short(alerts):
    """Names of alerts, without what they all begin with."""
    return ", ".join(alert.removeprefix("Vecino") for alert in alerts) or "-"


def tell(results, verbose):
    """What is wrong, and what clients were told."""
    for result in results:
        for failure in result.failures:
            say(f"  FAILED {result.scenario.name}: {failure}")
        if verbose or result.failures:
            for kind, count in result.kinds.most_common(8):
                say(f"    {result.scenario.name}: {count} x {kind}")


def keep_logs(scene, target):
    """Copies every log."""
    target.mkdir(parents=True, exist_ok=True)
    for process in scene.processes:
        if process.log.exists():
            shutil.copyfile(process.log, target / f"{process.log.parent.name}-{process.log.name}")


def interrupted(*_):
    """Ctrl-C, and what other signals ask it to end."""
    raise KeyboardInterrupt


def main():
    """Runs the command; its exit code."""
    options = parser().parse_args()
    if options.list:
        list_scenarios()
        return 0
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, interrupted)
    try:
        tools = find_tools(options)
        _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(OPEN_FILES, hard), hard))
        right = [run(options, tools, number + 1) for number in range(options.runs)]
        return 0 if all(right) else 1
    except needs.Missing as missing:
        print(f"faults: {missing}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("faults: interrupted", file=sys.stderr)
        return 130
