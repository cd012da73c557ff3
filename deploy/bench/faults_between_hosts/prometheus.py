"""A real Prometheus beside what it scrapes, and what its alerts do there.

Invariant: the rules are those of deploy/observability; only their durations may be shorter, all by
the same factor, so that a test of seconds sees what an operator sees in minutes.
"""

import http.client
import json
import re
import socket
import time
import urllib.parse
from pathlib import Path

from data_plane.scene import eventually, free_port

RULES = Path(__file__).resolve().parents[2] / "observability" / "alerts.yml"
UNITS = {"ms": 0.001, "s": 1, "m": 60, "h": 3600}
DURATION = re.compile(r"(?<=\[)(\d+)(m?s|m|h)(?=\])|(?<=for: )(\d+)(m?s|m|h)\b")


def alerts_of(rules):
    """The names of the alerts of a file of rules."""
    return re.findall(r"^\s+- alert: (\w+)", Path(rules).read_text(), re.MULTILINE)


def shortened(rules, factor):
    """The text of the rules, every duration of them divided by `factor`."""
    def shorter(match):
        number, unit = (match[1], match[2]) if match[1] else (match[3], match[4])
        return f"{max(round(int(number) * UNITS[unit] * 1000 / factor), 1)}ms"
    return DURATION.sub(shorter, Path(rules).read_text())


class Prometheus:
    """A running Prometheus; `jobs` are its targets by the name of the job."""

    def __init__(self, scene, jobs, rules=RULES, factor=1, host=None):
        self.host = host
        self.address = f"{host.address}:9090" if host else f"127.0.0.1:{free_port()}"
        directory = scene.directory("prometheus")
        (directory / "alerts.yml").write_text(shortened(rules, factor))
        config = {
            "global": {"scrape_interval": "500ms", "scrape_timeout": "500ms", "evaluation_interval": "500ms"},
            "rule_files": ["alerts.yml"],
            "scrape_configs": [{"job_name": job, "static_configs": [{"targets": targets}]}
                               for job, targets in jobs.items()],
        }
        # JSON is YAML.
        (directory / "prometheus.yml").write_text(json.dumps(config))
        self.process = scene.start("prometheus", [
            scene.tools["prometheus"], f"--config.file={directory / 'prometheus.yml'}",
            f"--storage.tsdb.path={directory / 'data'}", f"--web.listen-address={self.address}",
        ], directory, host=host)
        eventually("Prometheus is ready", lambda: self.get("/-/ready"))

    def get(self, path):
        """What it answers, whatever the status."""
        address, port = self.address.split(":")
        connect = self.host.connect if self.host else (lambda *to: socket.create_connection(to[:2], to[2]))
        connection = http.client.HTTPConnection(address, int(port), timeout=10)
        connection.sock = connect(address, int(port), 10)
        try:
            connection.request("GET", path)
            answer = connection.getresponse()
            return answer.read() if answer.status in (200, 400, 422) else None
        finally:
            connection.close()

    def api(self, path, **arguments):
        """The data of one answer of its API."""
        answer = json.loads(self.get(f"/api/v1/{path}?{urllib.parse.urlencode(arguments)}"))
        if answer["status"] != "success":
            raise ValueError(answer["error"])
        return answer["data"]

    def query(self, expression):
        """The series that an expression gives now."""
        return self.api("query", query=expression)["result"]

    def value(self, expression):
        """The value of an expression that gives one, or nothing."""
        series = self.query(expression)
        return float(series[0]["value"][1]) if len(series) == 1 else None

    def names(self):
        """Every metric that it knows."""
        return self.api("label/__name__/values")

    def rules(self):
        """The alert rules as it loaded them."""
        return [rule for group in self.api("rules", type="alert")["groups"] for rule in group["rules"]]

    def fired(self, since):
        """The alerts that fired since that time, and where."""
        data = self.api("query_range", query='ALERTS{alertstate="firing"}', start=since, end=time.time(), step="500ms")
        found = {}
        for series in data["result"]:
            labels = series["metric"]
            found.setdefault(labels["alertname"], set()).add(labels.get("instance", ""))
        return found
