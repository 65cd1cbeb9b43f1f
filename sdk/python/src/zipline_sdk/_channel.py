"""The descriptor channel: payloads pass as descriptors of the memory they lie in.

A channel is a connection of the local API's Unix socket, switched by `Upgrade`. One operation runs on a channel at a time,
because a lease belongs to its channel: a `get` that fails half-way closes it and so gives the lease back. Channels are pooled,
bounded, and opened anew when the proxy has closed them.
"""

from __future__ import annotations

import base64
import binascii
import contextlib
import json
import os
import select
import socket
import struct
import threading
from typing import Any, Dict, Iterator, List, Mapping, Optional, Tuple

from ._config import Endpoint, Limits
from ._error import ProtocolError, Unreachable, problem_of, refusal
from ._generated import DESCRIPTOR_PROTOCOL, HEADER_ERROR, MESSAGE_BYTES_MAX
from ._http import connect
from ._payload import Payload

#: Bytes of the answer to the upgrade, its body included.
_UPGRADE_BYTES_MAX = 8192
#: Descriptors that one read may bring. The protocol allows one; a second is closed.
_DESCRIPTORS_MAX = 4

_Passed = Tuple[Dict[str, Any], Optional[int]]


class Channel:
    """A switched connection."""

    def __init__(self, endpoint: Endpoint, limits: Limits) -> None:
        self._api = str(endpoint)
        self._next_id = 1
        try:
            self._socket = connect(endpoint, limits.connect_seconds)
        except OSError as error:
            raise Unreachable(self._api, error) from error
        try:
            self._upgrade()
            self._socket.settimeout(limits.answer_seconds)
        except BaseException as error:
            self._socket.close()
            if isinstance(error, OSError):
                raise Unreachable(self._api, error) from error
            raise

    def ask(self, op: str, fields: Mapping[str, Any], descriptor: Optional[int] = None) -> _Passed:
        """Sends a message and waits for the answer to it. The caller owns the descriptor that comes with it."""
        identity, self._next_id = self._next_id, self._next_id + 1
        try:
            self._send({"op": op, "id": identity, **fields}, descriptor)
            answer, passed = self._receive(op)
        except OSError as error:
            raise Unreachable(self._api, error) from error
        try:
            if answer.get("id") != identity:
                raise ProtocolError(op, f"the answer is to message {answer.get('id')}, not to {identity}")
            if answer.get("ok") is not True:
                name, status = answer.get("error"), answer.get("status")
                if not isinstance(name, str):
                    raise ProtocolError(op, "a refusal without a name")
                raise refusal(name, status if isinstance(status, int) else 500, answer)
        except BaseException:
            _close(passed)
            raise
        return answer, passed

    def wait_closed(self, wake: socket.socket) -> None:
        """Returns when the proxy has closed the channel, or when ``wake`` can be read."""
        while True:
            ready = select.select([self._socket, wake], [], [])[0]
            if wake in ready or not self._socket.recv(4096):
                return

    def is_open(self) -> bool:
        """Whether the proxy has neither closed it nor said something unasked."""
        return not select.select([self._socket], [], [], 0)[0]

    def close(self) -> None:
        """Closes it, and so gives back the leases it holds."""
        self._socket.close()

    def _upgrade(self) -> None:
        request = (
            "GET /v1/descriptors HTTP/1.1\r\nHost: zipline\r\nConnection: Upgrade\r\n"
            f"Upgrade: {DESCRIPTOR_PROTOCOL}\r\n\r\n"
        )
        self._socket.sendall(request.encode("ascii"))
        head = b""
        while not head.endswith(b"\r\n\r\n"):
            byte = self._socket.recv(1)  # What follows the head belongs to messages, and a descriptor may come with it.
            if not byte or len(head) > _UPGRADE_BYTES_MAX:
                raise ProtocolError("GET /v1/descriptors", "no whole head")
            head += byte
        lines = head.decode("latin-1").split("\r\n")
        words = lines[0].split(" ", 2)
        if len(words) >= 2 and words[1] == "101":
            return
        fields = dict(line.lower().split(": ", 1) for line in lines[1:] if ": " in line)
        name = fields.get(HEADER_ERROR)
        if name and words[1].isdigit():
            length = min(int(fields.get("content-length", "0")), _UPGRADE_BYTES_MAX)
            raise refusal(name, int(words[1]), problem_of(self._exactly(length, "GET /v1/descriptors")))
        raise ProtocolError("GET /v1/descriptors", f"expected 101, not `{lines[0]}`")

    def _send(self, message: Mapping[str, Any], descriptor: Optional[int]) -> None:
        body = json.dumps(message, separators=(",", ":")).encode("utf-8")
        if len(body) > MESSAGE_BYTES_MAX:
            raise ProtocolError(str(message["op"]), f"a message has at most {MESSAGE_BYTES_MAX} bytes, this one {len(body)}")
        framed = struct.pack(">I", len(body)) + body
        sent = socket.send_fds(self._socket, [framed], [descriptor]) if descriptor is not None else 0
        self._socket.sendall(framed[sent:])

    def _receive(self, op: str) -> _Passed:
        head, descriptors, _, _ = socket.recv_fds(self._socket, 4, _DESCRIPTORS_MAX, socket.MSG_CMSG_CLOEXEC)
        passed = descriptors[0] if descriptors else None
        for surplus in descriptors[1:]:
            os.close(surplus)
        try:
            if not head:
                raise ConnectionResetError("the queue-proxy closed the descriptor channel")
            head += self._exactly(4 - len(head), op)
            (length,) = struct.unpack(">I", head)
            if length > MESSAGE_BYTES_MAX:
                raise ProtocolError(op, f"a message of {length} bytes announced, {MESSAGE_BYTES_MAX} is the limit")
            answer = json.loads(self._exactly(length, op))
            if not isinstance(answer, dict):
                raise ProtocolError(op, "the message is not an object")
            return answer, passed
        except ValueError as error:
            _close(passed)
            raise ProtocolError(op, error) from error
        except BaseException:
            _close(passed)
            raise

    def _exactly(self, length: int, op: str) -> bytes:
        data = b""
        while len(data) < length:
            piece = self._socket.recv(length - len(data))
            if not piece:
                raise ProtocolError(op, "the queue-proxy closed the descriptor channel within a message")
            data += piece
        return data


