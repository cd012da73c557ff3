"""What an operator's Prometheus says meanwhile: which alerts fire.

Invariant: the rules are those of deploy/observability, only faster; an alert counts for a scenario
when it began to fire in it.
"""

import time

from data_plane.scene import eventually

from .fleet import METRICS_PORT
from .prometheus import Prometheus

# Minutes of the rules are seconds here: `for: 1m` is 2 s, a window of 5 minutes 10 s.
FASTER = 30
# A window of the rules is over by then.
CALM_WITHIN_SECONDS = 40
# What a fault was that is over may still show up.
FIRES_WITHIN_SECONDS = 5


class Watch:
    """A Prometheus on a host of its own that scrapes the fleet."""

    def __init__(self, fleet):
        jobs = {
            "vecino-peer": [peer.endpoint() for peer in fleet.peers.values()],
            "vecino-locator": [f"{fleet.locator.host.address}:{METRICS_PORT}"],
        }
        self.prometheus = Prometheus(fleet.scene, jobs, factor=FASTER, host=fleet.network.host("monitor"))
        servers = 1 + len(fleet.peers)
        eventually("all are scraped", lambda: self.prometheus.value("sum(up)") == servers)

    def await_calm(self, scenario):
        """Waits until none of the alerts fires that the scenario is to make fire."""
        for alert in scenario.alerts:
            firing = f'ALERTS{{alertname="{alert}", alertstate="firing"}}'
            eventually(f"{alert} is over", lambda query=firing: not self.prometheus.query(query),
                       CALM_WITHIN_SECONDS, 0.5)

    def judge(self, result, since):
        """Whether every alert fired that had to."""
        deadline = time.monotonic() + FIRES_WITHIN_SECONDS
        while True:
            fired = self.prometheus.fired(since)
            missing = [alert for alert in result.scenario.alerts if alert not in fired]
            if not missing or time.monotonic() > deadline:
                break
            time.sleep(0.5)
        result.alerts = sorted(fired)
        if missing:
            result.failures.append(f"did not fire: {', '.join(missing)}")
