"""What a run needs: the peers' tools and Vecino's binaries.

Invariant: what is missing is said before anything starts, all of it at once, with the package
that brings it.
"""

import os
import shutil
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]

# Debian's packages; other systems name them alike.
PACKAGES = {
    "nginx": "nginx",
    "curl": "curl",
    "aria2c": "aria2",
    "opentracker": "opentracker",
    "mktorrent": "mktorrent",
    "rsync": "rsync",
    "ip": "iproute2",
    "tc": "iproute2",
}
TOOLS = {
    "0": ["nginx", "curl"],
    "1": ["nginx", "curl", "aria2c", "opentracker", "mktorrent"],
    "2": ["nginx", "curl"],
    "3": ["nginx", "curl", "aria2c", "rsync"],
    "4": ["nginx", "curl", "aria2c", "opentracker", "mktorrent", "ip", "tc"],
    "5": ["aria2c", "opentracker", "mktorrent", "ip", "tc"],
    "6": [],
}
BINARIES = ["central-server", "pserver", "client"]


class Missing(Exception):
    """Something that the run needs is not there."""


def find(benchmarks):
    """Paths of the tools and binaries that `benchmarks` need, by name."""
    # Daemons lie where a user's PATH often does not lead.
    path = os.environ.get("PATH", "") + ":/usr/sbin:/sbin:/usr/local/sbin"
    wanted = sorted({tool for number in benchmarks for tool in TOOLS[number]})
    found = {tool: shutil.which(tool, path=path) for tool in wanted}
    lacking = [tool for tool, where in found.items() if where is None]
    problems = []
    if lacking:
        packages = sorted({PACKAGES[tool] for tool in lacking})
        problems.append(f"missing {', '.join(lacking)}: apt-get install {' '.join(packages)}")
    if {"4", "5"} & set(benchmarks) and os.geteuid() != 0:
        problems.append("benchmarks 4 and 5 make network namespaces: run them as root, or leave them out by --only")
    built, not_built = binaries()
    if problems := problems + not_built:
        raise Missing("\n".join(problems))
    return found | built


def binaries():
    """Paths of Vecino's binaries, by name, and what is wrong with them."""
    default = Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target")) / "release"
    directory = Path(os.environ.get("VECINO_BIN", default)).resolve()
    found = {name: str(directory / name) for name in BINARIES}
    problems = [f"missing {path}: cargo build --release --locked, or set VECINO_BIN"
                for path in found.values() if not os.access(path, os.X_OK)]
    return found, problems
