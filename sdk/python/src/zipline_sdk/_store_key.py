"""References to objects in a store: ``zs1.KEY`` and ``zr1.KEY``, ``.FIRST-LENGTH`` after them for a part.

A key is ``RETRIEVALS-SIZE-RANDOM``: it says how often the object may be read and how long it is, so that a reader knows what to
expect without asking, and holds 128 random bits, so that nobody finds it who was not given it.
"""

from __future__ import annotations

import re
import secrets
from dataclasses import dataclass, field
from typing import Optional, Tuple

from ._generated import PREFIX_REDIS, PREFIX_S3, RETRIEVALS_MAX, STORE_KEY_RANDOM_BYTES

#: The transfer methods that park payloads in a store, by the prefix of their references.
STORES = {PREFIX_S3: "s3", PREFIX_REDIS: "redis"}
_PREFIXES = {store: prefix for prefix, store in STORES.items()}

_NUMBER = r"(0|[1-9][0-9]{0,18})"
_RANDOM_CHARS = -(-STORE_KEY_RANDOM_BYTES * 8 // 6)
_TOKEN = re.compile(rf"{_NUMBER}-{_NUMBER}-([A-Za-z0-9_-]{{{_RANDOM_CHARS}}})(?:\.{_NUMBER}-{_NUMBER})?")


@dataclass(frozen=True)
class Stored:
    """A reference to an object in a store, or to a part of it."""

    store: str
    #: The object's name in its store, without the store's prefix. A bearer token: it is not in ``repr``.
    key: str = field(repr=False)
    #: Whole reads after which its readers free it; 0: whoever put it does.
    retrievals: int
    #: Bytes of the object.
    size: int
    #: First byte and length of the part.
    part: Optional[Tuple[int, int]] = None

    @classmethod
    def new(cls, store: str, retrievals: int, size: int) -> "Stored":
        """A key that nobody has had before."""
        return cls(store, f"{retrievals}-{size}-{secrets.token_urlsafe(STORE_KEY_RANDOM_BYTES)}", retrievals, size)

    @classmethod
    def parse(cls, token: str) -> Optional["Stored"]:
        """Reads a token that begins with a store's prefix; ``None`` where it is none."""
        store = STORES.get(token[:4])
        found = _TOKEN.fullmatch(token[4:])
        if store is None or found is None:
            return None
        retrievals, size, random, first, length = found.groups()
        stored = cls(store, f"{retrievals}-{size}-{random}", int(retrievals), int(size))
        if stored.retrievals > RETRIEVALS_MAX:
            return None
        return stored if first is None else stored.narrowed((int(first), int(length)))

    @property
    def length(self) -> int:
        """Bytes that it reads."""
        return self.part[1] if self.part else self.size

    def narrowed(self, part: Tuple[int, int]) -> Optional["Stored"]:
        """The part of it that begins at its own byte ``part[0]``; ``None`` where that is not within it."""
        first, length = part
        if first < 0 or length < 1 or first + length > self.length:
            return None
        return Stored(self.store, self.key, self.retrievals, self.size, ((self.part[0] if self.part else 0) + first, length))

    @property
    def token(self) -> str:
        """The reference's text."""
        return _PREFIXES[self.store] + self.key + (f".{self.part[0]}-{self.part[1]}" if self.part else "")
