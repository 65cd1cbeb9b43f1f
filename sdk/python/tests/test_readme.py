"""The samples of README.md, run as they stand."""

import pathlib
import re

import pytest
from world import World

README = (pathlib.Path(__file__).resolve().parents[1] / "README.md").read_text()
SAMPLES = re.findall(r"^## ([^\n]+)\n(.*?)(?=^## |\Z)", README, re.MULTILINE | re.DOTALL)
RUN = [
    (title, code)
    for title, section in SAMPLES
    for skipped, code in re.findall(r"(<!-- no run -->\n)?```python\n(.*?)```", section, re.DOTALL)
    if not skipped
]


@pytest.fixture(scope="module")
def world(module_scratch):
    made = World(module_scratch, lambda _, request: str(len(request.payload)))
    yield made
    made.stop()


def test_there_are_samples():
    assert len(RUN) == 5


@pytest.mark.parametrize("title, code", RUN, ids=[title for title, _ in RUN])
def test_sample(title, code, world, monkeypatch):
    monkeypatch.setenv("ZIPLINE_API", world.producer.api)
    monkeypatch.delenv("ZIPLINE_TRANSFER", raising=False)
    exec(compile(code, f"README.md: {title}", "exec"), {})
    world.producer.at_rest()
