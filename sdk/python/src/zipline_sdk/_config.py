"""Where the local API is, which method moves bytes, and how much a client may use at once."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass, field
from typing import Mapping, Optional, Tuple, Union

from ._error import ConfigurationError
from ._generated import TRANSFER_DEFAULT, VARIABLE_API, VARIABLE_TRANSFER
from ._store import check
from ._store_config import Stores

#: What ``socket.connect`` takes for a Unix socket: a path, or bytes that begin with zero for an abstract one.
UnixAddress = Union[str, bytes]


@dataclass(frozen=True)
class Endpoint:
    """Where a queue-proxy's local API is: ``unix:/PATH``, ``unix:@NAME`` or ``http://HOST:PORT``."""

    text: str
    unix: Optional[UnixAddress] = None
    tcp: Optional[Tuple[str, int]] = None

    @property
    def passes_descriptors(self) -> bool:
        """Whether descriptors can pass over it."""
        return self.unix is not None and sys.platform == "linux"

    def __str__(self) -> str:
        return self.text

    @classmethod
    def parse(cls, text: str) -> "Endpoint":
        """Reads one; raises :class:`ConfigurationError` for anything else."""
        if text.startswith("unix:"):
            return cls(text, unix=_unix_address(text))
        if not text.startswith("http://"):
            raise ConfigurationError(VARIABLE_API, text, "expected `unix:/PATH`, `unix:@NAME` or `http://HOST:PORT`")
        authority = text[len("http://") :].rstrip("/")
        if not authority or any(sign in authority for sign in "/@?#"):
            raise ConfigurationError(VARIABLE_API, text, "expected `http://HOST:PORT` and nothing after it")
        host, colon, port = authority.rpartition(":")
        if not colon or not port.isdigit() or int(port) > 65535:
            host, port = authority, "80"
        return cls(text, tcp=(host.strip("[]"), int(port)))


def _unix_address(text: str) -> UnixAddress:
    path = text[len("unix:") :]
    if path.startswith("@"):
        if len(path) == 1:
            raise ConfigurationError(VARIABLE_API, text, "the abstract socket has no name")
        if sys.platform != "linux":
            raise ConfigurationError(VARIABLE_API, text, "abstract sockets exist on Linux only")
        return b"\0" + os.fsencode(path[1:])
    if not path.startswith("/"):
        raise ConfigurationError(VARIABLE_API, text, "a Unix socket is `unix:/PATH` or `unix:@NAME`")
    return path


def _transfer(name: str) -> str:
    if name in ("zipline", "inline", "s3", "redis"):
        return name
    raise ConfigurationError(
        VARIABLE_TRANSFER, name, "not a transfer method; known are `zipline`, `inline`, `s3` and `redis`"
    )


@dataclass(frozen=True)
class Limits:
    """What a client may use at once, and for how long it waits."""

    #: HTTP connections to the local API; further requests wait.
    connections_max: int = 64
    #: Descriptor channels to the local API; further hand-overs wait.
    channels_max: int = 16
    #: Bytes of an answer or request body received onto the heap; a larger one is ``payload-too-large``. Payloads that come as
    #: descriptors are not bounded by it: the proxy's budget is.
    heap_bytes_max: int = 1 << 30
    #: Connecting to the local API.
    connect_seconds: float = 2.0
    #: Longest silence of the local API. Longer than the proxy's own limit over a call, so that its error arrives.
    answer_seconds: float = 330.0


@dataclass(frozen=True)
class Config:
    """All a client needs to know."""

    api: Endpoint
    transfer: str = TRANSFER_DEFAULT
    limits: Limits = field(default_factory=Limits)
    #: The stores that payloads may be parked in.
    stores: Stores = field(default_factory=Stores)

    @classmethod
    def from_variables(cls, variables: Mapping[str, str]) -> "Config":
        """Reads ``ZIPLINE_API``, ``ZIPLINE_TRANSFER`` and what :meth:`Stores.from_variables` reads; raises
        :class:`ConfigurationError`, or :class:`MethodNotBuilt` where the method's store client is not installed."""
        api = variables.get(VARIABLE_API, "")
        if not api:
            raise ConfigurationError(
                VARIABLE_API, "", "not set; a queue-proxy's function has it, elsewhere name the local API of `zipline up`"
            )
        transfer = _transfer(variables.get(VARIABLE_TRANSFER) or TRANSFER_DEFAULT)
        stores = Stores.from_variables(variables)
        if transfer in ("s3", "redis"):
            check(stores, transfer)
        return cls(api=Endpoint.parse(api), transfer=transfer, stores=stores)

    @classmethod
    def of(
        cls, api: str, transfer: str = TRANSFER_DEFAULT, limits: Optional[Limits] = None, stores: Optional[Stores] = None
    ) -> "Config":
        """The configuration for that local API."""
        stores = stores or Stores()
        if _transfer(transfer) in ("s3", "redis"):
            check(stores, transfer)
        return cls(api=Endpoint.parse(api), transfer=transfer, limits=limits or Limits(), stores=stores)
