"""Zipline for Python functions: payloads that go straight from memory to memory, with calls that stay ordinary calls.

    from zipline_sdk import Client

    client = Client.from_env()                  # ZIPLINE_API, ZIPLINE_TRANSFER
    reference = client.put(b"...")              # stays in this instance's memory
    payload = client.get(reference)             # here, or in any other function: a read-only view, not a copy

A function serves with :func:`serve` and calls others with :meth:`Client.invoke`. Which way bytes take is configuration, never
code. The SDK speaks to the function's own queue-proxy alone, holds no key and knows nothing of the wire between proxies;
``docs/reference/local-api.md`` is all it relies on. Standard library only, but for the transfer methods ``s3`` (boto3) and ``redis``
(redis-py), which are extras.
"""

from ._client import Client, ObjectWriter, ProxyInfo, Receipt, Stat
from ._config import Config, Limits
from ._error import (
    ConfigurationError,
    MethodNotBuilt,
    ProtocolError,
    Refused,
    StoreRefused,
    StoreUnreachable,
    SystemFailure,
    Unreachable,
    ZiplineError,
)
from ._generated import *  # noqa: F401,F403: one class for every name of the error table
from ._generated import BY_NAME as ERRORS_BY_NAME
from ._message import Failure, Request, Response
from ._payload import Payload, PayloadBuffer, PayloadWriter
from ._reference import Reference
from ._serve import Server, serve
from ._store_config import RedisStore, S3Store, Stores
from ._store_counters import Operations, StoreCounters

__version__ = "0.1.0"

__all__ = [
    "Client",
    "Config",
    "ConfigurationError",
    "ERRORS_BY_NAME",
    "Failure",
    "Limits",
    "MethodNotBuilt",
    "ObjectWriter",
    "Operations",
    "Payload",
    "PayloadBuffer",
    "PayloadWriter",
    "ProtocolError",
    "ProxyInfo",
    "Receipt",
    "RedisStore",
    "Reference",
    "Refused",
    "Request",
    "Response",
    "S3Store",
    "Server",
    "Stat",
    "StoreCounters",
    "StoreRefused",
    "StoreUnreachable",
    "Stores",
    "SystemFailure",
    "Unreachable",
    "ZiplineError",
    "serve",
]
