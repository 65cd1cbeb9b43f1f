"""A stock function for tests: nothing but the standard library, and nothing of Zipline but its HTTP."""

import hashlib
import http.client
import http.server
import json
import os
import socket
import time
import urllib.request
from urllib.parse import parse_qs, urlparse


class LocalApi(http.client.HTTPConnection):
    """The local API of this function's queue-proxy."""

    def connect(self):
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.connect(os.environ["ZIPLINE_API"].removeprefix("unix:"))


class Function(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        query = {key: values[0] for key, values in parse_qs(urlparse(self.path).query).items()}
        time.sleep(float(query.get("sleep", "0")))
        if "put" in query:
            self.answer({"reference": put(int(query["put"]), query["ttl"], float(query["wait"]))})
        elif "call" in query:
            self.answer(call(query["call"], int(query["bytes"])))
        else:
            self.answer({"pid": os.getpid()})

    def do_POST(self):
        query = {key: values[0] for key, values in parse_qs(urlparse(self.path).query).items()}
        mark = query.get("mark")
        dies = mark is not None and os.path.exists(mark)
        if dies:
            os.remove(mark)
            if query["dies"] == "before":
                os._exit(9)
        total, left, size = hashlib.sha256(), int(self.headers.get("Content-Length", 0)), 0
        while left > 0:
            piece = self.rfile.read(min(left, 1 << 20))
            if not piece:
                return
            total.update(piece)
            left, size = left - len(piece), size + len(piece)
            if dies and query["dies"] == "during":
                os._exit(9)
        if dies:
            os._exit(9)
        self.answer({"sha256": total.hexdigest(), "size": size, "authorization": self.headers.get("Authorization")})

    def answer(self, document):
        body = json.dumps(document).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


def put(size, ttl, wait):
    """Holds an object, and goes on working for a while."""
    api = LocalApi("zipline")
    api.request("POST", f"/v1/objects?ttl={ttl}", body=bytes(size))
    answer = api.getresponse()
    document = json.loads(answer.read())
    time.sleep(wait)
    return document["reference"]


def call(service, size):
    """Posts a body to another service, as any function would: through `http_proxy`, which urllib honours by itself."""
    body = os.urandom(1 << 20) * (size >> 20)
    request = urllib.request.Request(f"http://{service}.default.localhost/", data=body, method="POST")
    with urllib.request.urlopen(request, timeout=120) as answer:
        seen = json.loads(answer.read())
    return {"sent": hashlib.sha256(body).hexdigest(), "seen": seen}


http.server.ThreadingHTTPServer.request_queue_size = 256
http.server.ThreadingHTTPServer(("127.0.0.1", int(os.environ["PORT"])), Function).serve_forever()
