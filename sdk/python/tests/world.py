"""Queue-proxies as processes, each on an address of its own, and functions in front of which they stand."""

import json
import os
import pathlib
import random
import secrets
import signal
import socket
import subprocess
import threading
import time

import zipline_sdk
from zipline_sdk import Client, Server

REPOSITORY = pathlib.Path(__file__).resolve().parents[3]
START_SECONDS = 20.0


def program():
    """The built queue-proxy."""
    folder = os.environ.get("ZIPLINE_TEST_BIN_DIR") or REPOSITORY / "target" / "debug"
    path = pathlib.Path(folder) / "zipline-queue-proxy"
    assert path.is_file(), f"{path} is not built; `cargo xtask test` builds it first"
    return path


def until(what, seconds, look):
    """Waits for a state with a deadline, and says what was seen instead."""
    deadline = time.monotonic() + seconds
    while True:
        try:
            seen = look()
            if seen:
                return seen
        except (OSError, zipline_sdk.ZiplineError) as error:
            seen = error
        assert time.monotonic() < deadline, f"waited {seconds} s for {what}; seen instead: {seen!r}"
        time.sleep(0.01)


def key_ring():
    now = int(time.time() * 1000)
    key = {"id": secrets.token_hex(4), "key": secrets.token_hex(32), "not_before_ms": now - 3_600_000, "not_after_ms": now + 86_400_000}
    return {"keys": [key]}


class Proxy:
    """A queue-proxy of a service, killed by handle."""

    def __init__(self, scratch, ring, service, function_port=None, environment=None):
        self._claim, self.ip = _claim_address()
        self.socket = pathlib.Path((environment or {}).get("ZIPLINE_API_SOCKET", scratch / f"{self.ip}.api"))
        keys = scratch / f"{self.ip}.keys.json"
        keys.write_text(json.dumps(ring))
        self.log = scratch / f"{self.ip}.log"
        variables = {
            "PATH": os.environ.get("PATH", ""),
            "CONTAINER_CONCURRENCY": "0",
            "QUEUE_SERVING_PORT": "8012",
            "QUEUE_SERVING_TLS_PORT": "8112",
            "USER_PORT": str(function_port or free_port()),
            "REVISION_TIMEOUT_SECONDS": "300",
            "SERVING_NAMESPACE": "default",
            "SERVING_SERVICE": service,
            "SERVING_CONFIGURATION": service,
            "SERVING_REVISION": f"{service}-00001",
            "SERVING_POD": f"{service}-{self.ip}",
            "SERVING_POD_IP": self.ip,
            "SERVING_LOGGING_CONFIG": "",
            "SERVING_LOGGING_LEVEL": "",
            "ZIPLINE_BIND": self.ip,
            "ZIPLINE_API_SOCKET": str(self.socket),
            "ZIPLINE_API_PORT": "0",
            "ZIPLINE_EGRESS_PORT": "0",
            "ZIPLINE_KEYS_FILE": str(keys),
            "ZIPLINE_PEER_CIDRS": "127.0.0.0/8",
            "ZIPLINE_DRAIN_QUIET_SECONDS": "0",
        }
        variables.update(environment or {})
        with open(self.log, "wb") as log:
            self.process = subprocess.Popen(
                [program()], env=variables, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
            )
        try:
            until("the queue-proxy to answer", START_SECONDS, self._answers)
        except AssertionError:
            self.stop()
            raise

    @property
    def api(self):
        return f"unix:{self.socket}"

    @property
    def request_address(self):
        return f"{self.ip}:8012"

    def metrics(self):
        """The `zipline_*` metrics now, summed over labels."""
        with socket.create_connection((self.ip, 8022), timeout=5) as connection:
            connection.sendall(b"GET /zipline/metrics HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
            page = b"".join(iter(lambda: connection.recv(65536), b"")).decode()
        sums = {}
        for line in page.splitlines():
            series, _, value = line.rpartition(" ")
            if series.startswith("zipline_"):
                name = series.split("{")[0]
                sums[name] = sums.get(name, 0.0) + float(value)
        return sums

    def at_rest(self):
        """Waits until nothing is held or leased."""
        names = ("zipline_held_bytes", "zipline_held_objects", "zipline_receiving_bytes", "zipline_leases")
        until("the proxy to be at rest", 10, lambda: all(self.metrics().get(name, 0) == 0 for name in names))

    def stop(self):
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()
        self._claim.close()

    def _answers(self):
        assert self.process.poll() is None, f"the queue-proxy ended at its start:\n{self.log.read_text()}"
        with Client(self.api) as client:
            return client.proxy() and self.metrics()


class Function:
    """A function on a thread of the test, with the SDK's server."""

    def __init__(self, client, handler, port):
        self.server = Server(client, ("127.0.0.1", port))
        self._thread = threading.Thread(target=self.server.serve, args=(handler,))
        self._thread.start()

    def stop(self):
        self.server.stop()
        self._thread.join()


class World:
    """A producer, and a consumer with a function behind it; see `conformance/README.md`."""

    def __init__(self, scratch, handler, environment=None, variables=None, extra=None):
        """``variables``: of the clients, beside their ``ZIPLINE_API``."""
        ring, port = key_ring(), free_port()
        environment = dict(environment or {})
        self.consumer = Proxy(scratch, ring, "consumer", port, {**environment, **(extra or {})})
        self._stops = [self.consumer.stop]
        try:
            to_consumer = {"ZIPLINE_INGRESS": self.consumer.request_address, "ZIPLINE_PEERS_KNOWN": "all"}
            self.producer = Proxy(scratch, ring, "producer", None, {**environment, **(extra or {}), **to_consumer})
            self._stops.append(self.producer.stop)
            apis = {"producer": self.producer.api, "consumer": self.consumer.api, "nowhere": f"unix:{scratch}/nowhere"}
            self.clients = {name: Client.from_env({**(variables or {}), "ZIPLINE_API": api}) for name, api in apis.items()}
            self.function = Function(self.clients["consumer"], lambda request: handler(self.clients["consumer"], request), port)
            self._stops.append(self.function.stop)
        except BaseException:
            self.stop()
            raise

    def registered(self):
        """Waits until payloads reach the function as descriptors."""
        until("the registration", 10, lambda: self.function.server.is_registered)

    def stop(self):
        for stop in reversed(self._stops):
            stop()


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def _claim_address():
    """An address 127.x.y.z of one's own, claimed across processes by binding a UDP port of it."""
    for _ in range(64):
        ip = f"127.{random.randint(64, 127)}.{random.randint(0, 255)}.{random.randint(1, 254)}"
        claim = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        try:
            claim.bind((ip, 8121))
            return claim, ip
        except OSError:
            claim.close()
    raise AssertionError("no free loopback address in 64 tries")
