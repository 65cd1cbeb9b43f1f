"""The client: ``put``, ``get``, ``invoke`` and what goes with them.

A client may be shared by threads. It holds no key and speaks to its own queue-proxy alone. Bytes take the shortest way that is
there: a descriptor over the Unix socket, else HTTP.
"""

from __future__ import annotations

import itertools
import json
import os
import threading
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import Any, Callable, Dict, Iterable, List, Mapping, Optional, Sequence, Tuple, TypeVar, Union

from ._channel import Channels
from ._config import Config, Limits
from ._error import MethodNotBuilt, ProtocolError, ZiplineError
from ._generated import (
    HEADER_EXPIRES,
    HEADER_REFERENCE,
    HEADER_RETRIEVALS_LEFT,
    HEADER_WRITE,
    STORED_PAYLOAD_MEDIA_TYPE,
    TRANSFER_DEFAULT,
    RangeUnsatisfiable,
    RequestInvalid,
)
from ._http import Answer, Body, Connections
from ._message import Response
from ._payload import Data, Payload, as_payload, copied
from ._reference import Reference, inline_bytes, inline_reference, stored
from ._store import StoreSet
from ._store_config import Stores
from ._store_counters import StoreCounters
from ._store_key import Stored

#: A good ``parallel`` where nothing better is known: enough to hide each other's round trips.
PARALLEL_DEFAULT = 8
#: Whole reads granted to a payload that belongs to a call: retries of the call may each read it.
_CALL_RETRIEVALS = 8

_In = TypeVar("_In")
_Out = TypeVar("_Out")


@dataclass(frozen=True)
class ProxyInfo:
    """What the queue-proxy says about itself."""

    release: str
    instance: str
    namespace: str
    service: str
    features: Tuple[str, ...]
    inline_threshold_bytes: int
    heap_threshold_bytes: int


@dataclass(frozen=True)
class Receipt:
    """What a put gives back. Times are UTC; ``None`` under ``inline``, where nothing expires."""

    reference: Reference
    #: Bytes; ``None`` while they are still being written.
    size: Optional[int]
    expires: Optional[datetime] = None
    #: Until when the instance promises to hold it, should it be told to shut down now.
    guaranteed_until: Optional[datetime] = None


@dataclass(frozen=True)
class Stat:
    """What is known of an object."""

    #: Bytes; ``None`` while they are still being written.
    size: Optional[int]
    #: Whole reads left; ``None``: without limit (inline).
    retrievals_left: Optional[int]
    #: ``None``: never (inline).
    expires: Optional[datetime]


