"""Payloads as a function holds them: bytes on the heap, or a view of the sealed memory they lie in."""

from __future__ import annotations

import mmap
import os
from typing import Any, Optional, Union

from . import _memory
from ._error import ZiplineError

#: What can be put, sent and answered.
Data = Union["Payload", bytes, bytearray, memoryview, mmap.mmap, str]


class Payload:
    """Immutable bytes. :attr:`view` reads them in place; ``bytes(payload)`` copies them.

    A payload that came as a descriptor is a private, read-only mapping of memory that nobody can change any more; nothing was
    copied. It outlives the object it came from, and is unmapped when it and its views are gone, or by :meth:`close`.
    """

    __slots__ = ("content_type", "_view", "_map", "_descriptor", "__weakref__")

    def __init__(self, data: Union[bytes, bytearray, memoryview], content_type: Optional[str] = None) -> None:
        #: The content type it was put or sent with.
        self.content_type = content_type
        self._view = memoryview(data).toreadonly().cast("B")
        self._map: Optional[mmap.mmap] = None
        self._descriptor: Optional[int] = None

    @classmethod
    def _mapped(cls, descriptor: int, content_type: Optional[str] = None) -> "Payload":
        """Takes sealed memory over; closes the descriptor where that fails."""
        payload = cls(b"", content_type)
        payload._descriptor = descriptor
        try:
            if not _memory.is_sealed(descriptor):
                raise ZiplineError("the queue-proxy passed memory that is not sealed")
            payload._map = _memory.view(descriptor)
            if payload._map is not None:
                payload._view = memoryview(payload._map)
        except BaseException:
            payload.close()
            raise
        return payload

    @property
    def view(self) -> memoryview:
        """The bytes, without a copy. The mapping stays while a view of it is alive."""
        return self._view

    @property
    def is_mapped(self) -> bool:
        """Whether the bytes are a mapping of the object's own memory, so that nothing was copied on the way."""
        return self._descriptor is not None

    def text(self, encoding: str = "utf-8") -> str:
        """The bytes as text."""
        return str(self._view, encoding)

    def close(self) -> None:
        """Unmaps it now; its views must not be used afterwards. Twice is the same as once."""
        descriptor, self._descriptor = self._descriptor, None
        mapping, self._map = self._map, None
        view, self._view = self._view, memoryview(b"")
        if descriptor is not None:
            os.close(descriptor)
        if mapping is not None:
            try:
                view.release()
                mapping.close()
            except BufferError:
                pass  # Somebody still looks at it; it is unmapped when they are done.

    def __len__(self) -> int:
        return self._view.nbytes

    def __bytes__(self) -> bytes:
        return self._view.tobytes()

    def __eq__(self, other: object) -> bool:
        if isinstance(other, Payload):
            return self._view == other._view
        if isinstance(other, (bytes, bytearray, memoryview)):
            return self._view == other
        return NotImplemented

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"Payload({len(self)} bytes, {'mapped' if self.is_mapped else 'heap'})"

    def __enter__(self) -> "Payload":
        return self

    def __exit__(self, *_: Any) -> None:
        self.close()

    def __del__(self) -> None:
        # The mapping goes with its last view; only the descriptor needs a hand.
        descriptor = getattr(self, "_descriptor", None)
        if descriptor is not None:
            self._descriptor = None
            os.close(descriptor)


def as_payload(data: Data, content_type: Optional[str] = None) -> Payload:
    """The payload of what a caller gave. Bytes are not copied."""
    if isinstance(data, Payload):
        if content_type is None or content_type == data.content_type:
            return data
        if data.is_mapped:
            return _retyped(data, content_type)
        return Payload(data.view, content_type)
    if isinstance(data, str):
        return Payload(data.encode("utf-8"), content_type or "text/plain; charset=utf-8")
    return Payload(data, content_type)  # type: ignore[arg-type]


def _retyped(data: Payload, content_type: str) -> Payload:
    return Payload._mapped(os.dup(data._descriptor), content_type)  # type: ignore[arg-type]


class PayloadBuffer:
    """Memory of a known size to write into, which becomes the payload without a copy.

    Write through :attr:`view`, then :meth:`finish`. Every view of it must be released by then: sealed memory has no writers.
    """

    def __init__(self, size: int, content_type: Optional[str] = None) -> None:
        self._content_type = content_type
        self._descriptor: Optional[int] = None
        self._map: Optional[mmap.mmap] = None
        if _memory.AVAILABLE and size > 0:
            self._descriptor = _memory.create()
            try:
                _memory.allocate(self._descriptor, size)
                self._map = _memory.writable(self._descriptor, size)
            except BaseException:
                os.close(self._descriptor)
                raise
            self._view = memoryview(self._map)
        else:
            self._view = memoryview(bytearray(size))

    @property
    def view(self) -> memoryview:
        """The bytes, to be written."""
        return self._view

    def finish(self) -> Payload:
        """Seals the bytes and gives them back as a payload. Raises ``BufferError`` while a view that was made of it is alive."""
        if self._map is None or self._descriptor is None:
            payload = Payload(self._view, self._content_type)
            self._view = memoryview(b"")
            return payload
        self._view.release()
        try:
            self._map.close()
        except BufferError:
            self._view = memoryview(self._map)
            raise BufferError("a view of the buffer is still alive; release it before finish()") from None
        self._map = None
        descriptor, self._descriptor = self._descriptor, None
        return _sealed(descriptor, self._content_type)

    def __del__(self) -> None:
        descriptor = getattr(self, "_descriptor", None)
        if descriptor is not None:
            os.close(descriptor)


class PayloadWriter:
    """A payload that is written piece by piece, of a size that need not be known. :meth:`finish` seals it without a copy."""

    def __init__(self, content_type: Optional[str] = None) -> None:
        self._content_type = content_type
        self._written = 0
        self._heap = bytearray()
        self._descriptor: Optional[int] = _memory.create() if _memory.AVAILABLE else None

    @property
    def written_bytes(self) -> int:
        """Bytes written so far."""
        return self._written

    def write(self, data: Union[bytes, bytearray, memoryview]) -> int:
        """Appends bytes and returns how many: all of them."""
        view = memoryview(data).cast("B")
        if self._descriptor is None:
            self._heap += view
        else:
            _memory.write_all(self._descriptor, view)
        self._written += view.nbytes
        return view.nbytes

    def finish(self) -> Payload:
        """Seals what was written and gives it back as a payload."""
        descriptor, self._descriptor = self._descriptor, None
        if descriptor is None:
            heap, self._heap = self._heap, bytearray()
            return Payload(heap, self._content_type)
        return _sealed(descriptor, self._content_type)

    def __del__(self) -> None:
        descriptor = getattr(self, "_descriptor", None)
        if descriptor is not None:
            os.close(descriptor)


def _sealed(descriptor: int, content_type: Optional[str]) -> Payload:
    try:
        _memory.seal(descriptor)
    except BaseException:
        os.close(descriptor)
        raise
    return Payload._mapped(descriptor, content_type)


def copied(data: memoryview) -> Payload:
    """Bytes copied into sealed memory, so that they can be handed over."""
    writer = PayloadWriter()
    writer.write(data)
    return writer.finish()
