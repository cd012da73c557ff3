"""What can go wrong: each kind of fault begins and ends, and leaves nothing behind.

Invariant: only what this run started is signalled or limited, and only links of its own network
are touched.
"""

import email.utils
import errno
import os
import resource
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

from data_plane.peer import Peer
from data_plane.scene import eventually

from .fleet import METRICS_PORT, made

HERE = Path(__file__).resolve().parent
PROXIES = {"trickle": HERE / "trickle.py", "liar": HERE.parent / "data_plane" / "liar.py"}
OVERLAY_PORT = 51080
DAY = 86_400
FAKETIME = "/usr/lib/x86_64-linux-gnu/faketime/libfaketimeMT.so.1"


class Fault:
    """A fault at one server, `at`; `options` as the scenario gives them."""

    def __init__(self, fleet, at, **options):
        self.fleet, self.at, self.options = fleet, at, options
        self.server = fleet.processes().get(at)

    def prepare(self):
        """What must be so before the load is measured."""

    def begin(self):
        """From now on something is wrong."""
        raise NotImplementedError

    def end(self):
        """From now on nothing is wrong any more."""
        raise NotImplementedError

    def tidy(self):
        """Takes back what `prepare` did."""

    def doubt(self):
        """Why it may not have happened at all; nothing if it surely has."""
        return None

    def restart(self, *names):
        """Ends servers in order and starts them again, as they are set now."""
        for name in names:
            server = self.fleet.processes()[name]
            self.fleet.scene.end(server.process)
            server.start()
        for name in names:
            if name != "locator":
                self.fleet.peers[name].await_ready()


class Killed(Fault):
    """Killed at once, as by a power failure, and started again."""

    def begin(self):
        self.server.process.kill()

    def end(self):
        self.server.start()


class KilledWithLinks(Killed):
    """As Killed, where every peer can also look up by flood."""

    def prepare(self):
        seeds = ",".join(f"{peer.address}:{OVERLAY_PORT}" for peer in self.fleet.peers.values())
        links = {"LOCATE_BY": "central,flood", "OVERLAY_PORT": OVERLAY_PORT, "OVERLAY_SEEDS": seeds}
        self.set(lambda settings: settings | links)

    def tidy(self):
        added = {"LOCATE_BY", "OVERLAY_PORT", "OVERLAY_SEEDS"}
        self.set(lambda settings: {key: value for key, value in settings.items() if key not in added})

    def set(self, changed):
        """Restarts every peer with changed settings."""
        for peer in self.fleet.peers.values():
            peer.settings = changed(peer.settings)
        self.restart(*self.fleet.peers)


class Stopped(Fault):
    """Stopped: its connections stay, nothing answers."""

    def begin(self):
        os.kill(self.server.process.pid, signal.SIGSTOP)

    def end(self):
        os.kill(self.server.process.pid, signal.SIGCONT)


class Cut(Fault):
    """Its cable passes nothing, or (`only="out"`, `"in"`) nothing one way."""

    def nft(self, rules):
        """Runs rules on the switch."""
        network = self.fleet.network
        subprocess.run([network.ip, "netns", "exec", network.switch, self.fleet.scene.tools["nft"], "-f", "-"],
                       input=rules, text=True, capture_output=True, check=True)

    def begin(self):
        port, only = self.server.host.port, self.options.get("only")
        rules = "table bridge faults {\n chain forward {\n  type filter hook forward priority 0;\n"
        rules += f'  iifname "{port}" drop\n' if only != "in" else ""
        rules += f'  oifname "{port}" drop\n' if only != "out" else ""
        self.nft(rules + " }\n}\n")

    def end(self):
        self.nft("delete table bridge faults\n")


class BadLink(Fault):
    """Its link loses frames, is late on the way out, and lets some overtake others."""

    def begin(self):
        network, host = self.fleet.network, self.server.host
        directory = self.fleet.scene.directory("wire")
        self.wire = self.fleet.scene.start("wire", [
            sys.executable, HERE / "wire.py", f"{host.namespace}:wire0", f"{network.switch}:wire0",
            self.options["loss"], self.options["delay"], self.options["reorder"], "1",
        ], directory)
        eventually("the bad link is there", lambda: b"up" in self.wire.log.read_bytes())
        there = ("-n", host.namespace)
        network.run(*there, "link", "set", "wire0", "address", self.mac(host))
        network.run(*there, "addr", "add", f"{host.address}/16", "dev", "wire0")
        network.run("-n", network.switch, "link", "set", "wire0", "master", "switch", "up")
        network.run("-n", network.switch, "link", "set", host.port, "down")
        network.run(*there, "link", "set", "wire0", "up")
        # The address stays on both, so that no connection ever is without it.
        network.run(*there, "link", "set", "eth0", "down")

    def mac(self, host):
        """The address of its card."""
        shown = subprocess.run([self.fleet.network.ip, "-n", host.namespace, "-o", "link", "show", "eth0"],
                               capture_output=True, text=True, check=True).stdout
        return shown.split("link/ether ", 1)[1].split()[0]

    def end(self):
        network, host = self.fleet.network, self.server.host
        network.run("-n", host.namespace, "link", "set", "eth0", "up")
        network.run("-n", network.switch, "link", "set", host.port, "up")
        self.fleet.scene.end(self.wire)


