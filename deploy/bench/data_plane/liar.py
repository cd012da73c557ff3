"""A provider that sends wrong bytes: a proxy in front of a peer, which flips one byte in the middle
of every content that passes. Started as a process of its own: LISTEN_HOST:PORT TARGET_HOST:PORT.

Invariant: everything but the content of `/v1/blobs/DIGEST` passes as it is (on connections of one
request each), so that nothing but its bytes betrays it.
"""

import re
import socket
import sys
import threading

BLOB = re.compile(rb"GET /v1/blobs/[0-9a-f]{64}(\?\S*)? HTTP/1\.1\r\n")
LENGTH = re.compile(rb"\r\ncontent-length:\s*(\d+)", re.IGNORECASE)
CHUNK = 1 << 16


def head(connection, rest):
    """The head of the next message, and what came after it; nothing at the end."""
    while b"\r\n\r\n" not in rest:
        data = connection.recv(CHUNK)
        if not data:
            return None, b""
        rest += data
    first, _, rest = rest.partition(b"\r\n\r\n")
    return first + b"\r\n\r\n", rest


def body(source, target, length, rest, wrong):
    """Passes `length` bytes on, the middle one wrong if so asked; gives what came after them."""
    middle, passed = length // 2 if wrong else -1, 0
    while passed < length:
        data = rest or source.recv(min(CHUNK, length - passed))
        if not data:
            raise ConnectionError("it ended early")
        data, rest = data[:length - passed], data[length - passed:]
        if passed <= middle < passed + len(data):
            data = bytearray(data)
            data[middle - passed] ^= 1
        target.sendall(data)
        passed += len(data)
    return rest


def serve(client, address):
    """Serves one connection, request after request."""
    with client, socket.create_connection(address) as peer:
        asked, answered = b"", b""
        while True:
            request, asked = head(client, asked)
            if request is None:
                return
            wrong = BLOB.match(request) is not None
            if not wrong:
                # Its answer may be of any form: it goes on to the end of the connection.
                request = request[:-2] + b"Connection: close\r\n\r\n"
            peer.sendall(request)
            length = LENGTH.search(request)
            asked = body(client, peer, int(length[1]) if length else 0, asked, False)
            if not wrong:
                while data := peer.recv(CHUNK):
                    client.sendall(data)
                return
            answer, answered = head(peer, answered)
            if answer is None:
                return
            client.sendall(answer)
            length = LENGTH.search(answer)
            answered = body(peer, client, int(length[1]) if length else 0, answered, True)


def quietly(client, address, how=serve):
    """Serves; whoever hangs up is nobody's concern."""
    try:
        how(client, address)
    except OSError:
        pass


def main():
    """Listens until it is killed."""
    listen, target = (text.rsplit(":", 1) for text in sys.argv[1:3])
    listener = socket.create_server((listen[0], int(listen[1])), backlog=256)
    while True:
        client, _ = listener.accept()
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        threading.Thread(target=quietly, args=(client, (target[0], int(target[1]))), daemon=True).start()


if __name__ == "__main__":
    main()
