"""A function as an HTTP/1.1 server on ``$PORT``: one thread a connection.

While it serves, it is registered at its queue-proxy: a request whose payload came by reference then carries a one-time ticket
instead of a body, and is given to the handler with its payload mapped, not copied. Without a registration (another system, an
older proxy, a local API over TCP) the payload arrives as an ordinary body. HTTP/2 is not spoken here.
"""

from __future__ import annotations

import contextlib
import http.server
import json
import logging
import os
import select
import signal
import socket
import threading
from typing import Any, Callable, Dict, Iterator, Optional, Tuple, Union

from ._client import Client
from ._error import ConfigurationError, ProtocolError, Refused, SystemFailure, ZiplineError
from ._generated import (
    HEADER_ERROR,
    HEADER_TICKET,
    STORED_PAYLOAD_MEDIA_TYPE,
    PayloadTooLarge,
    ReferenceInvalid,
    RequestInvalid,
)
from ._message import Failure, Request, Response
from ._payload import Data, Payload, as_payload
from ._reference import stored
from ._store_key import Stored

#: Connections at once; further ones wait in the kernel's queue. A queue-proxy keeps at most its concurrency, or 1,000.
CONNECTIONS_MAX = 1024
#: After the shutdown signal, requests in progress have this long to finish, in seconds.
GRACE_SECONDS = 30.0
#: First and longest pause before registering anew, in seconds. A proxy that restarts must find its function again, so the number
#: of tries has no limit; their rate has.
_REGISTER_PAUSE_SECONDS = (0.02, 1.0)
#: Connections that wait in the kernel's queue.
_BACKLOG = 128
#: Pause after the system refused a connection, in seconds.
_ACCEPT_PAUSE_SECONDS = 0.02
#: Bytes of a line that frames a chunk.
_CHUNK_LINE_BYTES_MAX = 1024

#: What a handler may return.
Answerable = Union[Response, Data, None]
#: A function: gets a request, returns an answer or raises.
FunctionHandler = Callable[[Request], Answerable]

_log = logging.getLogger("zipline_sdk")


def serve(handler: FunctionHandler, client: Optional[Client] = None) -> None:
    """Serves ``$PORT`` until SIGTERM or SIGINT. Call it from the main thread.

    The handler runs on a thread per connection. It returns a :class:`Response`, bytes, text, a :class:`Payload`, or ``None`` for an
    empty answer; what it raises becomes an answer of status 500, or of a :class:`Failure`'s status.
    """
    server = Server.from_env(client or Client.from_env())
    for number in (signal.SIGTERM, signal.SIGINT):
        # On a thread: the signal interrupts the very thread that `serve` runs on, which may hold a lock that `stop` needs.
        signal.signal(number, lambda *_: threading.Thread(target=server.stop, daemon=True).start())
    server.serve(handler)


