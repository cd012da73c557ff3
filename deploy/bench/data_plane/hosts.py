"""Hosts in network namespaces, on one switch, their links limited both ways.

Invariant: nothing is made in the machine's own namespace, so that neither its addresses nor its
firewall matter; every namespace made here is deleted by `close`.
"""

import ctypes
import http.client
import os
import socket
import subprocess
import threading
import urllib.parse
from pathlib import Path

NETWORK = "10.77"
# What may wait at a limited link: a host's own queue is deep, a switch has 20 ms at 100 Mbit/s.
HOST_QUEUE_BYTES, SWITCH_QUEUE_BYTES = 1 << 20, 256 << 10
CLONE_NEWNET = 0x40000000
LIBC = ctypes.CDLL(None, use_errno=True)


def enter(namespace):
    """Moves the calling thread to the namespace of this name."""
    with open(f"/run/netns/{namespace}", "rb") as file:
        if LIBC.setns(file.fileno(), CLONE_NEWNET):
            raise OSError(ctypes.get_errno(), f"setns {namespace}")


class Host:
    """A namespace with one link to the switch."""

    def __init__(self, network, name, number):
        self.network, self.name = network, name
        self.namespace = f"{network.prefix}-{name}"
        self.port, self.mbit = f"to-{name}", None
        self.address = f"{NETWORK}.{number // 250}.{number % 250 + 1}"

    def prefix(self):
        """What runs a command on it. It execs: the process id is the command's."""
        return [self.network.ip, "netns", "exec", self.namespace]

    def enter(self):
        """Moves the calling thread to this host: the sockets that it makes from now on are here."""
        enter(self.namespace)

    def here(self, work):
        """What `work()` gives on this host."""
        found = []

        def there():
            # A thread alone changes its namespace; a socket keeps that in which it was made.
            try:
                self.enter()
                found.append(work())
            except OSError as error:
                found.append(error)
        thread = threading.Thread(target=there)
        thread.start()
        thread.join()
        if isinstance(found[0], OSError):
            raise found[0]
        return found[0]

    def connect(self, address, port, timeout):
        """A connection from this host."""
        return self.here(lambda: socket.create_connection((address, port), timeout))

    def get(self, url):
        """What `url` answers with 200 to this host."""
        parts = urllib.parse.urlsplit(url)
        connection = http.client.HTTPConnection(parts.hostname, parts.port, timeout=5)
        connection.sock = self.connect(parts.hostname, parts.port, 5)
        try:
            connection.request("GET", f"{parts.path}?{parts.query}")
            answer = connection.getresponse()
            data = answer.read()
        finally:
            connection.close()
        if answer.status != 200:
            raise OSError(f"{url}: {answer.status}")
        return data

    def limit(self, mbit):
        """Limits what it sends (its end of the link) and what it receives (the switch's end)."""
        if mbit == self.mbit:
            return
        ends = ((self.namespace, "eth0", HOST_QUEUE_BYTES),
                (self.network.switch, self.port, SWITCH_QUEUE_BYTES))
        for namespace, device, queue in ends:
            on = ("dev", device)
            if self.mbit:
                self.network.tc(namespace, "qdisc", "del", *on, "root")
            self.network.tc(namespace, "qdisc", "add", *on, "root", "handle", "1:", "htb", "default", "1")
            self.network.tc(namespace, "class", "add", *on, "parent", "1:", "classid", "1:1", "htb",
                            "rate", f"{mbit}mbit", "burst", "16k", "cburst", "16k", "quantum", "1514")
            self.network.tc(namespace, "qdisc", "add", *on, "parent", "1:1", "bfifo", "limit", queue)
        self.mbit = mbit


class Network:
    """A switch and its hosts; gone with `scene`."""

    def __init__(self, scene):
        self.ip, self.tc_path = scene.tools["ip"], scene.tools["tc"]
        self.prefix = f"vecino{os.getpid()}"
        self.switch = f"{self.prefix}-switch"
        self.namespaces, self.hosts = [], {}
        scene.closers.append(self.close)
        self.add_namespace(self.switch)
        self.run("-n", self.switch, "link", "add", "switch", "type", "bridge")
        self.run("-n", self.switch, "link", "set", "switch", "up")
        self.let_pass()

    def run(self, *arguments):
        """One `ip` command."""
        done = subprocess.run([self.ip, *arguments], capture_output=True, text=True, check=False)
        if done.returncode:
            raise RuntimeError(f"ip {' '.join(arguments)}: {done.stderr.strip()}")

    def tc(self, namespace, *arguments):
        """One `tc` command."""
        done = subprocess.run([self.tc_path, "-n", namespace, *map(str, arguments)], capture_output=True,
                              text=True, check=False)
        if done.returncode:
            raise RuntimeError(f"tc {' '.join(map(str, arguments))}: {done.stderr.strip()}")

    def let_pass(self):
        """A switch has no firewall: this one's, where the kernel has it, would take a tenth of the
        CPUs that all hosts share. Where it cannot be turned off, it stays."""
        setting = "/proc/sys/net/bridge/bridge-nf-call-iptables"
        command = [self.ip, "netns", "exec", self.switch, "sh", "-c", f"[ ! -e {setting} ] || echo 0 > {setting}"]
        subprocess.run(command, capture_output=True, check=False)

    def add_namespace(self, name):
        """A namespace with its loopback up."""
        self.run("netns", "add", name)
        self.namespaces.append(name)
        self.run("-n", name, "link", "set", "lo", "up")

    def host(self, name, mbit=None):
        """The host of this name, made when it is not there; unlimited without `mbit`."""
        if name not in self.hosts:
            host = Host(self, name, len(self.hosts) + 1)
            self.add_namespace(host.namespace)
            self.run("-n", self.switch, "link", "add", host.port, "type", "veth",
                     "peer", "name", "eth0", "netns", host.namespace)
            self.run("-n", self.switch, "link", "set", host.port, "master", "switch", "up")
            self.run("-n", host.namespace, "addr", "add", f"{host.address}/16", "dev", "eth0")
            self.run("-n", host.namespace, "link", "set", "eth0", "up")
            self.hosts[name] = host
        if mbit:
            self.hosts[name].limit(mbit)
        return self.hosts[name]

    def close(self):
        """Deletes it all."""
        for name in reversed(self.namespaces):
            if Path(f"/run/netns/{name}").exists():
                subprocess.run([self.ip, "netns", "del", name], capture_output=True, check=False)
        self.namespaces, self.hosts = [], {}
