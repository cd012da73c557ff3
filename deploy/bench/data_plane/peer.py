"""Vecino's processes: the locator and peers, and what is asked of a peer by REST.

Invariant: every peer has directories of its own, empty but for what it shares.
"""

import http.client
import json
import os
import shutil
import time
import urllib.parse

from .scene import eventually, free_port

REQUEST_WITHIN_SECONDS = 120
LOG = os.environ.get("RUST_LOG", "info")


def environment(**settings):
    """The environment of a server: these settings and nothing else."""
    kept = {"PATH": os.environ.get("PATH", ""), "RUST_LOG": LOG}
    return kept | {name: str(value) for name, value in settings.items()}


class Locator:
    """A `central-server`, running from the start; `prepare` gets its directory before."""

    def __init__(self, scene, host=None, prepare=None, **settings):
        self.scene, self.name, self.host = scene, "locator", host
        self.address = f"{host.address if host else '127.0.0.1'}:{51015 if host else free_port()}"
        self.directory = scene.directory("locator")
        self.settings = {"HOST": self.address, "METRICS_ADDR": "off"} | settings
        self.process = None
        if prepare:
            prepare(self.directory)
        self.start()

    def start(self):
        """Starts it, again if it has ended; it listens when this returns."""
        log = self.directory / "locator.log"
        said = log.stat().st_size if log.exists() else 0
        self.process = self.scene.start(
            "locator", [self.scene.tools["central-server"]], self.directory,
            environment(**self.settings), self.host)

        def listens():
            if self.process.child.poll() is not None:
                raise RuntimeError(f"the locator ended:\n{self.process.log.read_text()[-800:]}")
            return b"listening on" in self.process.log.read_bytes()[said:]
        eventually("the locator listens", listens)


class Peer:
    """A running `pserver`."""

    def __init__(self, scene, name, locator, host=None, port=None, neighbour=None, public=None, **settings):
        self.scene, self.name, self.host = scene, name, host
        self.address = host.address if host else "127.0.0.1"
        self.port = port or (80 if host else free_port())
        self.directory = scene.directory(name.replace(" ", "-"))
        self.shared, self.fetched = self.directory / "shared", self.directory / "downloads"
        self.shared.mkdir()
        self.locator, self.neighbour, self.public = locator, neighbour, public
        self.settings, self.process = settings, None

    def endpoint(self):
        """`host:port` of its REST."""
        return f"{self.address}:{self.port}"

    def url(self, path):
        """A URL on it."""
        return f"http://{self.endpoint()}{path}"

    def share(self, path, name=None):
        """Shares a file, without copying it where that is possible. Before `start`."""
        target = self.shared / (name or path.name)
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            os.link(path, target)
        except OSError:
            shutil.copyfile(path, target)

    def start(self):
        """Starts it; `await_ready` waits for it."""
        settings = {
            "URL_Request": self.locator.address, "PORT": self.port, "BIND": self.address,
            "PUBLIC_URL": self.public or f"http://{self.endpoint()}",
        }
        if self.neighbour:
            settings["URL_PEERSU"] = self.neighbour
        if self.host:
            # Clients that change something must come from loopback.
            settings["BIND"] = "0.0.0.0"
        self.process = self.scene.start(
            "pserver", [self.scene.tools["pserver"]], self.directory,
            environment(**(settings | self.settings)), self.host)
        return self

    def await_ready(self):
        """Waits until it serves."""
        def ready():
            if self.process.child.poll() is not None:
                tail = self.process.log.read_text()[-800:]
                raise RuntimeError(f"{self.name} ended:\n{tail}")
            return self.ask("GET", "/readyz", quiet=True)[0] == 200
        eventually(f"{self.name} is ready", ready)
        return self

    def await_announced(self):
        """Waits until the locator knows of everything that it shares."""
        def announced():
            files = self.ask("GET", "/v1/status")[2]["files"]
            return files["hashing"] == 0 and files["shared"] > 0 and files["announced"] >= files["shared"]
        eventually(f"{self.name} has announced its files", announced)
        return self

    def connection(self):
        """A connection to its REST, as its own client on its own host has it."""
        if not self.host:
            return http.client.HTTPConnection(self.address, self.port, timeout=REQUEST_WITHIN_SECONDS)
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=REQUEST_WITHIN_SECONDS)
        connection.sock = self.host.connect("127.0.0.1", self.port, REQUEST_WITHIN_SECONDS)
        return connection

    def ask(self, method, path, body=None, connection=None, quiet=False):
        """Status, headers and JSON (or text) of one request."""
        own = connection or self.connection()
        try:
            own.request(method, path, json.dumps(body) if body is not None else None,
                        {"Content-Type": "application/json"} if body is not None else {})
            answer = own.getresponse()
            data = answer.read()
        finally:
            if connection is None:
                own.close()
        if answer.status >= 400 and not quiet:
            raise RuntimeError(f"{self.name}: {method} {path}: {answer.status} {data.decode()[:400]}")
        is_json = "json" in (answer.getheader("Content-Type") or "")
        return answer.status, answer.headers, json.loads(data) if is_json and data else data

    def file_path(self, name):
        """`/v1/files/NAME`."""
        return "/v1/files/" + urllib.parse.quote(name)

    def digest(self, name):
        """The digest of a file that it holds."""
        return self.ask("HEAD", self.file_path(name))[1]["ETag"].strip('"')

    def holds(self, name):
        """Whether it holds a file, kept and verified."""
        query = urllib.parse.urlencode({"prefix": name, "limit": 10})
        items = self.ask("GET", f"/v1/files?{query}")[2]["items"]
        return any(item["name"] == name for item in items)

    def await_located(self, name):
        """Waits until its neighbour finds a provider of `name`."""
        path = "/v1/locate/" + urllib.parse.quote(name)

        def located():
            status, _, body = self.ask("GET", path, quiet=True)
            return status == 200 and body["variants"]
        # A neighbour remembers for a second that nobody has it.
        eventually(f"{self.name} locates {name}", located, every=0.25)

    def forget(self, name):
        """Deletes its copy."""
        self.ask("DELETE", self.file_path(name))
        eventually(f"{self.name} forgot {name}", lambda: not self.holds(name))

    def fetch(self, name, every=0.01, within=3600, not_before=0):
        """Fetches a file into it; the time at which it was whole, verified and kept. It is asked
        `every` so many seconds, the first time after `not_before`."""
        connection = self.connection()
        try:
            _, _, download = self.ask("POST", "/v1/downloads", {"name": name}, connection)
            deadline = time.monotonic() + within
            if not_before:
                time.sleep(not_before)
                # One that was idle for so long may be closed.
                connection.close()
                connection = self.connection()
            while download["state"] in ("locating", "running"):
                if time.monotonic() > deadline:
                    raise TimeoutError(f"{self.name}: {name} is not there within {within} s: {download}")
                time.sleep(every)
                path = f"/v1/downloads/{download['id']}"
                download = self.ask("GET", path, connection=connection)[2]
        finally:
            connection.close()
        if download["state"] != "done":
            raise RuntimeError(f"{self.name}: {name}: {download}")
        return download["finished_ms"] / 1000