class Client:
    """A handle on the local API of one queue-proxy."""

    def __init__(
        self,
        api: Union[str, Config],
        transfer: str = TRANSFER_DEFAULT,
        limits: Optional[Limits] = None,
        stores: Optional[Stores] = None,
    ) -> None:
        """A client of the local API at ``api`` (``unix:/PATH``, ``unix:@NAME``, ``http://HOST:PORT``). Nothing is connected yet."""
        self.config = api if isinstance(api, Config) else Config.of(api, transfer, limits, stores)
        self._stores = StoreSet(self.config.stores, self.config.limits.heap_bytes_max)
        self._connections = Connections(self.config.api, self.config.limits)
        self._channels = Channels(self.config.api, self.config.limits)
        self._lock = threading.Lock()
        self._proxy: Optional[ProxyInfo] = None

    @classmethod
    def from_env(cls, variables: Optional[Mapping[str, str]] = None) -> "Client":
        """The client that the environment describes: ``ZIPLINE_API`` and ``ZIPLINE_TRANSFER``."""
        return cls(Config.from_variables(os.environ if variables is None else variables))

    @property
    def transfer(self) -> str:
        """The transfer method: ``zipline``, ``inline``, ``s3`` or ``redis``."""
        return self.config.transfer

    def close(self) -> None:
        """Closes idle connections; what is in use is closed when it is done. Under ``s3`` and ``redis`` the end of a session:
        :meth:`clean_up` before."""
        self.clean_up()
        self._stores.close()
        self._connections.close()
        self._channels.close()

    def __enter__(self) -> "Client":
        return self

    def __exit__(self, *_: Any) -> None:
        self.close()

    def proxy(self) -> ProxyInfo:
        """What the queue-proxy says about itself; asked for once."""
        with self._lock:
            if self._proxy is None:
                self._proxy = _proxy_info(self._ask("GET /v1", "GET", "/v1", {}))
            return self._proxy

    def store_counters(self) -> StoreCounters:
        """What this client has asked of its stores so far. Under ``zipline`` and ``inline`` that is nothing."""
        return self._stores.counters()

    def clean_up(self) -> None:
        """Deletes what this client put into stores and is still there, and waits until that is done.

        References that others still hold come to nothing, as under ``zipline`` when a producer ends. Does nothing under ``zipline``
        and ``inline``.
        """
        self._stores.clean_up(owned=True)

    # Objects.

    def put(
        self, data: Data, *, retrievals: int = 1, ttl: Optional[float] = None, content_type: Optional[str] = None
    ) -> Reference:
        """Puts a payload and returns once it can be referred to. ``ttl`` in seconds; it is freed after ``retrievals`` whole reads."""
        return self.put_with_receipt(data, retrievals=retrievals, ttl=ttl, content_type=content_type).reference

    def put_with_receipt(
        self, data: Data, *, retrievals: int = 1, ttl: Optional[float] = None, content_type: Optional[str] = None
    ) -> Receipt:
        """As :meth:`put`, with size and expiry."""
        payload = as_payload(data, content_type)
        if self.transfer == "inline":
            return Receipt(inline_reference(bytes(payload)), len(payload))
        if self.transfer != "zipline":
            stored, expires = self._stores.put(self.transfer, payload, retrievals, ttl)
            return Receipt(Reference(stored.token), len(payload), expires)
        handed = self._hand_over(payload, self.proxy().heap_threshold_bytes, retrievals, ttl)
        if handed is not None:
            return handed
        headers = {"Content-Type": payload.content_type} if payload.content_type else {}
        return _receipt("POST /v1/objects", self._ask("POST /v1/objects", "POST", _put_target(retrievals, ttl), headers, payload.view))

    def put_stream(
        self, pieces: Iterable[bytes], *, retrievals: int = 1, ttl: Optional[float] = None, content_type: Optional[str] = None
    ) -> Receipt:
        """Puts a payload whose length is not known before its end. Where the iterable raises, the object is aborted."""
        if self.transfer != "zipline":
            return self.put_with_receipt(b"".join(pieces), retrievals=retrievals, ttl=ttl, content_type=content_type)
        headers = {"Content-Type": content_type} if content_type else {}
        return _receipt("POST /v1/objects", self._ask("POST /v1/objects", "POST", _put_target(retrievals, ttl), headers, iter(pieces)))

    def open(
        self, *, retrievals: int = 1, ttl: Optional[float] = None, content_type: Optional[str] = None
    ) -> Tuple[Receipt, "ObjectWriter"]:
        """A reference at once, to an object that is written afterwards and can be pulled meanwhile."""
        if self.transfer != "zipline":
            raise MethodNotBuilt(f"{self.transfer} (open)")
        headers = {"Content-Type": content_type} if content_type else {}
        answer = self._ask("POST /v1/objects?open", "POST", _put_target(retrievals, ttl, "open"), headers, b"")
        token = _object("POST /v1/objects?open", answer.body).get("write_token")
        if not isinstance(token, str):
            raise ProtocolError("POST /v1/objects?open", "no write_token")
        return _receipt("POST /v1/objects?open", answer), ObjectWriter(self, token)

    def get(self, reference: str, range: Optional[Tuple[int, int]] = None) -> Payload:
        """Reads a payload, wherever it is now; counts as a retrieval.

        ``range`` is (first byte, length): that part is read onto the heap, and does not count.
        """
        in_store = stored(reference)
        if in_store is not None:
            return self._stores.get(in_store) if range is None else self._stores.get_part(in_store, range)
        carried = inline_bytes(reference)
        if carried is not None:
            return Payload(carried if range is None else _part(carried, range))
        if range is None and self._passes_descriptors():
            return self._channels.get(reference)
        headers = {HEADER_REFERENCE: reference}
        if range is not None:
            first, length = range
            if first < 0 or length < 1:
                raise _range_error(range)
            headers["Range"] = f"bytes={first}-{first + length - 1}"
        answer = self._ask("GET /v1/objects", "GET", "/v1/objects", headers)
        if range is not None and len(answer.body) != range[1]:
            raise _range_error(range)
        return Payload(answer.body, answer.headers.get("Content-Type"))

    def stat(self, reference: str) -> Stat:
        """What is known of an object, without reading it."""
        in_store = stored(reference)
        if in_store is not None:
            return Stat(in_store.length, *self._stores.stat(in_store))
        carried = inline_bytes(reference)
        if carried is not None:
            return Stat(len(carried), None, None)
        headers = self._ask("HEAD /v1/objects", "HEAD", "/v1/objects", {HEADER_REFERENCE: reference}).headers
        return Stat(
            _number(headers.get("Content-Length")), _number(headers.get(HEADER_RETRIEVALS_LEFT)), _time(headers.get(HEADER_EXPIRES))
        )

    def release(self, reference: str) -> None:
        """Frees an object for everybody. Twice is the same as once."""
        in_store = stored(reference)
        if in_store is not None:
            self._stores.release(in_store)
        elif inline_bytes(reference) is None:
            self._ask("DELETE /v1/objects", "DELETE", "/v1/objects", {HEADER_REFERENCE: reference})

    def narrow(
        self,
        reference: str,
        *,
        expires: Optional[datetime] = None,
        range: Optional[Tuple[int, int]] = None,
        receiver: Optional[str] = None,
        slot: Optional[int] = None,
    ) -> Reference:
        """A narrower reference to the same object; nothing can be widened. ``receiver`` is ``NAMESPACE/SERVICE``.

        An inline reference, and one to a store, narrows to its range; receiver, slot and expiry have no meaning there.
        """
        in_store = stored(reference)
        if in_store is not None:
            narrowed = in_store if range is None else in_store.narrowed(range)
            if narrowed is None:
                raise _range_error(range or (0, 0))
            return Reference(narrowed.token)
        carried = inline_bytes(reference)
        if carried is not None:
            return Reference(reference) if range is None else inline_reference(_part(carried, range))
        fields: Dict[str, Any] = {"reference": reference}
        if expires is not None:
            fields["expires"] = expires.astimezone(timezone.utc).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        if range is not None:
            fields["range"] = {"first": range[0], "length": range[1]}
        if receiver is not None:
            fields["receiver"] = receiver
        if slot is not None:
            fields["slot"] = slot
        what = "POST /v1/references/narrow"
        body = json.dumps(fields).encode("utf-8")
        answer = self._ask(what, "POST", "/v1/references/narrow", {"Content-Type": "application/json"}, body)
        return _reference(what, _object(what, answer.body))

    # Calls.

    def invoke(
        self,
        service: str,
        data: Data = b"",
        *,
        path: str = "/",
        method: str = "POST",
        headers: Optional[Mapping[str, str]] = None,
        reference: Optional[str] = None,
        content_type: Optional[str] = None,
    ) -> Response:
        """Sends a payload, or the payload that a reference stands for, to the service ``NAME`` or ``NAME.NAMESPACE``.

        Whatever the callee's function answers is returned, also 404 or 500. Raises :class:`Refused` when a queue-proxy, ours or
        the callee's, refused the payload or the call.
        """
        if not service or not all(sign.islower() or sign.isdigit() or sign in "-." for sign in service) or path[:1] != "/":
            detail = f"service `{service}`, path `{path}`: expected NAME or NAME.NAMESPACE, and a path from `/`"
            raise RequestInvalid(detail)
        payload = as_payload(data, content_type)
        fields = {name: value for name, value in (headers or {}).items()}
        if payload.content_type and not any(name.lower() == "content-type" for name in fields):
            fields["Content-Type"] = payload.content_type
        held: Optional[Reference] = None
        parked: Optional[Stored] = None
        body: Union[bytes, memoryview] = payload.view
        if reference is not None and stored(reference) is not None:
            body = _envelope(reference, fields)
        elif reference is None and self._parks(payload):
            parked, _ = self._stores.put(self.transfer, payload, 0, self.config.limits.answer_seconds)
            body = _envelope(parked.token, fields)
        elif reference is not None:
            carried = inline_bytes(reference)
            body = b"" if carried is None else carried
            if carried is None:
                fields[HEADER_REFERENCE] = reference
        else:
            held = self._hold_for_call(payload, service, fields)
            body = b"" if held else body
        try:
            answer = self._connections.ask("invoke", method, f"/v1/invoke/{service}{path}", fields, body)
        finally:
            self._end_hold(held)
            if parked is not None:
                self._stores.delete(parked)
        error = answer.refused()
        if error is not None:
            raise error
        return Response(Payload(answer.body, answer.headers.get("Content-Type")), answer.status, answer.headers)

    def _parks(self, payload: Payload) -> bool:
        """Whether a call's payload is parked in a store for the length of the call."""
        parks = self.transfer in ("s3", "redis") and len(payload) > 0
        return parks and len(payload) >= self.config.stores.inline_bytes

    def _hold_for_call(self, payload: Payload, service: str, fields: Dict[str, str]) -> Optional[Reference]:
        """Puts the payload for the length of a call, if it is large enough to gain by it and descriptors can pass. A proxy that
        gets the body over HTTP instead makes the same choice itself."""
        if self.transfer != "zipline" or not len(payload) or not self.config.api.passes_descriptors:
            return None
        if len(payload) < self.proxy().inline_threshold_bytes:
            return None
        receipt = self._hand_over(payload, 0, _CALL_RETRIEVALS, self.config.limits.answer_seconds)
        if receipt is None:
            return None
        name, dot, namespace = service.partition(".")
        try:
            receiver = f"{namespace if dot else self.proxy().namespace}/{name}"
            fields[HEADER_REFERENCE] = self.narrow(receipt.reference, receiver=receiver)
        except BaseException:
            self._end_hold(receipt.reference)
            raise
        return receipt.reference

    def _end_hold(self, held: Optional[Reference]) -> None:
        if held is not None:
            try:
                self.release(held)
            except ZiplineError:
                pass  # Its expiry frees it; the call's outcome is what the caller wants to know.

    # One to many, many to one. Each ends with the first error in the order of its input; what has not begun is not begun.

    def scatter(
        self, payloads: Iterable[Data], *, retrievals: int = 1, ttl: Optional[float] = None, parallel: int = PARALLEL_DEFAULT
    ) -> List[Reference]:
        """One put per payload; references in the order of the payloads."""
        return _each(lambda data: self.put(data, retrievals=retrievals, ttl=ttl), payloads, parallel)

    def gather(self, references: Iterable[str], *, parallel: int = PARALLEL_DEFAULT) -> List[Payload]:
        """One get per reference; payloads in the order of the references."""
        return _each(self.get, references, parallel)

    def broadcast(
        self, data: Data, consumers: int, *, ttl: Optional[float] = None, parallel: int = PARALLEL_DEFAULT
    ) -> List[Reference]:
        """One put with a slot per consumer, so that a consumer that reads twice does not use up another's turn. (Under other methods
        than ``zipline`` all consumers get the same reference.)"""
        whole = self.put(data, retrievals=consumers, ttl=ttl)
        if self.transfer != "zipline":
            return [whole] * consumers
        return _each(lambda slot: self.narrow(whole, slot=slot), builtin_range(consumers), parallel)

    def invoke_each(self, calls: Iterable[Mapping[str, Any]], *, parallel: int = PARALLEL_DEFAULT) -> List[Response]:
        """Many calls, each given as the arguments of :meth:`invoke`; answers in the order of the calls."""
        return _each(lambda call: self.invoke(**call), calls, parallel)

    # Ways.

    def _passes_descriptors(self) -> bool:
        return self.config.api.passes_descriptors and "descriptors" in self.proxy().features

    def _hand_over(self, payload: Payload, copied_from_bytes: int, retrievals: int, ttl: Optional[float]) -> Optional[Receipt]:
        """Hands the payload's memory over, where that is the shorter way: it is sealed already, or large enough to be copied."""
        if not len(payload) or not self._passes_descriptors():
            return None
        if not payload.is_mapped and len(payload) < copied_from_bytes:
            return None
        sealed = payload if payload.is_mapped else copied(payload.view)
        fields: Dict[str, Any] = {"retrievals": retrievals}
        if ttl is not None:
            fields["ttl_ms"] = _milliseconds(ttl)
        if payload.content_type:
            fields["content_type"] = payload.content_type
        try:
            return _receipt_of("put", self._channels.put(fields, sealed._descriptor))  # type: ignore[arg-type]
        finally:
            if sealed is not payload:
                sealed.close()

    def _ask(self, what: str, method: str, target: str, headers: Mapping[str, str], body: Body = None) -> Answer:
        return self._connections.ask(what, method, target, headers, body).accepted(what)


