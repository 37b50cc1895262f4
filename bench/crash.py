# A worker that a client can make crash (bench/crash.cc). With an argument it only starts: what that costs.
import os
import sys

import preforkd

if len(sys.argv) > 1:
    preforkd._library()
    os._exit(0)
for connection in preforkd.connections():
    if connection.socket.recv(1) == b"c":
        os.abort()
    connection.sendall(b"done\n")
