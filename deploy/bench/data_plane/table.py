"""Medians of interleaved runs, and their tables.

Invariant: contestants take turns, each run beginning with another of them, so that whatever else
the machine does falls on all alike.
"""

import statistics
import sys
import time
from dataclasses import dataclass, field

GIB = 1 << 30
PROBE_SECONDS = 0.5


@dataclass
class Sample:
    """One run of one contestant."""

    seconds: float
    cpu: dict = field(default_factory=dict)  # process: CPU seconds
    peak: dict = field(default_factory=dict)  # process: bytes
    notes: dict = field(default_factory=dict)


@dataclass
class Result:
    """All runs of one contestant."""

    name: str
    samples: list

    def seconds(self):
        """The median time."""
        return statistics.median(sample.seconds for sample in self.samples)

    def cpu(self, process):
        """Median CPU seconds of one process."""
        return statistics.median(sample.cpu.get(process, 0.0) for sample in self.samples)

    def processes(self):
        """Names of the processes that were measured, in order."""
        return list(dict.fromkeys(name for sample in self.samples for name in sample.cpu))

    def peaks(self):
        """The highest peak of each process."""
        peaks = {}
        for sample in self.samples:
            for name, size in sample.peak.items():
                peaks[name] = max(peaks.get(name, 0), size)
        return peaks


def say(text=""):
    """One line to standard output, at once."""
    print(text, flush=True)


class Results(dict):
    """Results by name of the contestant, and how busy others kept the CPUs meanwhile."""

    company = 0.0


class Meter:
    """How much of the CPUs is busy from now on, with whatever."""

    def __init__(self):
        self.before, self.idle_before = self.ticks()

    @staticmethod
    def ticks():
        """Ticks of all CPUs so far: all of them, and those idle or waiting for the disk."""
        with open("/proc/stat", encoding="ascii") as file:
            ticks = [int(word) for word in file.readline().split()[1:9]]
        return sum(ticks), ticks[3] + ticks[4]

    def busy(self):
        """The busy part until now."""
        after, idle = self.ticks()
        return 1 - (idle - self.idle_before) / max(after - self.before, 1)


def others_busy():
    """The part of the CPUs that is busy while everything of ours rests."""
    meter = Meter()
    time.sleep(PROBE_SECONDS)
    return meter.busy()


def interleave(contestants, runs, tell=True):
    """Runs each of `contestants` (name: function that makes one sample) `runs` times, in turns."""
    names = list(contestants)
    results = Results((name, Result(name, [])) for name in names)
    company = [others_busy()]
    for run in range(runs):
        for turn in range(len(names)):
            name = names[(turn + run) % len(names)]
            if tell and sys.stderr.isatty():
                print(f"\r\033[K  run {run + 1} of {runs}: {name}", end="", file=sys.stderr, flush=True)
            results[name].samples.append(contestants[name]())
        company.append(others_busy())
    results.company = statistics.median(company)
    if tell and sys.stderr.isatty():
        print("\r\033[K", end="", file=sys.stderr, flush=True)
    return results


def columns(head, rows):
    """Prints rows of text under `head`, the first column to the left, the others to the right."""
    widths = [max(len(str(row[i])) for row in [head, *rows]) for i in range(len(head))]
    for row in [head, *rows]:
        cells = [str(cell).ljust(w) if i == 0 else str(cell).rjust(w)
                 for i, (cell, w) in enumerate(zip(row, widths))]
        say("  " + "  ".join(cells).rstrip())


def heading(title, results):
    """What a table shows, and under what conditions."""
    runs = max(len(result.samples) for result in results.values())
    say(f"\n{title} (runs: {runs}; others kept {results.company:.0%} of the CPUs busy)")


def throughput(title, results, size, base):
    """A table of time, rate, ratio of the rate to that of `base`, and CPU a GiB."""
    heading(title, results)
    rows = []
    for result in results.values():
        seconds = result.seconds()
        each = [sample.seconds for sample in result.samples]
        cpu = ", ".join(f"{name} {result.cpu(name) * GIB / size:.2f}" for name in result.processes())
        rows.append((result.name, f"{seconds:.3f}", f"{min(each):.3f}-{max(each):.3f}",
                     f"{size / seconds / 1e6:.0f}", f"{results[base].seconds() / seconds:.2f}", cpu))
    columns(("", "s", "min-max", "MB/s", f"rate / {base}", "CPU-s/GiB"), rows)


def goal(text, value, bound, at_least):
    """One line that says whether a goal is met."""
    met = value >= bound if at_least else value <= bound
    word = "at least" if at_least else "at most"
    say(f"  {'met   ' if met else 'MISSED'} {text}: {value:.2f} ({word} {bound})")
