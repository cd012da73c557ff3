"""A steady load of downloads through all peers, each by a client process of its own."""

import random
import subprocess
import threading
import time

WORKERS, PAUSE_SECONDS, CLIENT_WITHIN_SECONDS = 3, 0.02, 90


class Load:
    """Downloads files that lie on one peer only through each of the others, until `stop`."""

    def __init__(self, host, client, addresses, names_by_address, directory, seed):
        self.host, self.client, self.directory = host, client, directory
        self.jobs = [(via, name) for owner, names in names_by_address.items() for name in names
                     for via in addresses if via != owner]
        random.Random(seed).shuffle(self.jobs)
        self.next, self.lock, self.stopping = 0, threading.Lock(), threading.Event()
        self.done, self.failures, self.slowest = 0, [], 0.0
        self.threads = [threading.Thread(target=self.work, args=(number,)) for number in range(WORKERS)]
        for thread in self.threads:
            thread.start()

    def download(self, via, name, target, *options):
        """Why it failed; None when it did not."""
        try:
            done = subprocess.run(
                [*self.host.prefix(), "env", "-i", f"URL_PEERAS={via}:80", "HOME=/nonexistent", self.client,
                 "--quiet", "download", name, "-o", target, "--if-exists", "overwrite", *options],
                capture_output=True, text=True, check=False, timeout=CLIENT_WITHIN_SECONDS)
        except subprocess.TimeoutExpired:
            return f"{name} through {via}: no end after {CLIENT_WITHIN_SECONDS} s"
        return f"{name} through {via}: exit {done.returncode}: {done.stderr.strip()}" if done.returncode else None

    def work(self, number):
        while not self.stopping.is_set():
            with self.lock:
                via, name = self.jobs[self.next % len(self.jobs)]
                self.next += 1
            began = time.monotonic()
            why = self.download(via, name, self.directory / f"load-{number}")
            with self.lock:
                self.done += 1
                self.slowest = max(self.slowest, time.monotonic() - began)
                if why:
                    self.failures.append(f"{time.strftime('%T')} after {time.monotonic() - began:.1f} s: {why}")
            time.sleep(PAUSE_SECONDS)

    def stop(self):
        self.stopping.set()
        for thread in self.threads:
            thread.join()
