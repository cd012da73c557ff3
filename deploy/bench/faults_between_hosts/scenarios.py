"""The scenarios, as data: what goes wrong where, for how long, and what is borne.

Bounds are those that ARCHITECTURE.md names: 6 s for a neighbour that does not answer (two are
named, so 12 s when both are asked), 5 s for a lookup, 10 s of silence of a provider, a lease of 5 s
here. `suffers` are the peers whose own clients may be told of the fault; all others must see no
error at all.
"""

from dataclasses import dataclass, field

ALL = ("peer1", "peer2", "peer3", "peer4")


@dataclass(frozen=True)
class Scenario:
    """One fault, and its bounds."""

    name: str
    means: str
    kind: str  # one of faults.KINDS
    at: str
    seconds: float  # how long it lasts
    suffers: tuple = ()
    options: dict = field(default_factory=dict)
    heals: float = 10  # seconds after its end until everything is right
    longest: float = 12  # seconds of any answer to clients, of all peers but `at` if that suffers
    alerts: tuple = ()  # that must fire


SCENARIOS = (
    Scenario("peer killed", "kill -9, and started again", "killed", "peer2", 6, ("peer2",),
             alerts=("VecinoPeerDown",)),
    Scenario("peer stopped", "SIGSTOP beyond its lease, and continued", "stopped", "peer2", 8, ("peer2",),
             alerts=("VecinoPeerDown", "VecinoLeaseExpired")),
    Scenario("locator killed", "kill -9, and started again", "killed", "locator", 6, ALL, heals=12,
             alerts=("VecinoLocatorDown", "VecinoPeerNotOnline", "VecinoLookupsFail")),
    Scenario("locator killed with links", "the same, where peers can also look up by flood", "killed with links",
             "locator", 6, heals=12),
    Scenario("locator stopped", "SIGSTOP beyond all leases, and continued", "stopped", "locator", 10, ALL, heals=12,
             alerts=("VecinoLocatorDown", "VecinoLookupsFail")),
    Scenario("peer cut off", "its link passes nothing, both ways", "cut", "peer3", 8, ("peer3",),
             alerts=("VecinoPeerDown",)),
    Scenario("peer not heard", "its link passes nothing that it sends", "cut", "peer3", 8, ("peer3",),
             {"only": "out"}, alerts=("VecinoPeerDown",)),
    Scenario("peer hears nothing", "its link passes nothing to it", "cut", "peer3", 8, ("peer3",),
             {"only": "in"}, alerts=("VecinoPeerDown",)),
    Scenario("bad link", "5 % lost both ways, 200 ms late, a tenth of it overtaken", "bad link", "peer3", 10,
             ("peer3",), {"loss": 0.05, "delay": 0.2, "reorder": 0.1}),
    Scenario("slow provider", "one more provider of every file, at a byte a second", "bad provider", "extra", 8,
             options={"proxy": "trickle"}, heals=20),
    Scenario("lying provider", "one more provider of every file, each with a wrong byte", "bad provider", "extra", 6,
             options={"proxy": "liar"}, alerts=("VecinoVerificationFailures",)),
    Scenario("slow readers", "100 clients that read 200 bytes a second", "slow readers", "peer1", 6,
             options={"count": 100}),
    Scenario("full disk", "not a byte is left where a peer writes", "full disk", "peer2", 8, ("peer2",),
             alerts=("VecinoDiskFull",)),
    Scenario("locator's full disk", "not a byte is left where it writes, and 3,000 new files are to be announced",
             "full locator", "locator", 10, heals=25, options={"files": 3000}, alerts=("VecinoStoreFailing",)),
    Scenario("no files", "a peer may open no further file", "no files", "peer2", 6, ("peer2",)),
    Scenario("clock jumps", "locator and peer: a day ahead, a day behind, right again", "clock", "locator", 6,
             options={"also": "peer4", "each": 3}),
    Scenario("mute neighbour", "it accepts and never answers", "mute neighbour", "peer1", 8),
    Scenario("idle connections", "2,000 to a peer and 2,000 to the locator", "idle", "peer2", 6,
             options={"count": 2000}, alerts=("VecinoManyConnections",)),
)
