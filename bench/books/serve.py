"""Serves it as a program of preforkd; or, with the argument `fork`, by an os.fork() for each connection, and prints its port."""

import io
import os
import signal
import socket
import sys
from wsgiref.handlers import SimpleHandler

import site_of_books


def answer(client):
    """One request; then it waits until the client leaves."""
    request = b""
    while b"\r\n\r\n" not in request:
        more = client.recv(4096)
        if not more:
            return
        request += more
    target = request.split(b" ", 2)[1].decode()
    where, _, query = target.partition("?")
    environ = {
        "REQUEST_METHOD": "GET", "SCRIPT_NAME": "", "PATH_INFO": where, "QUERY_STRING": query, "SERVER_NAME": "localhost",
        "SERVER_PORT": "80", "SERVER_PROTOCOL": "HTTP/1.0",
    }
    out = io.BytesIO()
    handler = SimpleHandler(io.BytesIO(), out, sys.stderr, environ, multithread=False)
    handler.origin_server = True  # with a status line
    handler.run(site_of_books.application)
    client.sendall(out.getvalue())
    try:
        while client.recv(4096):
            pass
    except ConnectionResetError:  # that is how it leaves, if it has not read all
        pass


def serve_by_fork():
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    listener = socket.create_server(("127.0.0.1", 0), backlog=4096)
    print(f"port={listener.getsockname()[1]}", flush=True)
    while True:
        client, _ = listener.accept()
        if os.fork() == 0:
            answer(client)
            os._exit(0)
        client.close()


if sys.argv[1:] == ["fork"]:
    serve_by_fork()
else:
    import preforkd

    preforkd.serve(lambda connection: answer(connection.socket))