class Server:
    """A bound port that requests will come to."""

    def __init__(self, client: Client, address: Tuple[str, int] = ("127.0.0.1", 0)) -> None:
        """Binds that address; port 0 chooses one."""
        self.client = client
        try:
            self._listener = socket.create_server(address, backlog=_BACKLOG)
        except OSError as error:
            raise SystemFailure(f"binding the function's port {address[0]}:{address[1]}", error) from error
        self._port = int(self._listener.getsockname()[1])
        self._handler: FunctionHandler = _unanswered
        # One permit a connection, and one that `stop` adds so that a full server notices it.
        self._permits = threading.Semaphore(CONNECTIONS_MAX)
        self._stopping = threading.Event()
        self._stop = _Wake()
        self._finished = threading.Event()
        self._finish = _Wake()
        self._registered = threading.Event()
        self._requests = threading.Condition()
        self._in_progress = 0

    @classmethod
    def from_env(cls, client: Client) -> "Server":
        """Binds loopback at ``$PORT``, where the queue-proxy connects to."""
        text = os.environ.get("PORT", "")
        if not text.isdigit() or not 0 < int(text) < 65536:
            raise ConfigurationError("PORT", text, "expected the TCP port that the function is to listen on")
        return cls(client, ("127.0.0.1", int(text)))

    @property
    def port(self) -> int:
        """The port it is bound to."""
        return self._port

    @property
    def is_registered(self) -> bool:
        """Whether payloads that came by reference are mapped for the handler, not sent as bodies."""
        return self._registered.is_set()

    def serve(self, handler: FunctionHandler) -> None:
        """Serves until :meth:`stop`, then lets requests in progress finish, for at most 30 s. Once."""
        self._handler = handler
        registration = threading.Thread(target=self._stay_registered, name="zipline-registration", daemon=True)
        registration.start()
        try:
            self._accept()
        finally:
            self._listener.close()  # From here on new connections are refused.
            self._finish_requests(GRACE_SECONDS)
            self._finished.set()
            self._finish.set()
            # What has been read is freed; what others still hold references to stays for them.
            self.client._stores.clean_up(owned=False)
            registration.join()
            self._stop.close()
            self._finish.close()

    def stop(self) -> None:
        """Lets :meth:`serve` return; from any thread, also before it was called."""
        self._stopping.set()
        self._stop.set()
        self._permits.release()

    def _accept(self) -> None:
        while True:
            self._permits.acquire()
            if not self._stopping.is_set():
                select.select([self._listener, self._stop.socket], [], [])
            if self._stopping.is_set():
                return
            try:
                connection, address = self._listener.accept()
            except OSError as error:
                # The peer is gone again, or the system is short of descriptors: a short pause, then on.
                _log.warning("a connection could not be accepted: %s", error)
                self._permits.release()
                self._stopping.wait(_ACCEPT_PAUSE_SECONDS)
                continue
            threading.Thread(target=self._serve_connection, args=(connection, address), daemon=True).start()

    def _serve_connection(self, connection: socket.socket, address: Any) -> None:
        try:
            with connection:
                _Exchange(connection, address, self)
        except Exception:  # noqa: BLE001: how a connection ended concerns its peer alone
            _log.debug("a connection broke", exc_info=True)
        finally:
            self._permits.release()

    def _answer(self, request: Request) -> Answerable:
        return self._handler(request)

    @contextlib.contextmanager
    def _request_in_progress(self) -> Iterator[None]:
        with self._requests:
            self._in_progress += 1
        try:
            yield
        finally:
            with self._requests:
                self._in_progress -= 1
                self._requests.notify_all()

    def _finish_requests(self, seconds: float) -> None:
        """Waits until no request is in progress. Connections that are kept alive end with the process."""
        with self._requests:
            self._requests.wait_for(lambda: self._in_progress == 0, timeout=seconds)

    def _stay_registered(self) -> None:
        """Keeps this process registered at its queue-proxy, for as long as it serves."""
        pause, longest = _REGISTER_PAUSE_SECONDS
        while True:
            try:
                if not self.client._passes_descriptors():
                    return  # Payloads come as bodies.
                channel = self.client._channels.register()
                try:
                    self._registered.set()
                    channel.wait_closed(self._finish.socket)
                finally:
                    self._registered.clear()
                    channel.close()
                pause = _REGISTER_PAUSE_SECONDS[0]  # It was registered; the proxy restarts, or we stop.
            except (ZiplineError, OSError):
                pass  # The proxy is not up yet, or no longer.
            if self._finished.wait(pause):
                return
            pause = min(pause * 2, longest)


class _Wake:
    """A socket that can be read once it was set, to be selected on."""

    def __init__(self) -> None:
        self.socket, self._other = socket.socketpair()

    def set(self) -> None:
        with contextlib.suppress(OSError):  # It was closed: nobody waits any more.
            self._other.send(b"x")

    def close(self) -> None:
        self.socket.close()
        self._other.close()


def _unanswered(_: Request) -> Answerable:
    raise Failure(503, "the function is not serving")


