import pathlib
import tempfile

import pytest


@pytest.fixture
def scratch():
    """A directory with a short path: a Unix socket's may have no more than 107 bytes."""
    with tempfile.TemporaryDirectory(prefix="zlp") as folder:
        yield pathlib.Path(folder)


@pytest.fixture(scope="module")
def module_scratch():
    with tempfile.TemporaryDirectory(prefix="zlp") as folder:
        yield pathlib.Path(folder)


@pytest.fixture(scope="session")
def stores():
    """The stores of `s3` and `redis`, started once."""
    from stores import Stores

    made = Stores()
    yield made
    made.stop()
