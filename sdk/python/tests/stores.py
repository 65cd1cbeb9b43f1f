"""A real S3 server and a real Redis for tests, as `zipline bench stores` starts them."""

import json
import os
import pathlib
import subprocess

import pytest
from world import REPOSITORY, free_port

START_SECONDS = 120


def bench():
    """The built `zipline-bench`."""
    folder = os.environ.get("ZIPLINE_TEST_BIN_DIR") or REPOSITORY / "target" / "debug"
    return pathlib.Path(folder) / "zipline-bench"


class Stores:
    """The servers that could be had, until :meth:`stop`."""

    def __init__(self):
        self._process = None
        self._told = {}
        if not bench().is_file():
            self._reason = f"{bench()} is not built"
            return
        setup = subprocess.run([bench(), "setup"], capture_output=True, text=True, stdin=subprocess.DEVNULL)
        self._reason = setup.stdout + setup.stderr
        self._process = subprocess.Popen(
            [bench(), "stores", "--json"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, stdin=subprocess.DEVNULL, text=True
        )
        line = self._process.stdout.readline()
        if line:
            self._told = json.loads(line)

    def variables(self, transfer):
        """The variables of a case's `transfer`, as `conformance/README.md` says; skips the test where they cannot be had."""
        method, _, oddity = transfer.partition("-")
        variables = {"ZIPLINE_TRANSFER": method, "ZIPLINE_STORE_RETRIES": "2", "ZIPLINE_STORE_INLINE_BYTES": "0"}
        if method not in ("s3", "redis"):
            return variables
        pytest.importorskip("boto3" if method == "s3" else "redis", reason=f"the extra of `{method}` is not installed")
        store = self._told.get(method)
        if store is None:
            pytest.skip(f"no server for `{method}`: {self._reason.strip()}")
        variables.update(store["variables"])
        if method == "s3" and oddity:
            odd = {"nowhere": {"ZIPLINE_S3_ENDPOINT": f"http://127.0.0.1:{free_port()}"}, "refusing": {"AWS_SECRET_ACCESS_KEY": "wrong"}}
            variables.update(odd[oddity])
        elif oddity:
            place = variables["ZIPLINE_REDIS_URL"].rpartition("@")[2]
            odd = {"nowhere": f"redis://:secret@127.0.0.1:{free_port()}/0", "refusing": f"redis://:wrong@{place}"}
            variables["ZIPLINE_REDIS_URL"] = odd[oddity]
        return variables

    def stop(self):
        if self._process is not None:
            self._process.terminate()
            self._process.communicate(timeout=START_SECONDS)