class ObjectWriter:
    """Writes an object that was referred to before its bytes were there. Left unwritten, the object is aborted by its expiry."""

    def __init__(self, client: Client, token: str) -> None:
        self._client = client
        self._token = token

    def write(self, data: Union[Data, Iterable[bytes]]) -> None:
        """Writes the whole object, from first byte to last; once. Where an iterable raises, the object is aborted."""
        is_whole = isinstance(data, (Payload, bytes, bytearray, memoryview, str)) or hasattr(data, "__buffer__")
        body: Body = as_payload(data).view if is_whole else iter(data)  # type: ignore[arg-type]
        self._client._ask("PUT /v1/objects", "PUT", "/v1/objects", {HEADER_WRITE: self._token}, body)


#: The builtin, where an argument of that name hides it.
builtin_range = range


def _each(work: Callable[[_In], _Out], items: Iterable[_In], parallel: int) -> List[_Out]:
    """The results in the order of the items, at most ``parallel`` at once."""
    remaining = iter(items)
    results: List[_Out] = []
    with ThreadPoolExecutor(max_workers=max(1, parallel)) as pool:
        running: List["Future[_Out]"] = [pool.submit(work, item) for item in itertools.islice(remaining, max(1, parallel))]
        try:
            while running:
                results.append(running.pop(0).result())
                running.extend(pool.submit(work, item) for item in itertools.islice(remaining, 1))
        finally:
            for future in running:
                future.cancel()
    return results


