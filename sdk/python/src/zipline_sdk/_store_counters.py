"""What a client has asked of its stores: operations as a bill counts them, and bytes.

Readable by the application at any time, and where ``ZIPLINE_STORE_COUNTERS`` names a folder also by others: each client keeps one
file there, a JSON document of fixed length that is written in place after each change, so that it is always whole.
"""

from __future__ import annotations

import json
import os
import secrets
import threading
from dataclasses import asdict, dataclass, field, fields
from typing import Any, Optional

from ._error import SystemFailure

_FILE_BYTES = 1024
_SCHEMA = 1


@dataclass(frozen=True)
class Operations:
    """Operations on one store, and bytes.

    An operation counts once it was answered; one that the store refused for now or that did not arrive counts as ``failed``, and its
    retry as whatever that becomes.
    """

    #: Writes. In S3 each part of a multipart upload is one, and so are its beginning and its end.
    puts: int = 0
    #: Reads, ranges and looks without reading.
    gets: int = 0
    #: Deletions.
    deletes: int = 0
    #: Payload bytes written.
    put_bytes: int = 0
    #: Payload bytes read.
    get_bytes: int = 0
    #: Tries that the store refused for now or that did not arrive.
    failed: int = 0
    #: Those of them that were told to slow down (503, 429).
    throttled: int = 0
    #: Objects that this client was to free and had to leave to their expiry.
    left_behind: int = 0


@dataclass(frozen=True)
class StoreCounters:
    """What a client has asked of each store."""

    schema: int = _SCHEMA
    s3: Operations = field(default_factory=Operations)
    redis: Operations = field(default_factory=Operations)

    def since(self, earlier: "StoreCounters") -> "StoreCounters":
        """What came since then."""
        return StoreCounters(_SCHEMA, _each(self.s3, earlier.s3, -1), _each(self.redis, earlier.redis, -1))


def _each(one: Operations, other: Operations, sign: int) -> Operations:
    return Operations(**{f.name: getattr(one, f.name) + sign * getattr(other, f.name) for f in fields(Operations)})


class Counters:
    """The counters of one client."""

    def __init__(self, folder: Optional[str]) -> None:
        self._lock = threading.Lock()
        self._counted = {"s3": asdict(Operations()), "redis": asdict(Operations())}
        self._file: Optional[int] = None
        if folder is not None:
            try:
                os.makedirs(folder, exist_ok=True)
                path = os.path.join(folder, f"zipline-store-{os.getpid()}-{secrets.token_hex(8)}.json")
                self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
            except OSError as error:
                raise SystemFailure("making the file of counters", error) from error
            self._publish()

    def note(self, store: str, **changes: int) -> None:
        """Adds to the counters of that store."""
        with self._lock:
            for name, change in changes.items():
                self._counted[store][name] += change
            self._publish()

    def now(self) -> StoreCounters:
        """What was counted so far."""
        with self._lock:
            return StoreCounters(_SCHEMA, Operations(**self._counted["s3"]), Operations(**self._counted["redis"]))

    def _publish(self) -> None:
        if self._file is None:
            return
        document: Any = {"schema": _SCHEMA, **self._counted}
        text = json.dumps(document, separators=(",", ":")).encode("ascii")
        try:
            os.pwrite(self._file, text.ljust(_FILE_BYTES - 1) + b"\n", 0)
        except OSError:
            pass  # A full disk costs the reader the last change, not the operation.

    def __del__(self) -> None:
        descriptor = getattr(self, "_file", None)
        if descriptor is not None:
            os.close(descriptor)
