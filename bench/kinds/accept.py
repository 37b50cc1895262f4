import json, socket

listening = socket.socket(fileno=3)
while True:
    connection, _ = listening.accept()
    with connection:
        while data := connection.recv(16384):
            connection.sendall(data)
