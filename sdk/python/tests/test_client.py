"""The client against a real queue-proxy: the way bytes take, and what happens when something is missing."""

import os
import socket
import threading

import pytest
from world import Proxy, World, free_port, key_ring

import zipline_sdk
from zipline_sdk import Client, Limits, PayloadBuffer, Reference

MIB = 1 << 20


@pytest.fixture(scope="module")
def world(module_scratch):
    made = World(module_scratch, lambda _, request: request.payload)
    yield made
    made.stop()


def handed_over(proxy):
    return proxy.metrics().get("zipline_handovers_total", 0)


def test_a_large_payload_passes_as_a_descriptor_both_ways(world):
    client = world.clients["producer"]
    before = handed_over(world.producer)
    buffer = PayloadBuffer(8 * MIB)
    buffer.view[-1] = 7
    reference = client.put(buffer.finish())
    assert handed_over(world.producer) == before + 1
    payload = client.get(reference)
    assert payload.is_mapped and payload.view[8 * MIB - 1] == 7
    assert handed_over(world.producer) == before + 2
    # What was received can be put again without a copy.
    again = client.put(payload)
    assert handed_over(world.producer) == before + 3
    client.release(again)
    payload.close()
    world.producer.at_rest()


def test_a_small_payload_needs_no_descriptor(world):
    client = world.clients["producer"]
    before = handed_over(world.producer)
    assert bytes(client.get(client.put(b"small", content_type="text/x"))) == b"small"
    assert handed_over(world.producer) == before


def test_a_failing_stream_aborts_its_object(world):
    client = world.clients["producer"]

    def pieces():
        yield b"a" * 1000
        raise RuntimeError("the source is gone")

    with pytest.raises(RuntimeError):
        client.put_stream(pieces())
    receipt, writer = client.open()
    with pytest.raises(RuntimeError):
        writer.write(pieces())
    with pytest.raises(zipline_sdk.PayloadAborted):
        world.clients["consumer"].get(receipt.reference)
    world.producer.at_rest()


def test_an_object_can_be_read_while_it_is_written(world):
    receipt, writer = world.clients["producer"].open()
    read, go_on = threading.Event(), threading.Event()

    def pieces():
        yield b"a" * MIB
        read.set()
        assert go_on.wait(20)
        yield b"b" * 5

    got = []
    reader = threading.Thread(target=lambda: got.append(world.clients["consumer"].get(receipt.reference)))
    writing = threading.Thread(target=lambda: writer.write(pieces()))
    writing.start()
    assert read.wait(20)
    reader.start()
    go_on.set()
    writing.join(20)
    reader.join(20)
    assert bytes(got[0]) == b"a" * MIB + b"b" * 5


def test_invoke_frees_its_payload_when_the_call_ends(world):
    answer = world.clients["producer"].invoke("consumer", b"q" * MIB)
    assert answer.payload == b"q" * MIB
    world.producer.at_rest()
    world.consumer.at_rest()


def test_many_threads_share_one_client(world):
    client = Client(world.producer.api, limits=Limits(connections_max=3, channels_max=2))
    payloads = [bytes([n]) * (n * 9000) for n in range(30)]
    assert client.gather(client.scatter(payloads, parallel=12), parallel=12) == payloads
    client.close()
    world.producer.at_rest()


def test_a_connection_that_the_proxy_closed_is_not_used(scratch):
    ring = key_ring()
    proxy = Proxy(scratch, ring, "first")
    client = Client(proxy.api)
    client.get(client.put(b"x" * 100_000))
    proxy.stop()
    with pytest.raises(zipline_sdk.Unreachable):
        client.put(b"y" * 100_000)
    second = Proxy(scratch, ring, "second", environment={"ZIPLINE_API_SOCKET": str(proxy.socket)})
    try:
        assert len(client.get(client.put(b"y" * 100_000))) == 100_000
    finally:
        client.close()
        second.stop()


def test_http_is_enough_where_no_descriptor_can_pass(scratch):
    port = free_port()
    proxy = Proxy(scratch, key_ring(), "plain", environment={"ZIPLINE_API_PORT": str(port)})
    try:
        for address in (f"http://{proxy.ip}:{port}", f"http://127.0.0.1:{port}"):
            try:
                socket.create_connection((address[7:].rsplit(":", 1)[0], port), timeout=2).close()
                break
            except OSError:
                continue
        with Client(address) as client:
            payload = client.get(client.put(b"z" * 3 * MIB, content_type="image/jpeg"))
            assert not payload.is_mapped and payload == b"z" * 3 * MIB and payload.content_type == "image/jpeg"
            assert client.stat(client.put(PayloadBuffer(MIB).finish())).size == MIB
    finally:
        proxy.stop()


def test_an_answer_that_is_too_large_for_the_heap_is_refused_by_name(world):
    with Client(world.producer.api, limits=Limits(heap_bytes_max=1000)) as client:
        reference = client.put(b"a" * 2000)
        with pytest.raises(zipline_sdk.PayloadTooLarge):
            client.get(reference, range=(0, 1500))
        client.release(reference)


def test_an_early_refusal_arrives_though_the_body_is_still_being_sent(scratch):
    small = {"ZIPLINE_BUFFER_BYTES": "1MiB", "ZIPLINE_PUT_WAIT_SECONDS": "0"}
    proxy = Proxy(scratch, key_ring(), "small", environment=small)
    try:
        with Client(proxy.api) as client, pytest.raises((zipline_sdk.BufferFull, zipline_sdk.PayloadTooLarge)):
            client.put_stream(b"w" * MIB for _ in range(64))
    finally:
        proxy.stop()


def test_a_reference_does_not_show_its_token():
    reference = Reference("zl1.secret")
    assert "secret" not in repr(reference) and reference == "zl1.secret" and reference.method == "zipline"


def test_tokens_that_no_header_may_carry_are_no_references(scratch):
    client = Client(f"unix:{scratch}/nobody")
    for token in ("", "zl1", "zl1.a\r\nb: c", "zl1.\u20ac", "zl1." + "a" * 600, "zi1.AAAAA", "zi1.a+/a", "\u20ac\u20ac"):
        with pytest.raises(zipline_sdk.ReferenceInvalid):
            client.get(token)


def test_no_descriptor_is_left_open(world):
    client = Client(world.producer.api)
    client.proxy()
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(20):
        client.get(client.put(b"d" * 100_000)).close()
    client.close()
    assert len(os.listdir("/proc/self/fd")) <= before
