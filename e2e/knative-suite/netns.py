"""Give the calling process a private network: the proxy's ports are fixed, so two instances on one
loopback would collide. Needs root (or unprivileged user namespaces)."""
import ctypes
import fcntl
import os
import socket
import struct

CLONE_NEWNET, CLONE_NEWUSER = 0x40000000, 0x10000000
_state = None


def _raise_loopback():
    s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    req = struct.pack("16sh14x", b"lo", 0)
    flags = struct.unpack("16sh14x", fcntl.ioctl(s, 0x8913, req))[1]
    fcntl.ioctl(s, 0x8914, struct.pack("16sh14x", b"lo", flags | 1))
    s.close()


def enter():
    """Idempotent. Returns 'netns', 'shared' where PROXY_NETNS=0 asks for it, or 'none' where a private network can't be had.
    Must run on the main thread before others start."""
    global _state
    if _state:
        return _state
    _state = "shared"
    if os.environ.get("PROXY_NETNS", "1") != "0":
        _state = "none"
        libc = ctypes.CDLL(None, use_errno=True)
        ok = libc.unshare(CLONE_NEWNET) == 0 or libc.unshare(CLONE_NEWUSER | CLONE_NEWNET) == 0
        if ok:
            try:
                _raise_loopback()
                _state = "netns"
            except OSError as e:  # a namespace without loopback is useless: say so at once
                raise RuntimeError(f"network namespace made, but loopback stays down: {e}")
    return _state
