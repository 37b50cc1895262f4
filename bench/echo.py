# An echo server for preforkd: what the binding for Python costs is measured with it, against bare.py.
import preforkd

for connection in preforkd.connections():
    while data := connection.recv(16384):
        connection.sendall(data)
