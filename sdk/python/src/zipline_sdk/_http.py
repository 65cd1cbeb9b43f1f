"""Requests to the local API over a bounded pool of persistent connections.

A connection goes back to the pool when its answer was read to the end; any other is closed. A request is never sent twice: a
pooled connection that the proxy has closed meanwhile is noticed before a byte of the request is written.
"""

from __future__ import annotations

import contextlib
import http.client
import select
import socket
import threading
from dataclasses import dataclass
from typing import Any, Iterable, Iterator, List, Mapping, Optional, Union

from ._config import Endpoint, Limits
from ._error import ProtocolError, Refused, Unreachable, problem_of, refusal
from ._generated import HEADER_ERROR, PayloadTooLarge

#: A body: bytes of known length, or pieces of unknown length, which are sent chunked.
Body = Union[bytes, memoryview, Iterable[bytes], None]

#: Bytes asked for at once while an answer of unknown length is read.
_PIECE_BYTES = 1 << 20


@dataclass
class Answer:
    """An answer that was read to its end."""

    status: int
    headers: http.client.HTTPMessage
    body: bytes

    def refused(self) -> Optional[Refused]:
        """The refusal, if this answer is one: a proxy's own error carries `Zipline-Error`, a function's does not."""
        name = self.headers.get(HEADER_ERROR)
        return refusal(name, self.status, problem_of(self.body)) if name else None

    def accepted(self, what: str) -> "Answer":
        """The answer itself, if it is a success; raises the refusal that it is."""
        error = self.refused()
        if error is not None:
            raise error
        if not 200 <= self.status < 300:
            raise ProtocolError(what, f"status {self.status} without a {HEADER_ERROR} header")
        return self


class _Connection(http.client.HTTPConnection):
    """A connection to an endpoint, Unix or TCP."""

    def __init__(self, endpoint: Endpoint, limits: Limits) -> None:
        host, port = endpoint.tcp or ("zipline", 80)
        super().__init__(host, port, timeout=limits.answer_seconds, blocksize=_PIECE_BYTES)
        self._endpoint = endpoint
        self._connect_seconds = limits.connect_seconds

    def connect(self) -> None:
        self.sock = connect(self._endpoint, self._connect_seconds)
        self.sock.settimeout(self.timeout)

    def is_open(self) -> bool:
        """Whether the other side has neither closed it nor said something unasked."""
        return self.sock is not None and not select.select([self.sock], [], [], 0)[0]


def connect(endpoint: Endpoint, seconds: float) -> socket.socket:
    """A new connection to an endpoint."""
    if endpoint.tcp is not None:
        connected = socket.create_connection(endpoint.tcp, timeout=seconds)
        connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return connected
    connected = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        connected.settimeout(seconds)
        connected.connect(endpoint.unix)
    except BaseException:
        connected.close()
        raise
    return connected


class Connections:
    """The pool."""

    def __init__(self, endpoint: Endpoint, limits: Limits) -> None:
        self._endpoint = endpoint
        self._limits = limits
        self._permits = threading.BoundedSemaphore(max(1, limits.connections_max))
        self._lock = threading.Lock()
        self._idle: List[_Connection] = []

    def ask(self, what: str, method: str, target: str, headers: Mapping[str, str], body: Body = None) -> Answer:
        """Sends a request and reads the whole answer, at most ``heap_bytes_max`` bytes of it."""
        with self._lent() as connection:
            try:
                response = self._exchange(connection, method, target, headers, body)
                data = self._read(response)
            except (OSError, http.client.HTTPException) as error:
                raise Unreachable(str(self._endpoint), str(error) or type(error).__name__) from error
            if not response.will_close:
                self._give_back(connection)
            return Answer(response.status, response.headers, data)

    def close(self) -> None:
        """Closes the pooled connections."""
        with self._lock:
            idle, self._idle = self._idle, []
        for connection in idle:
            connection.close()

    @contextlib.contextmanager
    def _lent(self) -> Iterator[_Connection]:
        with self._permits:
            connection = self._pooled() or _Connection(self._endpoint, self._limits)
            try:
                yield connection
            finally:
                with self._lock:
                    is_pooled = any(connection is other for other in self._idle)
                if not is_pooled:
                    connection.close()

    def _pooled(self) -> Optional[_Connection]:
        while True:
            with self._lock:
                if not self._idle:
                    return None
                connection = self._idle.pop()
            if connection.is_open():
                return connection
            connection.close()

    def _give_back(self, connection: _Connection) -> None:
        with self._lock:
            self._idle.append(connection)

    def _exchange(
        self, connection: _Connection, method: str, target: str, headers: Mapping[str, str], body: Body
    ) -> http.client.HTTPResponse:
        is_stream = body is not None and not isinstance(body, (bytes, memoryview))
        connection.putrequest(method, target, skip_host=True, skip_accept_encoding=True)
        connection.putheader("Host", "zipline")
        for name, value in headers.items():
            connection.putheader(name, value)
        if is_stream:
            connection.putheader("Transfer-Encoding", "chunked")
        elif body is not None or method in ("POST", "PUT"):
            connection.putheader("Content-Length", str(0 if body is None else memoryview(body).nbytes))  # type: ignore[arg-type]
        try:
            if is_stream:
                connection.endheaders(_nonempty(body), encode_chunked=True)  # type: ignore[arg-type]
            else:
                connection.endheaders(body or None)  # type: ignore[arg-type]
        except (BrokenPipeError, ConnectionResetError):
            # An early refusal closes the connection while we send; its answer says why.
            pass
        return connection.getresponse()

    def _read(self, response: http.client.HTTPResponse) -> bytes:
        limit = self._limits.heap_bytes_max
        announced = response.length
        if announced is not None and announced > limit:
            raise _too_large(announced, limit)
        if announced is not None:
            data = response.read()
            if len(data) < announced:
                raise http.client.IncompleteRead(data, announced - len(data))
            return data
        pieces: List[bytes] = []
        size = 0
        while True:
            piece = response.read(_PIECE_BYTES)
            if not piece:
                return b"".join(pieces)
            size += len(piece)
            if size > limit:
                raise _too_large(size, limit)
            pieces.append(piece)


def _nonempty(body: Any) -> Iterator[bytes]:
    """An empty chunk would end the body."""
    return (piece for piece in body if len(piece))


def _too_large(size: int, limit: int) -> PayloadTooLarge:
    return PayloadTooLarge(f"an answer is received up to {limit} bytes, this one has {size} or more")
