"""The transfer methods ``s3`` and ``redis``: payloads parked in a store, as everybody does without Zipline.

A put writes an object under a random key, a get reads it from whichever process has the key and the same configuration. Neither talks
to a queue-proxy. A call puts its payload, sends the key in its place and frees it when it is over. Objects of one retrieval are freed
by their reader; of several, by the last reader where the store counts them (Redis), else by the client that put them when their time is
over. What a client put is its own: :meth:`Client.clean_up` deletes it. Frees are carried out behind, by threads of the client.
"""

from __future__ import annotations

import heapq
import threading
import time
from collections import deque
from datetime import datetime, timedelta, timezone
from typing import Callable, Deque, Dict, List, Optional, Protocol, Set, Tuple

from ._error import ConfigurationError, MethodNotBuilt, ZiplineError
from ._generated import (
    STORE_FREES_PENDING_MAX,
    VARIABLE_REDIS_URL,
    VARIABLE_S3_BUCKET,
    PayloadTooLarge,
    RangeUnsatisfiable,
    ReferenceExhausted,
    ReferenceInvalid,
)
from ._payload import Payload
from ._store_config import Stores
from ._store_counters import Counters, StoreCounters
from ._store_key import Stored

#: Threads that free objects of one store.
_FREEING_THREADS = 4


class Backend(Protocol):
    """What a store can do. Each operation counts itself, and is tried again within the bounds of :class:`Stores`."""

    #: Whether an object ends by itself after its time.
    expires: bool

    def put(self, stored: Stored, payload: Payload, ttl: float) -> None: ...

    def get(self, stored: Stored, counted: bool) -> Tuple[Optional[Payload], bool]:
        """The whole object, ``None`` where there is none; and whether this was the last of several counted retrievals."""

    def get_part(self, stored: Stored, part: Tuple[int, int]) -> Optional[Payload]: ...

    def stat(self, stored: Stored) -> Optional[Tuple[Optional[int], Optional[datetime]]]:
        """Retrievals left and expiry, as far as the store knows; ``None`` where there is no object."""

    def retrieved(self, stored: Stored) -> None:
        """A read that was not counted at once is over."""

    def delete(self, stored: Stored) -> None: ...

    def close(self) -> None: ...


def check(stores: Stores, method: str) -> None:
    """Whether that store can be used: it is configured, and its client is installed."""
    configured, variable = (stores.s3, VARIABLE_S3_BUCKET) if method == "s3" else (stores.redis, VARIABLE_REDIS_URL)
    if configured is None:
        raise ConfigurationError(variable, "", "not set; the transfer method or the reference asks for this store")
    try:
        if method == "s3":
            import boto3  # noqa: F401
        else:
            import redis  # noqa: F401
    except ImportError:
        raise MethodNotBuilt(method) from None


