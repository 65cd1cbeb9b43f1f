"""The token that stands for a payload, and the method its prefix names."""

from __future__ import annotations

import base64
import binascii
from typing import Optional

from ._generated import (
    PREFIX_INLINE,
    PREFIX_REDIS,
    PREFIX_S3,
    PREFIX_ZIPLINE,
    REFERENCE_CHARS_MAX,
    ReferenceInvalid,
)
from ._store_key import Stored

_METHODS = {PREFIX_ZIPLINE: "zipline", PREFIX_INLINE: "inline", PREFIX_S3: "s3", PREFIX_REDIS: "redis"}


class Reference(str):
    """A token that stands for a payload: opaque, safe in headers and in JSON, to be passed on as it is.

    It is a ``str``. A ``zl1.`` reference is a bearer token inside its trust domain, so ``repr`` shows no more than its beginning.
    """

    __slots__ = ()

    @property
    def method(self) -> str:
        """The transfer method that its prefix names: ``zipline``, ``inline``, ``s3``, ``redis``, or ``unknown``."""
        return _METHODS.get(self[:4], "unknown")

    def __repr__(self) -> str:
        return f"Reference({self.method}, {len(self)} characters)"


def inline_reference(data: bytes) -> Reference:
    """A reference that carries its bytes, in base64url."""
    return Reference(PREFIX_INLINE + base64.urlsafe_b64encode(data).rstrip(b"=").decode("ascii"))


def inline_bytes(token: str) -> Optional[bytes]:
    """The bytes that an inline reference carries; ``None`` for a sealed one, which the queue-proxy reads.

    One to a store is none of both; see :func:`stored`.
    """
    method = Reference(token).method
    if method == "zipline":
        if len(token) > REFERENCE_CHARS_MAX:
            raise ReferenceInvalid(f"a reference has at most {REFERENCE_CHARS_MAX} characters, this one {len(token)}")
        if not token.isascii() or not token.isprintable() or " " in token:
            raise ReferenceInvalid("the reference holds what no header may")
        return None
    if method == "inline":
        return _base64url(token[len(PREFIX_INLINE) :])
    raise ReferenceInvalid("the reference begins with no known prefix")


def stored(token: str) -> Optional[Stored]:
    """The object in a store that a reference names; ``None`` for a reference of another method."""
    if Reference(token).method not in ("s3", "redis"):
        return None
    found = Stored.parse(token)
    if found is None:
        raise ReferenceInvalid("the reference names no key of a store")
    return found


def _base64url(text: str) -> bytes:
    try:
        # Python's decoder would skip what is not of its alphabet.
        data = base64.b64decode(text.encode("ascii") + b"=" * (-len(text) % 4), altchars=b"-_", validate=True)
    except (binascii.Error, UnicodeEncodeError, ValueError) as error:
        raise ReferenceInvalid(f"the inline reference is not base64url: {error}") from None
    if "=" in text or "+" in text or "/" in text:
        raise ReferenceInvalid("the inline reference is not base64url without padding")
    return data
