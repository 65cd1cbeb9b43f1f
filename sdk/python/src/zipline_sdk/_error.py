"""What can go wrong for a function, by name.

Whatever a queue-proxy refuses is a :class:`Refused`; each name of the error table has a class of its own (``_generated``).
The other classes are the SDK's own; their ``name`` is the same in every language.
"""

from __future__ import annotations

import json
from typing import Any, Mapping, Optional


class ZiplineError(Exception):
    """A failed call of the SDK."""

    #: The error's name: one of the error table, or one of the SDK's own.
    name: str = "zipline"
    #: ``later`` where the same call can succeed later, else ``never``.
    retry: str = "never"
    #: What to do about it.
    hint: str = ""


class Unreachable(ZiplineError):
    """The local API does not answer."""

    name = "unreachable"
    retry = "later"
    hint = "See whether the queue-proxy runs, and whether ZIPLINE_API names its socket"

    def __init__(self, api: str, reason: object) -> None:
        super().__init__(f"the local API at {api} does not answer: {reason}")


class ConfigurationError(ZiplineError):
    """A variable is missing or not understood."""

    name = "configuration"
    hint = "See docs/reference/settings.md"

    def __init__(self, variable: str, value: str, reason: str) -> None:
        super().__init__(f"{variable}={value!r}: {reason}")
        self.variable = variable


class MethodNotBuilt(ZiplineError):
    """The transfer method, or the reference's, is known but not part of this build."""

    name = "method-not-built"
    hint = "Install the method's extra, zipline-sdk[s3] or zipline-sdk[redis], or set ZIPLINE_TRANSFER to another"

    def __init__(self, method: str) -> None:
        super().__init__(f"transfer method `{method}` is not part of this build")


class ProtocolError(ZiplineError):
    """The local API's answer is not understood."""

    name = "protocol"
    hint = "See that ZIPLINE_API names a queue-proxy of a release close to this SDK's"

    def __init__(self, request: str, reason: object) -> None:
        super().__init__(f"the local API's answer to {request} is not understood: {reason}")


class StoreUnreachable(ZiplineError):
    """A store, S3 or Redis, does not answer."""

    name = "store-unreachable"
    retry = "later"
    hint = "See whether the store runs, and whether ZIPLINE_S3_ENDPOINT or ZIPLINE_REDIS_URL names it"

    def __init__(self, store: str, place: str, reason: object) -> None:
        super().__init__(f"{store} ({place}) cannot be reached: {reason}")


class StoreRefused(ZiplineError):
    """A store refused, also when it was asked again. ``passes``: it can change its mind (503, ``LOADING``)."""

    name = "store-refused"
    hint = "See the credentials, the bucket and what they may do"

    def __init__(self, store: str, place: str, operation: str, reason: object, passes: bool) -> None:
        super().__init__(f"{store} ({place}) refused to {operation}: {reason}")
        if passes:
            self.retry = "later"
            self.hint = "Try again later; raise ZIPLINE_STORE_RETRIES to be more patient"


class SystemFailure(ZiplineError):
    """The operating system refused memory or a descriptor."""

    name = "system"
    retry = "later"
    hint = "See the process's limits on memory and open files"

    def __init__(self, action: str, reason: object) -> None:
        super().__init__(f"{action}: {reason}")


class Refused(ZiplineError):
    """A queue-proxy, the own one or the callee's, refused. Names that are newer than this SDK are raised as this class itself."""

    #: HTTP status.
    status: int = 500
    #: Who must act: ``caller``, ``peer``, ``producer``, ``capacity``, ``network``; empty where it is not known.
    fault: str = ""
    #: One sentence that says what is wrong.
    title: str = "The queue-proxy refused"

    def __init__(self, detail: str = "", retry_after_seconds: Optional[float] = None) -> None:
        super().__init__(detail)
        #: The thing, the value and the limit.
        self.detail = detail
        #: After how long a retry makes sense, where the proxy said so.
        self.retry_after_seconds = retry_after_seconds

    def __str__(self) -> str:
        return f"{self.detail or self.title} ({self.name})"


def refusal(name: str, status: int, problem: Mapping[str, Any]) -> Refused:
    """The error that a problem body, or a refusing descriptor message, tells. What it leaves out comes from the error table."""
    from ._generated import BY_NAME  # Its classes are made from this module's.

    known = BY_NAME.get(name)
    after = problem.get("retry_after_seconds")
    error = (known or Refused)(
        detail=str(problem.get("detail") or ""),
        retry_after_seconds=float(after) if isinstance(after, (int, float)) else None,
    )
    error.name = name
    if isinstance(problem.get("status"), int):
        error.status = problem["status"]
    elif known is None:
        error.status = status
    for field in ("title", "hint", "fault", "retry"):
        if isinstance(problem.get(field), str):
            setattr(error, field, problem[field])
    return error


def problem_of(body: bytes) -> Mapping[str, Any]:
    """The members of a problem body; none where there is no JSON object, as after HEAD."""
    try:
        problem = json.loads(body)
    except ValueError:
        return {}
    return problem if isinstance(problem, dict) else {}
