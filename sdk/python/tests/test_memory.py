"""Payloads: zero-copy where the system allows it, and immutable always."""

import fcntl
import gc
import os
import sys

import pytest

from zipline_sdk import Payload, PayloadBuffer, PayloadWriter

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="sealed memory exists on Linux only")


def open_descriptors():
    gc.collect()
    return len(os.listdir("/proc/self/fd"))


def test_a_buffer_becomes_the_payload_and_cannot_change_any_more():
    buffer = PayloadBuffer(5, content_type="text/plain")
    buffer.view[:] = b"hello"
    payload = buffer.finish()
    assert payload.is_mapped and bytes(payload) == b"hello" and payload.content_type == "text/plain"
    seals = fcntl.fcntl(payload._descriptor, fcntl.F_GET_SEALS)
    assert seals & 0b1111 == 0b1111
    with pytest.raises(OSError):
        os.pwrite(payload._descriptor, b"x", 0)
    with pytest.raises(TypeError):
        payload.view[0] = 1


def test_a_buffer_has_no_holes_though_nothing_was_written():
    payload = PayloadBuffer(1 << 20).finish()
    assert os.fstat(payload._descriptor).st_blocks * 512 >= 1 << 20


def test_a_view_that_is_alive_keeps_a_buffer_from_being_sealed():
    buffer = PayloadBuffer(8)
    part = buffer.view[2:4]
    with pytest.raises(BufferError):
        buffer.finish()
    part.release()
    assert len(buffer.finish()) == 8


def test_a_writer_grows_and_an_empty_one_is_an_empty_payload():
    writer = PayloadWriter()
    for _ in range(3):
        writer.write(bytearray(b"abc" * 1000))
    assert writer.written_bytes == 9000
    assert bytes(writer.finish()) == b"abc" * 3000
    assert bytes(PayloadWriter().finish()) == b""
    assert bytes(PayloadBuffer(0).finish()) == b""


def test_views_outlive_the_payload():
    view = PayloadBuffer(4096).finish().view
    gc.collect()
    assert view[4095] == 0


def test_descriptors_go_with_their_owners():
    before = open_descriptors()
    kept = [PayloadBuffer(100).finish(), PayloadWriter().finish()]
    PayloadWriter()
    PayloadBuffer(10)
    assert open_descriptors() > before
    for payload in kept:
        payload.close()
        payload.close()
    assert open_descriptors() == before


def test_payloads_compare_by_their_bytes():
    assert Payload(b"abc") == b"abc" == bytes(Payload(bytearray(b"abc")))
    assert Payload(b"abc") != Payload(b"abd")
    assert Payload("é".encode()).text() == "é"
