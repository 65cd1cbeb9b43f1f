"""Requests and answers, as a function sees them."""

from __future__ import annotations

import email.message
from dataclasses import dataclass, field
from typing import Dict, Mapping, Optional, Union

from ._payload import Data, Payload, as_payload


@dataclass
class Request:
    """A request to this function."""

    method: str
    #: Path and query.
    target: str
    #: Headers; names in any case.
    headers: email.message.Message
    payload: Payload

    @property
    def path(self) -> str:
        """The target without its query."""
        return self.target.split("?", 1)[0]


@dataclass
class Response:
    """An answer: of this function, or of one that was invoked."""

    payload: Payload = field(default_factory=lambda: Payload(b""))
    status: int = 200
    headers: Union[Mapping[str, str], email.message.Message] = field(default_factory=dict)

    @classmethod
    def of(cls, data: Data, status: int = 200, headers: Optional[Dict[str, str]] = None, content_type: Optional[str] = None) -> "Response":
        """An answer with that payload."""
        return cls(as_payload(data, content_type), status, headers or {})


class Failure(Exception):
    """Why a handler has no answer; it becomes an answer of that status with the message as text.

    From status 500 on, a payload that came by reference can be read again. Any other exception is a failure with status 500.
    """

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
