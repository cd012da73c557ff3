"""nginx, as an origin that serves by sendfile and as a caching proxy in front of one."""

import os
import shutil

from .scene import eventually, finished, free_port, reads

COMMON = """
daemon off; worker_processes {workers}; pid {work}/nginx.pid; error_log {work}/error.log;
{user}
events {{ worker_connections 8192; }}
http {{
    access_log off; sendfile on; tcp_nopush on; keepalive_timeout 75; keepalive_requests 1000000;
    client_body_temp_path {work}/body; fastcgi_temp_path {work}/fastcgi; uwsgi_temp_path {work}/uwsgi;
    scgi_temp_path {work}/scgi; proxy_temp_path {work}/proxy;
    {inner}
}}
"""
ORIGIN = "server {{ listen {endpoint} backlog=4096; location / {{ root {root}; }} }}"
# Large buffers serve it better than its defaults do.
CACHE = """
    proxy_cache_path {work}/cache levels=1:2 keys_zone=kept:10m max_size=64g inactive=1d use_temp_path=off;
    upstream origin {{ server {origin}; keepalive 16; }}
    server {{
        listen {endpoint};
        location / {{
            proxy_pass http://origin; proxy_http_version 1.1; proxy_set_header Connection "";
            proxy_cache kept; proxy_cache_valid 200 1d; proxy_buffering on;
            proxy_buffer_size 64k; proxy_buffers 32 64k; proxy_busy_buffers_size 1m;
            proxy_max_temp_file_size 65536m; proxy_temp_file_write_size 1m;
        }}
    }}
"""


class Nginx:
    """A running nginx."""

    def __init__(self, scene, inner, host=None, **parts):
        self.scene, self.host = scene, host
        self.endpoint = f"{host.address if host else '127.0.0.1'}:{8080 if host else free_port()}"
        self.work = scene.directory("nginx")
        names = {
            "work": self.work, "endpoint": self.endpoint, "workers": os.cpu_count(),
            # Root's files are for root only; workers of another user could not read them.
            "user": "user root;" if os.geteuid() == 0 else "",
        } | parts
        text = COMMON.format(inner=inner.format(**names), **names)
        (self.work / "nginx.conf").write_text(text)
        self.process = scene.start(
            "nginx", [scene.tools["nginx"], "-p", self.work, "-e", self.work / "error.log",
                      "-c", self.work / "nginx.conf"], self.work, host=host)

    def url(self, name):
        """The URL of a file."""
        return f"http://{self.endpoint}/{name}"

    def await_ready(self, name):
        """Waits until it serves `name`."""
        if self.host:
            arguments = [self.scene.tools["curl"], "-sfI", "-o", "/dev/null", self.url(name)]

            def ready():
                try:
                    return finished(arguments, host=self.host)
                except RuntimeError:
                    return None
            eventually("nginx serves", ready, every=0.1)
        else:
            eventually("nginx serves", lambda: reads(self.url(name)))
        return self


def origin(scene, root, host=None):
    """An nginx that serves the files of `root`."""
    return Nginx(scene, ORIGIN, host, root=root)


class Cache(Nginx):
    """An nginx that fetches from another, keeps what it fetched, and passes it on."""

    def __init__(self, scene, upstream):
        super().__init__(scene, CACHE, origin=upstream.endpoint)
        eventually("the cache listens", lambda: (self.work / "cache").is_dir())

    def empty(self):
        """Throws away what it keeps; a missing file is a miss to nginx."""
        for entry in (self.work / "cache").iterdir():
            shutil.rmtree(entry, ignore_errors=True)
