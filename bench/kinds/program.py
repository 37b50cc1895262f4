import json, os

while data := os.read(0, 16384):
    os.write(1, data)
