"""A bad link, as netem would make it where the kernel has none: frames between two tap devices,
some lost, late on the way out, some of them overtaken. Started as a process of its own:
NAMESPACE:TAP NAMESPACE:TAP LOSS DELAY_SECONDS REORDER SEED.

Invariant: what the first tap gets comes out of the second after the delay (at once for the part
REORDER of it, which so overtakes the rest), and the other way round without; LOSS of both is
dropped. At most QUEUE frames are on the way.
"""

import fcntl
import heapq
import itertools
import os
import random
import select
import struct
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from data_plane.hosts import enter  # noqa: E402

TUNSETIFF, IFF_TAP, IFF_NO_PI = 0x400454CA, 0x0002, 0x1000
FRAME, QUEUE = 65536, 10_000


def tap(where):
    """A tap device in a namespace; it is gone with this process."""
    namespace, name = where.split(":")
    enter(namespace)
    device = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
    fcntl.ioctl(device, TUNSETIFF, struct.pack("16sH22x", name.encode(), IFF_TAP | IFF_NO_PI))
    return device


def main():
    """Passes frames on until it is killed."""
    inside, outside = tap(sys.argv[1]), tap(sys.argv[2])
    loss, delay, reorder = map(float, sys.argv[3:6])
    rng, numbers, waiting = random.Random(sys.argv[6]), itertools.count(), []
    print("wire up", flush=True)
    while True:
        now = time.monotonic()
        while waiting and waiting[0][0] <= now:
            _, _, device, frame = heapq.heappop(waiting)
            try:
                os.write(device, frame)
            except OSError:
                pass  # A full queue, or a device that is down, loses it, as a switch would.
        until = max(waiting[0][0] - now, 0) if waiting else None
        for device in select.select([inside, outside], [], [], until)[0]:
            try:
                frame = os.read(device, FRAME)
            except OSError:
                time.sleep(0.001)  # It is not up yet.
                continue
            if rng.random() < loss or len(waiting) >= QUEUE:
                continue
            late = delay if device == inside and rng.random() >= reorder else 0
            target = outside if device == inside else inside
            heapq.heappush(waiting, (time.monotonic() + late, next(numbers), target, frame))


if __name__ == "__main__":
    main()
