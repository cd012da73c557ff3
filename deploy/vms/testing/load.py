"""A steady load of downloads through all peers, each by a client process of its own."""

import random
import subprocess
import threading
import time

WORKERS, PAUSE_SECONDS, CLIENT_WITHIN_SECONDS = 3, 0.02, 150


class Load:
    """Downloads files that lie on one peer only through each of the others, until `stop`."""

    def __init__(self, host, client, addresses, names_by_address, directory, seed):
        self.host, self.client, self.directory = host, client, directory
        self.jobs = [(via, name) for owner, names in names_by_address.items() for name in names
                     for via in addresses if via != owner]
        random.Random(seed).shuffle(self.jobs)
        self.next, self.lock, self.stopping = 0, threading.Lock(), threading.Event()
        self.running = set()
        self.done, self.failures, self.slowest = 0, [], 0.0
        self.threads = [threading.Thread(target=self.work, args=(number,), daemon=True) for number in range(WORKERS)]
        for thread in self.threads:
            thread.start()

    def download(self, via, name, target, *options):
        """Why it failed; None when it did not."""
        process = subprocess.Popen(
            [*self.host.prefix(), "env", "-i", f"URL_PEERAS={via}:80", "HOME=/nonexistent", self.client,
             "--quiet", "download", name, "-o", target, "--if-exists", "overwrite", *options],
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        with self.lock:
            self.running.add(process)
        try:
            _, said = process.communicate(timeout=CLIENT_WITHIN_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()
            return f"{name} through {via}: no end after {CLIENT_WITHIN_SECONDS} s"
        finally:
            with self.lock:
                self.running.discard(process)
        return f"{name} through {via}: exit {process.returncode}: {said.strip()}" if process.returncode else None

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

    def close(self):
        """Ends every client at once."""
        self.stopping.set()
        with self.lock:
            for process in self.running:
                process.kill()