class StoreSet:
    """The stores of one client, each connected to when it is first used."""

    def __init__(self, stores: Stores, heap_bytes_max: int) -> None:
        self._stores = stores
        self._heap_bytes_max = heap_bytes_max
        self._lock = threading.Lock()
        self._open: Dict[str, Tuple[Backend, _Frees]] = {}
        self._counters: Optional[Counters] = None

    def counters(self) -> StoreCounters:
        """What was asked of the stores so far."""
        with self._lock:
            return self._counters.now() if self._counters else StoreCounters()

    def put(self, method: str, payload: Payload, retrievals: int, ttl: Optional[float]) -> Tuple[Stored, datetime]:
        """Puts a payload that readers free after ``retrievals`` whole reads; 0: whoever put it does."""
        backend, frees = self._store(method)
        seconds = self._stores.ttl if ttl is None else ttl
        stored = Stored.new(method, retrievals, len(payload))
        expires = datetime.now(timezone.utc) + timedelta(seconds=seconds)
        frees.own(stored, time.monotonic() + seconds)
        backend.put(stored, payload, seconds)
        self._note(method, put_bytes=len(payload))
        return stored, expires

    def get(self, stored: Stored) -> Payload:
        """Reads what the reference stands for; counts as a retrieval."""
        payload = self._read(stored, True)
        if stored.retrievals == 1 or stored.part is not None:
            self._store(stored.store)[1].retrieved(stored)
        return payload

    def peek(self, stored: Stored) -> Payload:
        """Reads it without a retrieval; :meth:`retrieved` may follow."""
        return self._read(stored, False)

    def get_part(self, stored: Stored, part: Tuple[int, int]) -> Payload:
        """Reads a part; no retrieval."""
        narrowed = stored.narrowed(part)
        if narrowed is None:
            raise RangeUnsatisfiable(f"the range of {part[1]} bytes from byte {part[0]} is not within the payload")
        return self._read(narrowed, False)

    def _read(self, stored: Stored, counted: bool) -> Payload:
        if stored.length > self._heap_bytes_max:
            raise PayloadTooLarge(f"a payload is received up to {self._heap_bytes_max} bytes, this one has {stored.length}")
        backend, frees = self._store(stored.store)
        last = False
        payload: Optional[Payload] = None
        if not frees.is_going(stored):
            if stored.part is None:
                payload, last = backend.get(stored, counted)
            else:
                payload = backend.get_part(stored, stored.part)
        if payload is None:
            raise _gone(stored)
        if last:
            frees.delete(stored)
        if len(payload) != stored.length:
            raise ReferenceInvalid(f"the reference says {stored.length} bytes, the store gave {len(payload)}")
        self._note(stored.store, get_bytes=len(payload))
        return payload

    def stat(self, stored: Stored) -> Tuple[Optional[int], Optional[datetime]]:
        """Retrievals left and expiry, as far as the store knows."""
        backend, frees = self._store(stored.store)
        known = None if frees.is_going(stored) else backend.stat(stored)
        if known is None:
            raise _gone(stored)
        return known

    def release(self, stored: Stored) -> None:
        """Deletes the object."""
        backend, frees = self._store(stored.store)
        backend.delete(stored)
        frees.disown(stored)

    def retrieved(self, stored: Stored) -> None:
        """A read by :meth:`peek` was accepted. What it costs the object is carried out behind."""
        if stored.retrievals > 0:
            self._store(stored.store)[1].retrieved(stored)

    def delete(self, stored: Stored) -> None:
        """The object is not needed any more; it is deleted behind."""
        self._store(stored.store)[1].delete(stored)

    def clean_up(self, owned: bool) -> None:
        """Waits until nothing is left to be freed; ``owned``: frees all that this client put as well."""
        for _, frees in self._opened():
            frees.finish(owned)

    def close(self) -> None:
        """Closes idle connections and ends the threads."""
        for backend, frees in self._opened():
            frees.close()
            backend.close()

    def _opened(self) -> List[Tuple[Backend, "_Frees"]]:
        with self._lock:
            return list(self._open.values())

    def _note(self, store: str, **changes: int) -> None:
        assert self._counters is not None, "a store in use has counters"
        self._counters.note(store, **changes)

    def _store(self, method: str) -> Tuple[Backend, "_Frees"]:
        with self._lock:
            if method not in self._open:
                check(self._stores, method)
                if self._counters is None:
                    self._counters = Counters(self._stores.counters)
                backend = _connect(self._stores, method, self._counters)
                counters = self._counters
                left = lambda: counters.note(method, left_behind=1)  # noqa: E731
                self._open[method] = (backend, _Frees(backend, left))
            return self._open[method]


def _connect(stores: Stores, method: str, counters: Counters) -> Backend:
    if method == "s3":
        from ._store_s3 import S3

        return S3(stores, counters)
    from ._store_redis import Redis

    return Redis(stores, counters)


