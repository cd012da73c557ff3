"""A steady load: on every host clients of its own peer that look up, download and share, as fast
as their pace allows, all the time.

Invariant: every byte that is received is checked against what was shared; what a client is told
is written down, whether it is an answer or an error; nothing is asked twice to hide one.
"""

import hashlib
import http.client
import json
import random
import threading
import time
from dataclasses import dataclass

from .fleet import File, made

# A client gives up an answer that is not whole by then: no bound of Vecino is longer.
HANG_SECONDS = 60
# Workers of each peer: what they do, and the pause between two requests.
WORKERS = (("download", 0.15), ("download", 0.15), ("lookup", 0.1), ("share", 0.5))
SHARED_BYTES = 8 << 10
CHUNK = 1 << 16


@dataclass(frozen=True)
class Told:
    """One request and what came of it."""

    at: float  # when it ended
    peer: str
    kind: str
    seconds: float
    error: str = ""
    wrong: bool = False
    remote: bool = False


class Load:
    """Runs until `stop`."""

    def __init__(self, fleet, seed):
        self.fleet, self.stopping = fleet, threading.Event()
        self.told = []
        self.shared = []  # when acknowledged, and what
        self.threads = []
        for name, peer in fleet.peers.items():
            for number, (kind, pause) in enumerate(WORKERS):
                rng = random.Random(f"{seed} {name} {number}")
                thread = threading.Thread(target=self.work, args=(peer, kind, pause, rng), daemon=True)
                self.threads.append(thread)
                thread.start()

    def stop(self):
        """Ends it, and waits for what is under way."""
        self.stopping.set()
        for thread in self.threads:
            thread.join(HANG_SECONDS + 5)

    def between(self, start, end):
        """What ended in that time."""
        return [told for told in self.told if start <= told.at < end]

    def work(self, peer, kind, pause, rng):
        """One client."""
        peer.host.enter()
        connection = None
        while not self.stopping.is_set():
            began = time.monotonic()
            error, wrong, remote = "", False, False
            try:
                if connection is None:
                    connection = http.client.HTTPConnection("127.0.0.1", peer.port, timeout=HANG_SECONDS)
                    connection.connect()
                wrong, remote = getattr(self, kind)(peer, connection, rng, began + HANG_SECONDS)
            except (OSError, http.client.HTTPException, ValueError) as reason:
                error = str(reason) if isinstance(reason, Refused) else f"{type(reason).__name__} {reason}"
                if not isinstance(reason, Refused):
                    connection.close()
                    connection = None
            now = time.monotonic()
            self.told.append(Told(now, peer.name, kind, now - began, error, wrong, remote))
            # Who fails does not ask faster for it.
            self.stopping.wait(pause * rng.uniform(0.5, 1.5))
        if connection:
            connection.close()

    def download(self, _, connection, rng, deadline):
        """Any file, by its name."""
        file = rng.choice(self.fleet.files)
        connection.request("GET", file.path())
        answer = connection.getresponse()
        refuse(answer, (200,))
        hashed, size = hashlib.sha256(), 0
        while data := answer.read(CHUNK):
            hashed.update(data)
            size += len(data)
            if time.monotonic() > deadline:
                raise TimeoutError("the download does not end")
        if size != file.size:
            raise ValueError(f"{size} of {file.size} bytes came")
        is_remote = answer.getheader("vecino-source", "local") != "local"
        return hashed.digest() != file.sha256, is_remote

    def lookup(self, _, connection, rng, __):
        """Who holds a file."""
        file = rng.choice(self.fleet.files)
        connection.request("GET", file.path().replace("/v1/files/", "/v1/locate/", 1))
        answer = connection.getresponse()
        refuse(answer, (200,))
        variants = json.loads(answer.read())["variants"]
        return len(variants) != 1 or variants[0]["size"] != file.size, True

    def share(self, peer, connection, rng, _):
        """Shares a new file; acknowledged, it must never be lost."""
        name = f"put/{peer.name}/{rng.getrandbits(64):016x}.bin"
        data = made(name, SHARED_BYTES)
        file = File(name, len(data), hashlib.sha256(data).digest(), (peer.name,))
        connection.request("PUT", file.path(), data)
        answer = connection.getresponse()
        refuse(answer, (201,))
        answer.read()
        self.shared.append((time.monotonic(), file))
        return False, False


class Refused(ValueError):
    """An answer that is an error; the connection is as good as before."""


def refuse(answer, good):
    """Raises what an answer says, unless its status is one of these."""
    if answer.status in good:
        return
    body = answer.read()
    try:
        kind = json.loads(body).get("type", "").rsplit(":", 1)[-1]
    except ValueError:
        kind = ""
    raise Refused(f"{answer.status} {kind}")