def _put_target(retrievals: int, ttl: Optional[float], flag: str = "") -> str:
    query = ([flag] if flag else []) + [f"retrievals={retrievals}"] + ([f"ttl={_milliseconds(ttl)}ms"] if ttl is not None else [])
    return "/v1/objects?" + "&".join(query)


def _envelope(reference: str, fields: Dict[str, str]) -> bytes:
    """The body that stands for a payload in a store; its content type takes the place of the payload's in ``fields``."""
    told = {"reference": reference}
    for name in [name for name in fields if name.lower() == "content-type"]:
        told["content_type"] = fields.pop(name)
    fields["Content-Type"] = STORED_PAYLOAD_MEDIA_TYPE
    return json.dumps(told).encode("utf-8")


def _milliseconds(seconds: float) -> int:
    return max(0, round(seconds * 1000))


def _proxy_info(answer: Answer) -> ProxyInfo:
    told = _object("GET /v1", answer.body)
    if told.get("version") != 1:
        raise ProtocolError("GET /v1", f"version {told.get('version')} of the local API; this SDK speaks 1")
    text = {name: str(told.get(name, "")) for name in ("release", "instance", "namespace", "service")}
    features: Sequence[Any] = told.get("features") if isinstance(told.get("features"), list) else []  # type: ignore[assignment]
    thresholds = {name: told.get(name, 0) for name in ("inline_threshold_bytes", "heap_threshold_bytes")}
    if not all(isinstance(value, int) for value in thresholds.values()):
        raise ProtocolError("GET /v1", "a threshold is not a number")
    return ProxyInfo(features=tuple(str(feature) for feature in features), **text, **thresholds)


