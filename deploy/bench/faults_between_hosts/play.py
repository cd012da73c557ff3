"""One scenario from its load before to the last file found again.

Invariant: a scenario passes only when the load before it was worth something, the fault surely
happened, nothing is lost, nobody died, and every bound that it names was kept.
"""

import collections
import http.client
import time
from dataclasses import dataclass, field

from data_plane.scene import eventually

from .faults import KINDS
from .load import HANG_SECONDS

BEFORE_SECONDS = 2.5
# Less than that before the fault proves nothing, a second, of all peers together.
LEAST_DOWNLOADS, LEAST_LOOKUPS = 4, 8
# It is healed when nobody was told of an error for so long.
CALM_SECONDS = 1.5
# What was shared a moment ago need not be known everywhere yet: a neighbour remembers for a second
# that nobody has it.
SETTLED_SECONDS = 2.5
PEAK_BYTES = 512 << 20


@dataclass
class Result:
    """What came of one scenario."""

    scenario: object
    downloads: float = 0  # from other peers, a second, before the fault
    lookups: float = 0
    during: float = 0  # requests a second that were answered well while it lasted
    errors: int = 0  # told to clients of peers that do not suffer
    own_errors: int = 0  # told to clients of those that do
    kinds: collections.Counter = field(default_factory=collections.Counter)
    lost: list = field(default_factory=list)
    checked: int = 0
    longest: float = 0
    heals: float = None
    failures: list = field(default_factory=list)
    alerts: list = field(default_factory=list)


def play(fleet, load, scenario, watch=None):
    """Plays `scenario` under `load`; `watch`, where there is one, says which alerts fired."""
    result = Result(scenario)
    try:
        scenes(result, fleet, load, watch)
    except (OSError, RuntimeError, TimeoutError) as error:
        result.failures.append(f"could not be played to its end: {type(error).__name__} {error}")
    return result


def scenes(result, fleet, load, watch):
    """One after the other: before, the fault, healing, what is there at the end."""
    scenario = result.scenario
    fault = KINDS[scenario.kind](fleet, scenario.at, **scenario.options)
    fault.prepare()
    eventually("the fleet is whole", lambda: not trouble(fleet, load), within=30, every=0.2)
    # A client whose peer was started again for this scenario learns it by its next request.
    time.sleep(CALM_SECONDS)
    if watch:
        watch.await_calm(scenario)
    start = time.monotonic()
    time.sleep(BEFORE_SECONDS)
    began, began_at = time.monotonic(), time.time()
    measure_before(result, load.between(start, began), fleet)
    fault.begin()
    time.sleep(max(began + scenario.seconds - time.monotonic(), 0))
    fault.end()
    ended = time.monotonic()
    heal(result, fleet, load, ended)
    over = time.monotonic()
    measure(result, load.between(began, over), load.between(began, ended), ended - began)
    if doubt := fault.doubt():
        result.failures.append(doubt)
    settle(result, fleet, load)
    if watch:
        watch.judge(result, began_at)
    fault.tidy()


def trouble(fleet, load):
    """What is wrong with the fleet now, if anything."""
    known = time.monotonic() - SETTLED_SECONDS
    files = fleet.files + [file for at, file in load.shared if at < known]
    try:
        return fleet.missing(files)
    except (OSError, http.client.HTTPException) as error:
        return f"{type(error).__name__} {error}"


def measure_before(result, told, fleet):
    """Whether there was enough load to lose something."""
    good = [one for one in told if not one.error]
    result.downloads = sum(one.remote for one in good if one.kind == "download") / BEFORE_SECONDS
    result.lookups = sum(one.kind == "lookup" for one in good) / BEFORE_SECONDS
    idle = set(fleet.peers) - {one.peer for one in good}
    if result.downloads < LEAST_DOWNLOADS or result.lookups < LEAST_LOOKUPS or idle:
        result.failures.append(
            f"too little load before: {result.downloads:.1f} downloads and {result.lookups:.1f} lookups a second, "
            f"nothing at {', '.join(sorted(idle)) or 'no peer'}")
    if errors := collections.Counter(one.error for one in told if one.error):
        result.failures.append(f"errors before the fault: {dict(errors)}")


def heal(result, fleet, load, ended):
    """Waits until all is well: seconds since the fault's end, or nothing when that takes too long."""
    right, last = None, None
    while time.monotonic() < ended + result.scenario.heals + CALM_SECONDS:
        last = trouble(fleet, load)
        right = (right or time.monotonic()) if last is None else None
        errors = [one.at for one in load.between(ended, time.monotonic()) if one.error]
        calm = max([right or 0, ended, *errors])
        if right and time.monotonic() - calm >= CALM_SECONDS:
            result.heals = calm - ended
            return
        time.sleep(0.1)
    result.failures.append(f"not healed within {result.scenario.heals} s: {last or 'right, but not for long enough'}")


def measure(result, told, during, seconds):
    """What clients were told from the fault's beginning on."""
    scenario, wrong = result.scenario, collections.Counter()
    for one in told:
        suffers = one.peer in scenario.suffers
        if one.error:
            result.kinds[f"{one.kind} at {one.peer}: {one.error}"] += 1
            result.errors += not suffers
            result.own_errors += suffers
        wrong["denied a file that is shared"] += one.error.startswith("404")
        wrong["gave wrong bytes or a wrong answer"] += one.wrong
        wrong["hung"] += one.seconds >= HANG_SECONDS
        if one.peer != scenario.at or not suffers:
            result.longest = max(result.longest, one.seconds)
    result.failures += [f"{count} requests {what}" for what, count in wrong.items() if count]
    result.during = sum(not one.error for one in during) / seconds
    if result.errors:
        result.failures.append(f"{result.errors} errors at peers that should not suffer")
    if result.longest > scenario.longest:
        result.failures.append(f"an answer took {result.longest:.1f} s, more than {scenario.longest}")


def settle(result, fleet, load):
    """Looks for everything that was shared and acknowledged, and deletes what the load added."""
    shared, load.shared = load.shared, []
    time.sleep(SETTLED_SECONDS)
    files = fleet.files + [file for _, file in shared]
    result.checked = len(files)
    result.lost = fleet.lost(files)
    if result.lost:
        # What is late is not lost.
        time.sleep(SETTLED_SECONDS)
        result.lost = fleet.lost(files)
    fleet.forget([file for _, file in shared])
    if result.lost:
        result.failures.append(f"lost: {'; '.join(result.lost[:5])}")
    if dead := fleet.dead():
        result.failures.append(f"ended by themselves: {', '.join(dead)}")
    for name, server in fleet.processes().items():
        if (peak := server.process.peak_bytes()) > PEAK_BYTES:
            result.failures.append(f"{name} took {peak >> 20} MiB of memory")
