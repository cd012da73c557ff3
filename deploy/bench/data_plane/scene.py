"""Where a run takes place: a temporary directory and the processes that were started in it.

Invariant: whatever was started or written here is gone after `close`, also after Ctrl-C;
processes are ended by their id, never by a name.
"""

import itertools
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import threading
import time
import urllib.request
from pathlib import Path

STARTS_WITHIN_SECONDS = 60
ENDS_WITHIN_SECONDS = 10
CHUNK = 1 << 20


def eventually(what, condition, within=STARTS_WITHIN_SECONDS, every=0.02):
    """Waits until `condition()` gives something true, and returns that."""
    deadline = time.monotonic() + within
    while True:
        try:
            value = condition()
        except OSError:
            value = None
        if value:
            return value
        if time.monotonic() > deadline:
            raise TimeoutError(f"{what}: not within {within} s")
        time.sleep(every)


class Process:
    """A process that runs until `end`; its output is in `log`."""

    def __init__(self, name, arguments, directory, log, env=None, host=None):
        self.name, self.log = name, log
        prefix = host.prefix() if host else []
        with open(log, "ab") as output:
            self.child = subprocess.Popen(
                prefix + [str(part) for part in arguments],
                cwd=directory, env=env, stdin=subprocess.DEVNULL, stdout=output, stderr=output,
                start_new_session=True,
            )
        self.pid = self.child.pid

    def family(self):
        """Its process id and those of its children (nginx has workers)."""
        pids = [self.pid]
        for entry in os.listdir("/proc"):
            if entry.isdigit():
                try:
                    stat = Path(f"/proc/{entry}/stat").read_text()
                except OSError:
                    continue
                if int(stat.rsplit(")", 1)[1].split()[1]) == self.pid:
                    pids.append(int(entry))
        return pids

    def cpu_seconds(self):
        """User and system time of it and its living children so far."""
        # The process's CPU clock (clock_getcpuclockid(3)): utime + stime, but in nanoseconds.
        return sum(time.clock_gettime((~pid << 3) | 2) for pid in self.family())

    def peak_bytes(self):
        """The most memory that it ever had resident."""
        try:
            lines = Path(f"/proc/{self.pid}/status").read_text().splitlines()
        except OSError:
            return 0
        peak = [line for line in lines if line.startswith("VmHWM")]
        return int(peak[0].split()[1]) * 1024 if peak else 0

    def kill(self):
        """Ends it as a power failure would."""
        self.child.kill()
        self.child.wait()

    def end(self):
        """Ends it, in order if it can."""
        if self.child.poll() is not None:
            return
        self.child.terminate()
        # One that is stopped would not see that.
        os.kill(self.pid, signal.SIGCONT)
        try:
            self.child.wait(ENDS_WITHIN_SECONDS)
        except subprocess.TimeoutExpired:
            os.killpg(self.pid, signal.SIGKILL)
            self.child.wait()


class Scene:
    """The temporary directory and everything that runs in it."""

    def __init__(self, tools, parent):
        self.tools = tools
        os.makedirs(parent, exist_ok=True)
        self.root = Path(tempfile.mkdtemp(prefix="data-plane.", dir=parent))
        self.processes, self.closers, self.closed = [], [], False
        self.numbers = itertools.count(1)

    def directory(self, name):
        """A new empty directory whose name begins with `name`."""
        path = self.root / f"{name}.{next(self.numbers)}"
        path.mkdir()
        return path

    def start(self, name, arguments, directory, env=None, host=None):
        """Starts a process that `close` ends at the latest."""
        if self.closed:
            raise RuntimeError("the run is over")
        process = Process(name, arguments, directory, directory / f"{name}.log", env, host)
        self.processes.append(process)
        return process

    def end(self, *processes):
        """Ends these now."""
        for process in processes:
            if process.child.poll() is None:
                process.child.terminate()
        for process in processes:
            process.end()
            self.processes = [other for other in self.processes if other is not process]

    def delete(self, *directories):
        """Deletes these now; they are large."""
        for directory in directories:
            shutil.rmtree(directory, ignore_errors=True)

    def close(self):
        """Ends and deletes everything, whatever is signalled meanwhile."""
        numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
        before = [signal.signal(number, signal.SIG_IGN) for number in numbers]
        self.closed = True
        self.end(*reversed(self.processes))
        for closer in reversed(self.closers):
            closer()
        shutil.rmtree(self.root, ignore_errors=True)
        for number, handler in zip(numbers, before):
            signal.signal(number, handler)


def finished(arguments, directory=None, host=None, within=1800):
    """Runs a command to its end: seconds, CPU seconds of it and its children; it must succeed."""
    prefix = host.prefix() if host else []
    with tempfile.TemporaryFile() as output:
        began = time.monotonic()
        child = subprocess.Popen(
            prefix + [str(part) for part in arguments], cwd=directory,
            stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True,
        )
        killer = threading.Timer(within, child.kill)
        killer.start()
        try:
            _, status, usage = os.wait4(child.pid, 0)
        except BaseException:
            child.kill()
            child.wait()
            raise
        finally:
            killer.cancel()
        seconds = time.monotonic() - began
        child.returncode = os.waitstatus_to_exitcode(status)
        if child.returncode:
            output.seek(0)
            tail = output.read()[-800:].decode(errors="replace")
            raise RuntimeError(f"{' '.join(map(str, arguments))}: exit {child.returncode}\n{tail}")
    return seconds, usage.ru_utime + usage.ru_stime


def free_port():
    """A port on loopback that nobody listens on."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def reads(url):
    """What `url` answers with 200, or nothing."""
    with urllib.request.urlopen(url, timeout=5) as answer:
        return answer.read() or b"."


def random_file(path, size):
    """A file of `size` bytes that no compression or deduplication can shorten, in the page cache."""
    with open(path, "wb") as out:
        for start in range(0, size, CHUNK):
            out.write(os.urandom(min(CHUNK, size - start)))
    os.chmod(path, 0o644)
    # Written back now: what is dirty would be written in the middle of a measurement.
    subprocess.run(["sync", str(path)], check=True)
    warm(path)
    return path


def warm(path):
    """Reads a file once, so that it is in the page cache."""
    with open(path, "rb") as file:
        while file.read(CHUNK):
            pass


def same_bytes(one, other):
    """Whether two files hold the same bytes."""
    with open(one, "rb") as left, open(other, "rb") as right:
        while True:
            a, b = left.read(CHUNK), right.read(CHUNK)
            if a != b:
                return False
            if not a:
                return True