def _object(what: str, body: bytes) -> Dict[str, Any]:
    try:
        told = json.loads(body)
    except ValueError as error:
        raise ProtocolError(what, error) from error
    if not isinstance(told, dict):
        raise ProtocolError(what, "the body is not a JSON object")
    return told


def _reference(what: str, told: Mapping[str, Any]) -> Reference:
    token = told.get("reference")
    if not isinstance(token, str):
        raise ProtocolError(what, "no reference")
    return Reference(token)


def _receipt(what: str, answer: Answer) -> Receipt:
    return _receipt_of(what, _object(what, answer.body))


def _receipt_of(what: str, told: Mapping[str, Any]) -> Receipt:
    size = told.get("size")
    return Receipt(
        reference=_reference(what, told),
        size=size if isinstance(size, int) else None,
        expires=_time(told.get("expires")),
        guaranteed_until=_time(told.get("guaranteed_until")),
    )


def _number(text: Optional[str]) -> Optional[int]:
    return int(text) if text is not None and text.isdigit() else None


def _time(text: Any) -> Optional[datetime]:
    """Reads an RFC 3339 time in UTC; ``None`` where it is none."""
    if not isinstance(text, str):
        return None
    try:
        return datetime.fromisoformat(text.replace("Z", "+00:00"))
    except ValueError:
        return None


def _part(data: bytes, part: Tuple[int, int]) -> bytes:
    first, length = part
    if first < 0 or length < 1 or first + length > len(data):
        raise _range_error(part)
    return data[first : first + length]


def _range_error(part: Tuple[int, int]) -> RangeUnsatisfiable:
    return RangeUnsatisfiable(f"the range of {part[1]} bytes from byte {part[0]} is not within the payload")