class _Exchange(http.server.BaseHTTPRequestHandler):
    """One connection. ``do_METHOD`` is looked up by name, so every method leads to the same place."""

    protocol_version = "HTTP/1.1"
    default_request_version = "HTTP/1.0"  # What is no request line is answered with a status, not as HTTP/0.9.
    disable_nagle_algorithm = True
    wbufsize = -1  # Head and a small body leave in one packet.
    server: Server  # type: ignore[assignment]

    def __getattr__(self, name: str) -> Any:
        if name.startswith("do_"):
            return self._request
        raise AttributeError(name)

    def version_string(self) -> str:
        return "zipline-sdk"

    def log_message(self, format: str, *arguments: Any) -> None:
        _log.debug(format, *arguments)

    def _request(self) -> None:
        with self.server._request_in_progress():
            self._answer(self._outcome())

    def _outcome(self) -> Response:
        try:
            payload, in_store = self._resolved(self._payload())
        except ZiplineError as error:
            # The handler did not see it. What is left of the body is not worth reading.
            self.close_connection = True
            return _refusal(error)
        del self.headers[HEADER_TICKET]
        if self.headers.get("Content-Type"):
            payload.content_type = self.headers["Content-Type"]
        response = self._handled(Request(self.command, self.path, self.headers, payload))
        if in_store is not None and response.status < 500:
            # As for every payload that came by reference: an answer below 500 is its retrieval.
            self.server.client._stores.retrieved(in_store)
        return response

    def _handled(self, request: Request) -> Response:
        try:
            return _response(self.server._answer(request))
        except Failure as failure:
            return Response.of(failure.message + "\n", status=failure.status)
        except Exception as error:  # noqa: BLE001: a handler's failure costs one request, not the process
            _log.exception("the handler failed at %s %s", request.method, request.path)
            return Response.of(f"{type(error).__name__}: {error}\n", status=500)

    def _resolved(self, received: Payload) -> Tuple[Payload, Optional[Stored]]:
        """Puts the payload in place of a body that says in which store it lies. A function without a store takes such a body as it
        is."""
        client = self.server.client
        if self.headers.get("Content-Type") != STORED_PAYLOAD_MEDIA_TYPE or not client.config.stores.any:
            return received, None
        try:
            envelope = json.loads(bytes(received))
            in_store = stored(envelope["reference"])
            content_type = envelope.get("content_type")
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ReferenceInvalid(f"the body that stands for a payload is not understood: {error}") from None
        if in_store is None:
            raise ReferenceInvalid("the body that stands for a payload has a reference to no store")
        payload = client._stores.peek(in_store)
        del self.headers["Content-Type"]
        if content_type or payload.content_type:
            self.headers["Content-Type"] = str(content_type or payload.content_type)
        return payload, in_store

    def _payload(self) -> Payload:
        ticket = self.headers.get(HEADER_TICKET)
        if ticket is not None:
            return self.server.client._channels.redeem(ticket)
        if "chunked" in self.headers.get("Transfer-Encoding", "").lower():
            return Payload(self._chunks())
        length = self.headers.get("Content-Length", "0").strip()
        if not length.isdigit():
            raise RequestInvalid(f"Content-Length `{length}` is not a number")
        self._within_limit(int(length))
        data = bytearray(int(length))
        view, filled = memoryview(data), 0
        while filled < len(data):
            read = self.rfile.readinto(view[filled:])  # type: ignore[attr-defined]
            if not read:
                raise ProtocolError("a request", f"its body broke off after {filled} of {length} bytes")
            filled += read
        return Payload(data)

    def _chunks(self) -> bytearray:
        data = bytearray()
        while True:
            line = self.rfile.readline(_CHUNK_LINE_BYTES_MAX)
            try:
                size = int(line.split(b";")[0], 16)
            except ValueError:
                raise ProtocolError("a request", "its body is not well chunked") from None
            if size == 0:
                while self.rfile.readline(_CHUNK_LINE_BYTES_MAX).strip():
                    pass  # Trailers.
                return data
            self._within_limit(len(data) + size)
            piece = self.rfile.read(size + 2)
            if len(piece) < size + 2:
                raise ProtocolError("a request", f"its body broke off after {len(data) + len(piece)} bytes")
            data += memoryview(piece)[:size]

    def _within_limit(self, size: int) -> None:
        limit = self.server.client.config.limits.heap_bytes_max
        if size > limit:
            raise PayloadTooLarge(f"a request's body is received up to {limit} bytes, this one has {size} or more")

    def _answer(self, response: Response) -> None:
        self.send_response(response.status)
        names = set()
        for name, value in response.headers.items():
            if name.lower() not in ("content-length", "transfer-encoding", "connection"):
                names.add(name.lower())
                self.send_header(name, value)
        if response.payload.content_type and "content-type" not in names:
            self.send_header("Content-Type", response.payload.content_type)
        bodiless = response.status in (204, 304)
        if not bodiless:
            self.send_header("Content-Length", str(len(response.payload)))
        if self.close_connection:
            self.send_header("Connection", "close")
        self.end_headers()
        if not bodiless and self.command != "HEAD":
            self.wfile.write(response.payload.view)


def _response(answer: Answerable) -> Response:
    if isinstance(answer, Response):
        return answer
    return Response() if answer is None else Response(as_payload(answer))


def _refusal(error: ZiplineError) -> Response:
    """The answer to a request whose payload could not be had."""
    headers: Dict[str, str] = {}
    status = 502
    if isinstance(error, Refused):
        status = error.status
        headers[HEADER_ERROR] = error.name
    return Response.of(f"{error}\n", status=status, headers=headers)
