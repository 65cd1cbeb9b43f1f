"""Values in a Redis server, through redis-py's pool of connections.

A value is the payload, preceded by its content type where it has one: the key says how long the payload is, so the rest is the content
type. Where an object grants several retrievals, ``zipline:KEY:left`` counts them down.
"""

from __future__ import annotations

import time
from datetime import datetime, timedelta, timezone
from typing import Any, List, Optional, Tuple

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from ._error import StoreRefused, StoreUnreachable
from ._generated import STORE_CONNECTIONS_MAX, STORE_PREFIX_REDIS, STORE_REDIS_VALUE_BYTES_MAX, PayloadTooLarge
from ._payload import Payload
from ._store_config import Stores
from ._store_counters import Counters
from ._store_key import Stored

_CONNECT_SECONDS = 5.0
#: First and longest pause before an operation is tried again, in seconds.
_RETRY_PAUSE_SECONDS = (0.02, 2.0)


class Redis:
    """One Redis server."""

    expires = True

    def __init__(self, stores: Stores, counters: Counters) -> None:
        assert stores.redis is not None, "checked before"
        self._place = stores.redis.place
        self._retries = stores.retries
        self._timeout = stores.timeout
        self._counters = counters
        pool = redis.BlockingConnectionPool.from_url(
            stores.redis.url,
            max_connections=STORE_CONNECTIONS_MAX,
            timeout=stores.timeout,
            socket_timeout=stores.timeout,
            socket_connect_timeout=min(_CONNECT_SECONDS, stores.timeout),
            retry=Retry(NoBackoff(), 0),  # Retries are made, and counted, here.
        )
        self._client = redis.Redis(connection_pool=pool)

    def close(self) -> None:
        """Closes the connections."""
        self._client.connection_pool.disconnect()

    def put(self, stored: Stored, payload: Payload, ttl: float) -> None:
        """Writes the value, and the counter of its retrievals."""
        head = (payload.content_type or "").encode("utf-8")
        if len(head) + len(payload) > STORE_REDIS_VALUE_BYTES_MAX:
            detail = f"a value in Redis has at most {STORE_REDIS_VALUE_BYTES_MAX} bytes, this one {len(payload)}"
            raise PayloadTooLarge(detail)
        value: Any = head + payload.view if head else payload.view
        milliseconds = max(1, round(ttl * 1000))
        commands: List[Tuple[Any, ...]] = [("SET", _name(stored), value, "PX", milliseconds)]
        if stored.retrievals > 1:
            commands.append(("SET", _left(stored), stored.retrievals, "PX", milliseconds))
        self._ask("put", commands)

    def get(self, stored: Stored, counted: bool) -> Tuple[Optional[Payload], bool]:
        """Reads the value; one of several retrievals is counted in the same step."""
        if not counted or stored.retrievals <= 1:
            (value,) = self._ask("get", [("GET", _name(stored))])
            return _payload(stored, value), False
        # Not tried again: its answer may be lost and its count not.
        value, left = self._ask("get", [("GET", _name(stored)), ("DECR", _left(stored))], retries=0)
        if left < 0:
            self.delete(stored)  # One too late, whose count must not stay.
            return None, False
        return _payload(stored, value), left == 0

    def get_part(self, stored: Stored, part: Tuple[int, int]) -> Optional[Payload]:
        """Reads a part, counted from the end, where the payload ends whatever stands before it."""
        first, length = part
        range_ = (first - stored.size, first + length - 1 - stored.size)
        there, data = self._ask("get", [("EXISTS", _name(stored)), ("GETRANGE", _name(stored), *range_)])
        return Payload(data) if there else None

    def stat(self, stored: Stored) -> Optional[Tuple[Optional[int], Optional[datetime]]]:
        """Retrievals left and expiry."""
        milliseconds, left = self._ask("stat", [("PTTL", _name(stored)), ("GET", _left(stored))])
        if milliseconds < 0:
            return None
        retrievals = int(left) if left is not None else (1 if stored.retrievals == 1 else None)
        return retrievals, datetime.now(timezone.utc) + timedelta(milliseconds=milliseconds)

    def retrieved(self, stored: Stored) -> None:
        """One retrieval is over."""
        if stored.retrievals == 1:
            self.delete(stored)
        elif stored.retrievals > 1:
            (left,) = self._ask("delete", [("DECR", _left(stored))], retries=0)
            if left <= 0:
                self.delete(stored)

    def delete(self, stored: Stored) -> None:
        """Deletes value and counter; the memory is given back by another thread of the server."""
        names = [_name(stored)] + ([_left(stored)] if stored.retrievals > 1 else [])
        self._ask("delete", [("UNLINK", *names)])

    def _ask(self, operation: str, commands: List[Tuple[Any, ...]], retries: Optional[int] = None) -> List[Any]:
        """Sends commands, several as one transaction, and tries again what may pass by itself."""
        pause, longest = _RETRY_PAUSE_SECONDS
        left = self._retries if retries is None else retries
        until = time.monotonic() + self._timeout
        while True:
            try:
                answers = self._send(commands)
                self._counters.note("redis", **{_COUNTED[operation]: 1})
                return answers
            except (redis.exceptions.AuthenticationError, redis.exceptions.NoPermissionError) as error:
                raise StoreRefused("redis", self._place, operation, error, False) from None
            except (redis.exceptions.ConnectionError, redis.exceptions.TimeoutError, redis.exceptions.TryAgainError) as error:
                busy = isinstance(error, redis.exceptions.BusyLoadingError)
                self._counters.note("redis", failed=1, throttled=int(busy))
                if left == 0 or time.monotonic() + pause > until:
                    if busy or isinstance(error, redis.exceptions.TryAgainError):
                        raise StoreRefused("redis", self._place, operation, error, True) from None
                    raise StoreUnreachable("redis", self._place, error) from None
            except redis.exceptions.RedisError as error:
                raise StoreRefused("redis", self._place, operation, error, False) from None
            left -= 1
            time.sleep(pause)
            pause = min(pause * 2, longest)

    def _send(self, commands: List[Tuple[Any, ...]]) -> List[Any]:
        if len(commands) == 1:
            return [self._client.execute_command(*commands[0])]
        pipeline = self._client.pipeline(transaction=True)
        for command in commands:
            pipeline.execute_command(*command)
        answers: List[Any] = pipeline.execute()
        return answers


_COUNTED = {"put": "puts", "get": "gets", "stat": "gets", "delete": "deletes"}


def _name(stored: Stored) -> str:
    return STORE_PREFIX_REDIS + stored.key


def _left(stored: Stored) -> str:
    return f"{STORE_PREFIX_REDIS}{stored.key}:left"


def _payload(stored: Stored, value: Optional[bytes]) -> Optional[Payload]:
    if value is None:
        return None
    head = max(0, len(value) - stored.size)
    return Payload(memoryview(value)[head:], value[:head].decode("utf-8", "replace") or None)
