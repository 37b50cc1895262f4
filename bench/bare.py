"""The reference for echo.py: what Python can do when there is no pool at all.

    python3 bare.py WORKERS

Forks WORKERS children that accept from one listen socket of 127.0.0.1 and echo, prints its port when all of them run,
and ends them at TERM or INT.
"""

import os
import signal
import socket
import sys

ENDING = {signal.SIGTERM, signal.SIGINT}


def serve_forever(listener):
    while True:
        connection, _ = listener.accept()
        while data := connection.recv(16384):
            connection.sendall(data)
        connection.close()


def main(workers):
    signal.pthread_sigmask(signal.SIG_BLOCK, ENDING)
    listener = socket.create_server(("127.0.0.1", 0), backlog=4096)
    running, runs = os.pipe()
    children = []
    try:
        for _ in range(workers):
            child = os.fork()
            if child == 0:
                signal.pthread_sigmask(signal.SIG_UNBLOCK, ENDING)
                os.close(running)
                os.close(runs)  # the last one to do so ends what the parent reads
                try:
                    serve_forever(listener)
                finally:
                    os._exit(1)
            children.append(child)
        os.close(runs)
        os.read(running, 1)
        print(f"port={listener.getsockname()[1]}", flush=True)
        signal.sigwait(ENDING)
    finally:
        for child in children:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)


main(int(sys.argv[1]))
