"""A function that serves: behind a real queue-proxy, and in front of peers that misbehave."""

import os
import signal
import socket
import subprocess
import sys
import threading

import pytest
from world import Function, Proxy, World, free_port, key_ring, until

import zipline_sdk
from zipline_sdk import Client, Failure, Limits, Response

MIB = 1 << 20


def function(_, request):
    if request.path == "/mapped":
        return f"{request.payload.is_mapped} {len(request.payload)} {'Zipline-Ticket' in request.headers}"
    if request.path == "/refuse":
        raise Failure(422, "not this one")
    if request.path == "/fail":
        raise KeyError("a mistake")
    if request.path == "/nothing":
        return None
    return Response(request.payload, headers={"X-Seen": request.headers.get("x-sent", "")})


@pytest.fixture(scope="module")
def world(module_scratch):
    made = World(module_scratch, function)
    made.registered()
    yield made
    made.stop()


def test_a_payload_that_came_by_reference_is_mapped_for_the_handler(world):
    client = world.clients["producer"]
    answer = client.invoke("consumer", b"m" * 3 * MIB, path="/mapped")
    assert answer.payload.text() == f"True {3 * MIB} False"
    assert client.invoke("consumer", b"tiny", path="/mapped").payload.text() == "False 4 False"
    world.producer.at_rest()
    world.consumer.at_rest()


def test_a_failure_is_an_answer_and_costs_one_request(world):
    client = world.clients["producer"]
    refused = client.invoke("consumer", b"r" * MIB, path="/refuse")
    assert (refused.status, refused.payload.text()) == (422, "not this one\n")
    failed = client.invoke("consumer", b"f", path="/fail")
    assert failed.status == 500 and "a mistake" in failed.payload.text()
    assert client.invoke("consumer", b"ok", headers={"X-Sent": "yes"}).headers["X-Seen"] == "yes"
    assert len(client.invoke("consumer", path="/nothing").payload) == 0
    world.producer.at_rest()


def test_a_handler_that_failed_leaves_the_payload_to_the_retry(world):
    client = world.clients["producer"]
    reference = client.put(b"again" * 100_000)
    assert client.invoke("consumer", reference=reference, path="/fail").status == 500
    assert client.invoke("consumer", reference=reference).payload == b"again" * 100_000
    with pytest.raises(zipline_sdk.ReferenceExhausted):
        client.invoke("consumer", reference=reference)


def test_an_unregistered_function_gets_a_body(scratch):
    """The function's client has no Unix socket, so it cannot register."""
    made = World(scratch, function)
    try:
        made.function.stop()
        port = made.function.server.port
        plain = Client("http://127.0.0.1:9")
        made.function = Function(plain, lambda request: function(None, request), port)
        made._stops[-1] = made.function.stop
        answer = made.clients["producer"].invoke("consumer", b"b" * 2 * MIB, path="/mapped")
        assert answer.payload.text() == f"False {2 * MIB} False"
    finally:
        made.stop()


def exchange(port, sent):
    """What a peer gets that sends exactly these bytes and closes its side."""
    with socket.create_connection(("127.0.0.1", port), timeout=20) as peer:
        peer.sendall(sent)
        peer.shutdown(socket.SHUT_WR)
        return b"".join(iter(lambda: peer.recv(65536), b""))


@pytest.fixture(scope="module")
def lonely():
    """A function without a queue-proxy, with a small limit."""
    client = Client("http://127.0.0.1:9", limits=Limits(heap_bytes_max=100))
    served = Function(client, lambda request: function(None, request), 0)
    yield served.server
    served.stop()


def test_a_chunked_body_arrives(lonely):
    answer = exchange(lonely.port, b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3;x=y\r\nabc\r\n2\r\nde\r\n0\r\nA: b\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 200") and answer.endswith(b"abcde")


@pytest.mark.parametrize(
    "sent, status",
    [
        (b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 101\r\n\r\n", b"413"),
        (b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nffff\r\n", b"413"),
        (b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: x\r\n\r\n", b"400"),
        (b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\nabc", b"502"),
        (b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", b"502"),
        (b"POST / HTTP/1.1\r\nHost: a\r\nZipline-Ticket: none\r\n\r\n", b"502"),
        (b"NONSENSE\r\n\r\n", b"400"),
    ],
)
def test_a_peer_that_misbehaves_is_answered_and_the_function_serves_on(lonely, sent, status):
    answer = exchange(lonely.port, sent)
    assert answer.startswith(b"HTTP/1.1 " + status), answer[:200]
    assert exchange(lonely.port, b"POST / HTTP/1.0\r\nContent-Length: 2\r\n\r\nhi").endswith(b"hi")


def test_a_function_registers_anew_when_its_proxy_restarts(scratch):
    ring, port = key_ring(), free_port()
    first = Proxy(scratch, ring, "consumer", port)
    client = Client(first.api)
    served = Function(client, lambda request: request.payload, port)
    try:
        until("the registration", 10, lambda: served.server.is_registered)
        first.stop()
        until("its end", 10, lambda: not served.server.is_registered)
        second = Proxy(scratch, ring, "consumer", port, {"ZIPLINE_API_SOCKET": str(first.socket)})
        try:
            until("the new registration", 10, lambda: served.server.is_registered)
        finally:
            second.stop()
    finally:
        served.stop()


def test_stopping_lets_a_request_in_progress_finish():
    begun, go_on = threading.Event(), threading.Event()

    def slow(request):
        begun.set()
        assert go_on.wait(20)
        return b"done"

    served = Function(Client("http://127.0.0.1:9"), slow, 0)
    answers = []
    peer = threading.Thread(target=lambda: answers.append(exchange(served.server.port, b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")))
    peer.start()
    assert begun.wait(20)
    stopping = threading.Thread(target=served.stop)
    stopping.start()
    go_on.set()
    peer.join(20)
    stopping.join(20)
    assert answers[0].endswith(b"done") and not stopping.is_alive()


def test_sigterm_ends_serve_with_success(tmp_path):
    port = free_port()
    program = tmp_path / "function.py"
    program.write_text("import zipline_sdk\nzipline_sdk.serve(lambda request: b'up', zipline_sdk.Client('http://127.0.0.1:9'))\n")
    environment = {**os.environ, "PORT": str(port), "PYTHONPATH": os.pathsep.join(sys.path)}
    process = subprocess.Popen([sys.executable, program], env=environment)
    try:
        until("the function to answer", 20, lambda: exchange(port, b"GET / HTTP/1.0\r\n\r\n").endswith(b"up"))
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 0
    finally:
        process.kill()
        process.wait()


def test_a_missing_port_is_named(monkeypatch):
    for value in (None, "", "http", "0", "70000"):
        monkeypatch.delenv("PORT", raising=False)
        if value is not None:
            monkeypatch.setenv("PORT", value)
        with pytest.raises(zipline_sdk.ConfigurationError, match="PORT"):
            zipline_sdk.serve(lambda request: None, Client("http://127.0.0.1:9"))
