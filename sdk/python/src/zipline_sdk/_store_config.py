"""Where the stores are and how long they are waited for."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Dict, Mapping, Optional

from ._error import ConfigurationError
from ._generated import (
    PUT_TTL_SECONDS_DEFAULT,
    STORE_INLINE_BYTES_DEFAULT,
    STORE_RETRIES_DEFAULT,
    STORE_TIMEOUT_SECONDS_DEFAULT,
    VARIABLE_REDIS_URL,
    VARIABLE_S3_BUCKET,
    VARIABLE_S3_ENDPOINT,
    VARIABLE_S3_REGION,
    VARIABLE_STORE_COUNTERS,
    VARIABLE_STORE_INLINE_BYTES,
    VARIABLE_STORE_RETRIES,
    VARIABLE_STORE_TIMEOUT_SECONDS,
)

_REGION_DEFAULT = "us-east-1"
_UNITS = {"KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30}


@dataclass(frozen=True)
class S3Store:
    """An S3 bucket. Keys that are not given come from where the AWS client looks for them."""

    bucket: str
    endpoint: Optional[str] = None
    region: str = _REGION_DEFAULT
    access_key_id: Optional[str] = field(default=None, repr=False)
    secret_access_key: Optional[str] = field(default=None, repr=False)
    session_token: Optional[str] = field(default=None, repr=False)

    @property
    def place(self) -> str:
        """Where it is, as messages say it: without credentials."""
        return f"bucket {self.bucket} at {self.endpoint}" if self.endpoint else f"bucket {self.bucket} in {self.region}"

    @classmethod
    def from_variables(cls, variables: Mapping[str, str]) -> Optional["S3Store"]:
        """The bucket that the variables name; ``None`` where they name none."""
        bucket = variables.get(VARIABLE_S3_BUCKET)
        if not bucket:
            return None
        if any(sign in bucket for sign in "/?# "):
            raise ConfigurationError(VARIABLE_S3_BUCKET, bucket, "not the name of a bucket")
        endpoint = variables.get(VARIABLE_S3_ENDPOINT) or None
        if endpoint is not None and not re.fullmatch(r"https?://[^/@?#]+/*", endpoint):
            # Not with its text: a password may stand in it.
            reason = "expected `http://HOST:PORT` or `https://HOST` and nothing after it"
            raise ConfigurationError(VARIABLE_S3_ENDPOINT, "…", reason)
        return cls(
            bucket=bucket,
            endpoint=endpoint.rstrip("/") if endpoint else None,
            region=variables.get(VARIABLE_S3_REGION) or variables.get("AWS_REGION") or _REGION_DEFAULT,
            access_key_id=variables.get("AWS_ACCESS_KEY_ID") or None,
            secret_access_key=variables.get("AWS_SECRET_ACCESS_KEY") or None,
            session_token=variables.get("AWS_SESSION_TOKEN") or None,
        )


@dataclass(frozen=True)
class RedisStore:
    """The Redis server at ``redis://[[USER]:PASSWORD@]HOST:PORT[/DATABASE]``."""

    url: str = field(repr=False)

    def __post_init__(self) -> None:
        found = re.fullmatch(r"redis://(?:.*@)?(\[[^\]]+\]|[^/:@\[]+)(?::([0-9]+))?(?:/([0-9]*))?", self.url)
        if found is None or int(found[2] or 6379) > 65535:
            # Not with its text: a password may stand in it.
            reason = "expected `redis://[[USER]:PASSWORD@]HOST:PORT[/DATABASE]`"
            raise ConfigurationError(VARIABLE_REDIS_URL, "…", reason)
        object.__setattr__(self, "place", f"{found[1]}:{found[2] or 6379}")

    #: Where it is, as messages say it: ``HOST:PORT``, without credentials.
    place: str = field(init=False, default="")


@dataclass(frozen=True)
class Stores:
    """The stores a client may use, and its patience with them."""

    s3: Optional[S3Store] = None
    redis: Optional[RedisStore] = None
    #: Limit over one operation, its retries included, in seconds.
    timeout: float = STORE_TIMEOUT_SECONDS_DEFAULT
    #: How often an operation is tried again that was refused for now or did not arrive.
    retries: int = STORE_RETRIES_DEFAULT
    #: A call's payload below it travels inside the request, in bytes; an empty one does in any case.
    inline_bytes: int = STORE_INLINE_BYTES_DEFAULT
    #: Expiry of a put that names none, in seconds.
    ttl: float = PUT_TTL_SECONDS_DEFAULT
    #: Folder for a JSON file of the operations that were had.
    counters: Optional[str] = None

    @property
    def any(self) -> bool:
        """Whether one is configured."""
        return self.s3 is not None or self.redis is not None

    @classmethod
    def from_variables(cls, variables: Mapping[str, str]) -> "Stores":
        """Reads the ``ZIPLINE_S3_…``, ``ZIPLINE_REDIS_…``, ``ZIPLINE_STORE_…`` and AWS variables."""
        redis = variables.get(VARIABLE_REDIS_URL)
        numbers: Dict[str, float] = {}
        bounds = {
            "timeout": (VARIABLE_STORE_TIMEOUT_SECONDS, 0.1, 3600.0),
            "retries": (VARIABLE_STORE_RETRIES, 0, 100),
            "inline_bytes": (VARIABLE_STORE_INLINE_BYTES, 0, 1 << 30),
        }
        for name, (variable, low, high) in bounds.items():
            text = variables.get(variable)
            if text:
                numbers[name] = _number(variable, text, low, high)
        whole = {name: value if name == "timeout" else int(value) for name, value in numbers.items()}
        return cls(
            s3=S3Store.from_variables(variables),
            redis=RedisStore(redis) if redis else None,
            counters=variables.get(VARIABLE_STORE_COUNTERS) or None,
            **whole,  # type: ignore[arg-type]
        )


def _number(variable: str, text: str, low: float, high: float) -> float:
    digits, unit = text, 1
    if variable == VARIABLE_STORE_INLINE_BYTES and text[-3:] in _UNITS:
        digits, unit = text[:-3].rstrip(), _UNITS[text[-3:]]
    try:
        number = float(digits) * unit
    except ValueError:
        number = float("nan")
    if not low <= number <= high:
        raise ConfigurationError(variable, text, "not a number in the range that docs/reference/settings.md gives")
    return number
