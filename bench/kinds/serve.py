import json, preforkd

for connection in preforkd.connections():
    while data := connection.socket.recv(16384):
        connection.socket.sendall(data)
