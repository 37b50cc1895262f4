# An echo server for preforkd: what the binding for Python costs is measured with it, against bare.py.
import preforkd

for connection in preforkd.connections():
    socket = connection.socket
    while data := socket.recv(16384):
        socket.sendall(data)
