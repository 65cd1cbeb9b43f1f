"""`pytest` here tests the program in PROXY_CMD. Each pytest process (each xdist worker) has its own network.

PROXY_STOCK=1 says that it is Knative's own: then the tests marked `differs` must pass, and those marked `ours` are left out.
"""
import os
import pathlib

import netns

NET = netns.enter()  # before any thread exists

import pytest  # noqa: E402

import launcher  # noqa: E402
from backend import Backend  # noqa: E402


def pytest_configure(config):
    config.addinivalue_line("markers", "accidental: what the Go implementation happens to do; a replacement may differ")
    config.addinivalue_line("markers", "slow: takes 20 s or more of waiting")
    config.addinivalue_line("markers", "bug: the real one is arguably wrong here; a replacement should differ, knowingly")
    config.addinivalue_line("markers", "differs(row): what Knative's does and Zipline's does not, by the beginning of its row in the docs; must fail with Zipline's")
    config.addinivalue_line("markers", "ours: what Zipline's does and Knative's does not")


STOCK = os.environ.get("PROXY_STOCK", "0") != "0"
NO_NETWORK = "needs a network namespace of its own, which can't be made here: run as root, or with PROXY_NETNS=0 on free ports"


DIFFERENCES = pathlib.Path(__file__).parent / "../../docs/reference/knative-differences.md"


def listed(item, differs):
    """Fails the collection where a difference is in what Knative promises, or is not in the list."""
    if not any(item.get_closest_marker(marker) for marker in ("accidental", "bug")):
        raise pytest.UsageError(f"{item.nodeid} differs, and is marked neither `accidental` nor `bug`")
    if not any(row.startswith(f"| {differs.args[0]}") for row in DIFFERENCES.read_text().splitlines()):
        raise pytest.UsageError(f"{item.nodeid} differs, and no row of {DIFFERENCES.name} begins with {differs.args[0]!r}")


def pytest_collection_modifyitems(items):
    """Turns the markers into outcomes. A difference that has gone fails the run: then the list of differences is wrong."""
    for item in items:
        differs = item.get_closest_marker("differs")
        if differs:
            listed(item, differs)
        if NET == "none":
            item.add_marker(pytest.mark.skip(reason=NO_NETWORK))
        elif STOCK and item.get_closest_marker("ours"):
            item.add_marker(pytest.mark.skip(reason="Zipline's own behaviour"))
        elif differs and not STOCK:
            item.add_marker(pytest.mark.xfail(reason=differs.args[0], strict=True))


def pytest_report_header(config):
    return f"proxy: {launcher.PROXY_CMD}; network: {NET}"


@pytest.fixture(scope="session")
def _backend():
    b = Backend(launcher.USER_PORT)
    yield b
    b.stop()


@pytest.fixture
def backend(_backend):
    _backend.reset()
    yield _backend
    _backend.release(10**6)
    _backend.until(lambda: _backend.holding == 0)
    _backend.reset()


_shared = {}


def _drop():
    for p in _shared.values():
        p.stop()
    _shared.clear()


@pytest.fixture(scope="session", autouse=True)
def _end():
    yield
    _drop()


@pytest.fixture
def proxy(backend):
    """The proxy with default settings, kept between tests while nobody wants another one."""
    p = _shared.get("default")
    if p is None or not p.alive():
        _drop()
        p = _shared["default"] = launcher.Proxy()
    return p


@pytest.fixture
def start():
    """start(NAME=value, ...) -> Proxy with these settings, in place of any other."""
    mine = []

    def go(**kw):
        _drop()
        for p in mine:
            p.stop()
        p = launcher.Proxy(**kw)
        mine.append(p)
        return p

    yield go
    for p in mine:
        p.stop()


@pytest.fixture
def nobackend(_backend):
    """A user port on which nobody listens."""
    return 8099