class BadProvider(Fault):
    """One more peer that has every file, behind a proxy that lets one byte a second through
    (`proxy="trickle"`) or spoils what passes (`"liar"`)."""

    def begin(self):
        self.wrong = self.wrong_pieces()
        scene, host = self.fleet.scene, self.fleet.network.host("extra")
        neighbour = self.fleet.peers["peer1"].endpoint()
        self.peer = Peer(scene, "extra", self.fleet.locator, host, port=8080, neighbour=neighbour,
                         public=f"http://{host.address}:80")
        for file in self.fleet.files:
            path = self.peer.shared / file.name
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(made(file.name, file.size))
        self.proxy = scene.start("proxy", [
            sys.executable, PROXIES[self.options["proxy"]], f"{host.address}:80", f"127.0.0.1:{self.peer.port}",
        ], scene.directory("proxy"), host=host)
        self.peer.start().await_ready().await_announced()

    def end(self):
        self.fleet.scene.end(self.peer.process, self.proxy)
        self.fleet.scene.delete(self.peer.directory)

    def wrong_pieces(self):
        """How many pieces the peers found to be wrong so far."""
        return sum(float(line.rsplit(" ", 1)[1]) for peer in self.fleet.peers.values()
                   for line in peer.ask("GET", "/metrics")[2].decode().splitlines()
                   if line.startswith("vecino_verification_failures_total{"))

    def doubt(self):
        if self.options["proxy"] == "liar":
            return None if self.wrong_pieces() > self.wrong else "nobody asked the liar"
        return None if b"asked for bytes" in self.proxy.log.read_bytes() else "nobody asked the slow provider"


