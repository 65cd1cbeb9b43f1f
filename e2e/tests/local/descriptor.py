"""Puts a descriptor that is no payload at a local API, and prints the answer: SOCKET, then sparse, unsealed or half-sealed."""

import array
import fcntl
import json
import os
import socket
import struct
import sys

F_ADD_SEALS, SEAL, SHRINK, GROW, WRITE = 1033, 1, 2, 4, 8


def exactly(connection, count):
    data = b""
    while len(data) < count:
        piece = connection.recv(count - len(data))
        if not piece:
            sys.exit("the channel ended")
        data += piece
    return data


path, kind = sys.argv[1:]
connection = socket.socket(socket.AF_UNIX)
connection.connect(path)
connection.sendall(b"GET /v1/descriptors HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: zipline-descriptors/1\r\n\r\n")
head = b""
while not head.endswith(b"\r\n\r\n"):
    head += exactly(connection, 1)

memfd = os.memfd_create("payload", os.MFD_ALLOW_SEALING)
if kind == "sparse":
    os.ftruncate(memfd, 1 << 20)
else:
    os.write(memfd, bytes(1 << 20))
seals = {"sparse": SEAL | SHRINK | GROW | WRITE, "unsealed": 0, "half-sealed": SEAL | SHRINK | GROW}[kind]
if seals:
    fcntl.fcntl(memfd, F_ADD_SEALS, seals)
message = json.dumps({"op": "put", "id": 1}).encode()
rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [memfd]))]
connection.sendmsg([struct.pack(">I", len(message)) + message], rights)
(length,) = struct.unpack(">I", exactly(connection, 4))
print(exactly(connection, length).decode())
