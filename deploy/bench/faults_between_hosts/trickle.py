"""A provider at one byte a second: a proxy in front of a peer that lets the content of
`/v1/blobs/DIGEST` through at that rate. Started as a process of its own: LISTEN_HOST:PORT
TARGET_HOST:PORT.

Invariant: everything else passes at once, on connections of one request each, so that the peer
looks as good as any until its bytes are asked for. It says on standard output when that happens.
"""

import socket
import sys
import threading
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from data_plane.liar import BLOB, CHUNK, LENGTH, body, head, quietly  # noqa: E402


def serve(client, address):
    """Serves one request."""
    with client, socket.create_connection(address) as peer:
        request, rest = head(client, b"")
        if request is None:
            return
        peer.sendall(request[:-2] + b"Connection: close\r\n\r\n")
        length = LENGTH.search(request)
        body(client, peer, int(length[1]) if length else 0, rest, False)
        if not BLOB.match(request):
            while data := peer.recv(CHUNK):
                client.sendall(data)
            return
        answer, data = head(peer, b"")
        if answer is None:
            return
        print("asked for bytes", flush=True)
        client.sendall(answer)
        while data := data or peer.recv(CHUNK):
            client.sendall(data[:1])
            data = data[1:]
            time.sleep(1)


def main():
    """Listens until it is killed."""
    listen, target = (text.rsplit(":", 1) for text in sys.argv[1:3])
    listener = socket.create_server((listen[0], int(listen[1])), backlog=256)
    while True:
        client, _ = listener.accept()
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        work = (client, (target[0], int(target[1])), serve)
        threading.Thread(target=quietly, args=work, daemon=True).start()


if __name__ == "__main__":
    main()
