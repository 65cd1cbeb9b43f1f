"""Sealed memory: what a large payload lies in, and what passes between a function and its queue-proxy.

A producer writes into a memfd, unmaps it, seals it, and hands its descriptor over. The kernel refuses the write seal while a
writable mapping exists, so a sealed payload cannot change any more. A consumer maps privately and read-only. A memfd that is
handed over must have no holes, or its reader would allocate; it is therefore allocated before it is written.
"""

from __future__ import annotations

import errno
import mmap
import os
import sys
from typing import Optional

from ._error import SystemFailure

try:
    import fcntl
except ImportError:  # Not a Unix.
    fcntl = None  # type: ignore[assignment]

#: Whether payloads can lie in sealed memory here.
AVAILABLE = sys.platform == "linux" and hasattr(os, "memfd_create") and hasattr(fcntl, "F_ADD_SEALS")

#: `MFD_NOEXEC_SEAL` of Linux 6.3; older kernels refuse it.
_NOEXEC_SEAL = 0x0008


def create() -> int:
    """A new, empty memfd that can be sealed."""
    flags = os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING
    try:
        try:
            return os.memfd_create("zipline-payload", flags | _NOEXEC_SEAL)
        except OSError as error:
            if error.errno != errno.EINVAL:
                raise
            return os.memfd_create("zipline-payload", flags)
    except OSError as error:
        raise SystemFailure("making memory for a payload", error) from error


def allocate(descriptor: int, size: int) -> None:
    """Gives it that many bytes, all of them really there."""
    try:
        if size:
            os.posix_fallocate(descriptor, 0, size)
    except OSError as error:
        raise SystemFailure(f"allocating {size} bytes for a payload", error) from error


def write_all(descriptor: int, data: memoryview) -> None:
    """Appends bytes."""
    try:
        while data:
            data = data[os.write(descriptor, data) :]
    except OSError as error:
        raise SystemFailure(f"writing {len(data)} bytes of a payload", error) from error


def seal(descriptor: int) -> None:
    """Makes it immutable, for everybody and for ever. No writable mapping may be left."""
    seals = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE | fcntl.F_SEAL_SEAL
    try:
        fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, seals)
    except OSError as error:
        raise SystemFailure("sealing a payload", error) from error


def is_sealed(descriptor: int) -> bool:
    """Whether nobody can change it any more, so that a view of it is safe."""
    wanted = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_WRITE
    try:
        return fcntl.fcntl(descriptor, fcntl.F_GET_SEALS) & wanted == wanted
    except OSError:
        return False


def view(descriptor: int) -> Optional[mmap.mmap]:
    """A private, read-only mapping of all of it; ``None`` where it is empty. Shared ones of sealed memory fail on kernels before 6.7."""
    try:
        size = os.fstat(descriptor).st_size
        return mmap.mmap(descriptor, size, flags=mmap.MAP_PRIVATE, prot=mmap.PROT_READ) if size else None
    except OSError as error:
        raise SystemFailure("mapping a payload", error) from error


def writable(descriptor: int, size: int) -> mmap.mmap:
    """A writable mapping, to be closed before sealing."""
    try:
        return mmap.mmap(descriptor, size, flags=mmap.MAP_SHARED, prot=mmap.PROT_READ | mmap.PROT_WRITE)
    except OSError as error:
        raise SystemFailure(f"mapping {size} bytes for a payload", error) from error