def _gone(stored: Stored) -> ReferenceExhausted:
    return ReferenceExhausted(f"the object is not in {stored.store} (any more): it was read, released, or its time is over")


class _Frees:
    """The objects of one store that are to be freed, and the threads that do it. Bounded: what does not fit is left to its expiry."""

    def __init__(self, backend: Backend, left_behind: Callable[[], None]) -> None:
        self._backend = backend
        self._left_behind = left_behind
        self._changed = threading.Condition()
        self._due: Deque[Tuple[Callable[[Stored], None], Stored]] = deque()
        self._going: Set[str] = set()
        self._owned: Dict[str, Tuple[float, Stored]] = {}
        #: Expiries in order; an entry whose object is not owned any more is passed over.
        self._expiries: List[Tuple[float, str]] = []
        self._under_way = 0
        self._closed = False
        self._threads: List[threading.Thread] = []

    def own(self, stored: Stored, until: float) -> None:
        """This client put that object, and its time is over then."""
        with self._changed:
            if len(self._owned) >= STORE_FREES_PENDING_MAX:
                return None if self._backend.expires else self._left_behind()
            self._owned[stored.key] = (until, stored)
            heapq.heappush(self._expiries, (until, stored.key))
            self._start()

    def retrieved(self, stored: Stored) -> None:
        """A read of that object is over and was accepted."""
        self._note(self._backend.retrieved, stored, stored.retrievals == 1)

    def delete(self, stored: Stored) -> None:
        """That object is not needed any more."""
        self._note(self._backend.delete, stored, True)

    def disown(self, stored: Stored) -> None:
        """That object is gone."""
        with self._changed:
            self._owned.pop(stored.key, None)

    def is_going(self, stored: Stored) -> bool:
        """Whether the object is as good as gone, as far as this client knows."""
        with self._changed:
            return stored.key in self._going

    def finish(self, owned: bool) -> None:
        """Waits until nothing is left to be freed; ``owned``: makes all that is owned due before."""
        with self._changed:
            if owned:
                self._due.extend((self._backend.delete, stored) for _, stored in self._owned.values())
                self._owned.clear()
                self._start()
            self._changed.wait_for(lambda: not self._due and not self._under_way)

    def close(self) -> None:
        """Ends the threads once what is due is done."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def _note(self, free: Callable[[Stored], None], stored: Stored, goes: bool) -> None:
        with self._changed:
            if len(self._due) >= STORE_FREES_PENDING_MAX:
                return self._left_behind()
            if goes:
                self._going.add(stored.key)
                self._owned.pop(stored.key, None)
            self._due.append((free, stored))
            self._start()

    def _start(self) -> None:
        """Tells the threads that there is something new; starts one more where fewer than the most are there."""
        self._closed = False
        self._threads = [thread for thread in self._threads if thread.is_alive()]
        if len(self._threads) < _FREEING_THREADS:
            thread = threading.Thread(target=self._work, name="zipline-store", daemon=True)
            self._threads.append(thread)
            thread.start()
        self._changed.notify_all()

    def _work(self) -> None:
        while True:
            with self._changed:
                self._expire()
                if not self._due:
                    if self._closed:
                        return
                    wait = self._expiries[0][0] - time.monotonic() if self._expiries else None
                    self._changed.wait(wait)
                    continue
                free, stored = self._due.popleft()
                self._under_way += 1
            try:
                free(stored)
            except ZiplineError:
                self._left_behind()
            finally:
                with self._changed:
                    self._under_way -= 1
                    self._going.discard(stored.key)
                    self._changed.notify_all()

    def _expire(self) -> None:
        while self._expiries and self._expiries[0][0] <= time.monotonic():
            _, key = heapq.heappop(self._expiries)
            owned = self._owned.pop(key, None)
            # Where the store ends objects by itself, one whose time is over is left to it, and only forgotten here.
            if owned is not None and not self._backend.expires:
                self._due.append((self._backend.delete, owned[1]))