class SlowReaders(Fault):
    """Clients of its own that ask for large files and read next to nothing."""

    def begin(self):
        large = [file for file in self.fleet.files if file.size > 1 << 20]
        self.sockets = []
        for number in range(self.options["count"]):
            reader = self.server.host.connect("127.0.0.1", self.server.port, 10)
            reader.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            path = large[number % len(large)].path()
            reader.sendall(f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n".encode())
            self.sockets.append(reader)
        self.ended = threading.Event()
        self.thread = threading.Thread(target=self.read, daemon=True)
        self.thread.start()

    def read(self):
        """Reads 100 bytes of each, every half second."""
        while not self.ended.wait(0.5):
            for reader in self.sockets:
                reader.recv(100)

    def end(self):
        self.ended.set()
        self.thread.join()
        for reader in self.sockets:
            reader.close()


class FullDisk(Fault):
    """Not a byte is left on its disk."""

    def begin(self):
        self.file = Path(self.server.directory) / "other-people-s-data"
        with open(self.file, "wb") as file:
            size = 0
            # Others write meanwhile: whatever is free at the end is less than a page.
            for step in (1 << 20, 4096):
                try:
                    while True:
                        os.posix_fallocate(file.fileno(), size, step)
                        size += step
                except OSError as error:
                    if error.errno != errno.ENOSPC:
                        raise

    def end(self):
        self.file.unlink()


class FullLocator(FullDisk):
    """The same at the locator, while more is announced than its store has room for."""

    def begin(self):
        super().begin()
        self.new = self.fleet.peers["peer1"].shared / "new"
        self.new.mkdir()
        for number in range(self.options["files"]):
            (self.new / f"{number}.txt").write_text(f"{number}\n")

    def end(self):
        self.was_failing = not self.is_ready()
        super().end()

    def is_ready(self):
        """Whether the locator says that it takes changes."""
        try:
            return self.fleet.peers["peer2"].host.get(f"http://{self.server.host.address}:{METRICS_PORT}/readyz")
        except OSError:
            return False

    def doubt(self):
        if not self.was_failing:
            return "the locator's store had room for everything"
        return None if self.is_ready() else "the locator takes no changes, though its disk has room again"

    def tidy(self):
        shutil.rmtree(self.new)


class NoFiles(Fault):
    """It may open no further file, and so accept nobody."""

    def begin(self):
        pid = self.server.process.pid
        self.before = resource.prlimit(pid, resource.RLIMIT_NOFILE)
        now = len(os.listdir(f"/proc/{pid}/fd"))
        resource.prlimit(pid, resource.RLIMIT_NOFILE, (now, self.before[1]))

    def end(self):
        resource.prlimit(self.server.process.pid, resource.RLIMIT_NOFILE, self.before)


class ClockJump(Fault):
    """The clock of two servers is a day ahead, then a day behind, then right again."""

    def prepare(self):
        self.clock = self.fleet.scene.directory("clock") / "offset"
        self.set("+0")
        for name in (self.at, self.options["also"]):
            self.fleet.processes()[name].settings |= {
                "LD_PRELOAD": FAKETIME, "FAKETIME_TIMESTAMP_FILE": self.clock, "FAKETIME_NO_CACHE": 1,
                # Nobody's monotonic clock jumps.
                "FAKETIME_DONT_FAKE_MONOTONIC": 1, "DONT_FAKE_MONOTONIC": 1,
            }
        self.restart(self.at, self.options["also"])

    def set(self, offset):
        """Sets the clocks by so much."""
        new = self.clock.with_suffix(".new")
        new.write_text(offset + "\n")
        new.rename(self.clock)

    def begin(self):
        self.dates = []
        self.set("+1d")
        self.timer = threading.Timer(self.options["each"], self.turn)
        self.timer.daemon = True
        self.timer.start()

    def turn(self):
        """From a day ahead to a day behind."""
        self.dates.append(self.dated())
        self.set("-1d")

    def dated(self):
        """What time the peer believes it is, as the head of an answer tells."""
        peer = self.fleet.peers[self.options["also"]]
        return peer.ask("GET", "/healthz")[1].get("Date", "")

    def end(self):
        self.timer.join()
        self.dates.append(self.dated())
        self.set("+0")

    def doubt(self):
        off = [email.utils.parsedate_to_datetime(date).timestamp() - time.time() for date in self.dates]
        jumped = len(off) == 2 and off[0] > DAY / 2 and off[1] < -DAY / 2
        return None if jumped else f"the clock did not jump: {self.dates}"

    def tidy(self):
        for name in (self.at, self.options["also"]):
            server = self.fleet.processes()[name]
            server.settings = {key: value for key, value in server.settings.items()
                               if "FAKE" not in key and key != "LD_PRELOAD"}
        self.restart(self.at, self.options["also"])


class MuteNeighbour(Fault):
    """The first neighbour of a peer begins to accept, and never answers."""

    def prepare(self):
        self.host = self.fleet.network.host("extra")
        self.before = self.server.neighbour
        self.server.neighbour = f"{self.host.address}:80,{self.before}"
        self.restart(self.at)

    def begin(self):
        self.listener = self.host.here(lambda: socket.create_server((self.host.address, 80), backlog=256))
        self.accepted = []
        self.thread = threading.Thread(target=self.accept, daemon=True)
        self.thread.start()

    def accept(self):
        """Accepts, and no more."""
        try:
            while True:
                self.accepted.append(self.listener.accept()[0])
        except OSError:
            pass

    def end(self):
        self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()
        self.thread.join()
        for connection in self.accepted:
            connection.close()

    def doubt(self):
        return None if self.accepted else "nobody asked the mute neighbour"

    def tidy(self):
        self.server.neighbour = self.before
        self.restart(self.at)


class IdleConnections(Fault):
    """Connections that say nothing, to a peer and to the locator."""

    def begin(self):
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        count = self.options["count"]
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 4 * count), hard))
        host, locator = self.fleet.network.host("extra"), self.fleet.locator.host
        self.sockets = []

        def connect():
            host.enter()
            for address, port in ((self.server.address, self.server.port), (locator.address, 51015)):
                for _ in range(count):
                    idle = socket.socket()
                    idle.setblocking(False)
                    idle.connect_ex((address, port))
                    self.sockets.append(idle)
                    # A burst is not what is meant: the listen queue of the system is short.
                    time.sleep(0.0005)
        thread = threading.Thread(target=connect)
        thread.start()
        thread.join()
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))

    def end(self):
        self.connected = sum(1 for idle in self.sockets if self.is_connected(idle))
        for idle in self.sockets:
            idle.close()

    @staticmethod
    def is_connected(idle):
        """Whether somebody took it, even if it was closed again since."""
        try:
            idle.getpeername()
            return True
        except OSError:
            return False

    def doubt(self):
        wanted = 2 * self.options["count"]
        return None if self.connected >= wanted * 0.9 else f"only {self.connected} of {wanted} connections were made"


KINDS = {
    "killed": Killed,
    "stopped": Stopped,
    "cut": Cut,
    "bad link": BadLink,
    "killed with links": KilledWithLinks,
    "bad provider": BadProvider,
    "slow readers": SlowReaders,
    "full disk": FullDisk,
    "full locator": FullLocator,
    "no files": NoFiles,
    "clock": ClockJump,
    "mute neighbour": MuteNeighbour,
    "idle": IdleConnections,
}