class Channels:
    """The pool."""

    def __init__(self, endpoint: Endpoint, limits: Limits) -> None:
        self._endpoint = endpoint
        self._limits = limits
        self._permits = threading.BoundedSemaphore(max(1, limits.channels_max))
        self._lock = threading.Lock()
        self._idle: List[Channel] = []

    def put(self, fields: Mapping[str, Any], descriptor: int) -> Dict[str, Any]:
        """Hands sealed memory over as a new object."""
        with self._lent() as channel:
            answer, passed = channel.ask("put", fields, descriptor)
            _close(passed)
            return answer

    def get(self, token: str) -> Payload:
        """Reads an object and acknowledges it."""
        with self._lent() as channel:
            answer, passed = channel.ask("get", {"reference": token})
            # Whatever fails from here on closes the channel, and so gives the lease back.
            payload = _payload("get", answer, passed)
            if "lease" not in answer:
                raise ProtocolError("get", "no lease")
            _close(channel.ask("accept", {"lease": answer["lease"]})[1])
            return payload

    def redeem(self, ticket: str) -> Payload:
        """Exchanges a request's ticket for its payload. The response head acknowledges it."""
        with self._lent() as channel:
            answer, passed = channel.ask("redeem", {"ticket": ticket})
            return _payload("redeem", answer, passed)

    def register(self) -> Channel:
        """A channel on which this process is registered as a serving function, for as long as it is open."""
        channel = Channel(self._endpoint, self._limits)
        try:
            _close(channel.ask("serve", {})[1])
        except BaseException:
            channel.close()
            raise
        return channel

    def close(self) -> None:
        """Closes the pooled channels."""
        with self._lock:
            idle, self._idle = self._idle, []
        for channel in idle:
            channel.close()

    @contextlib.contextmanager
    def _lent(self) -> Iterator[Channel]:
        with self._permits:
            channel = self._pooled() or Channel(self._endpoint, self._limits)
            try:
                yield channel
            except BaseException:
                channel.close()
                raise
            with self._lock:
                self._idle.append(channel)

    def _pooled(self) -> Optional[Channel]:
        while True:
            with self._lock:
                if not self._idle:
                    return None
                channel = self._idle.pop()
            if channel.is_open():
                return channel
            channel.close()


def _payload(op: str, answer: Mapping[str, Any], descriptor: Optional[int]) -> Payload:
    """The payload that was granted: as a descriptor, or inside the message."""
    content_type = answer.get("content_type")
    content_type = content_type if isinstance(content_type, str) else None
    inline = answer.get("inline")
    if descriptor is not None:
        payload = Payload._mapped(descriptor, content_type)
    elif isinstance(inline, str):
        try:
            payload = Payload(base64.b64decode(inline, validate=True), content_type)
        except (binascii.Error, ValueError) as error:
            raise ProtocolError(op, f"inline: {error}") from error
    else:
        raise ProtocolError(op, "neither a descriptor nor inline bytes")
    size = answer.get("size")
    if isinstance(size, int) and size != len(payload):
        received = len(payload)
        payload.close()
        raise ProtocolError(op, f"{size} bytes announced, {received} came")
    return payload


def _close(descriptor: Optional[int]) -> None:
    if descriptor is not None:
        os.close(descriptor)
