"""The Python mapper and reducer against the Rust program's plain computation: the same bytes."""

import json
import os
import pathlib
import random
import subprocess
import sys
from types import SimpleNamespace

import pytest

HERE = pathlib.Path(__file__).resolve().parents[1]
sys.path.insert(0, str(HERE))

import mapper  # noqa: E402
import parts  # noqa: E402
import reducer  # noqa: E402

from zipline_sdk import Client, Failure, Payload  # noqa: E402

MAPPERS, REDUCERS = 3, 2


@pytest.fixture
def client():
    """Under `inline` references carry their bytes, so that the job needs no queue-proxy."""
    return Client("unix:/nowhere", transfer="inline")


def call(role, client, message):
    request = SimpleNamespace(payload=Payload(json.dumps(message).encode()))
    return json.loads(bytes(role.answer(client, request).payload))


@pytest.fixture
def documents(tmp_path):
    """A list of awkward documents: no words, words at the edges of what is read at once, bytes of no encoding."""
    seeded = random.Random(7)
    words = [b"Alpha", b"beta_2", b"X", b"the", b"THE", b"0", b"_", b"z" * 300]
    texts = [
        b"",
        b" \n\t",
        b"one",
        b"W" * (parts.READ_BYTES + 5) + b" tail",
        b"a" * (parts.READ_BYTES - 2) + b" bcd efg",
        "Grüße, naïve café ÄÖ".encode(),
        "Grüße".encode("latin-1") + bytes(range(256)),
        *(b" ".join(seeded.choice(words) for _ in range(seeded.randrange(4000))) for _ in range(30)),
    ]
    lines = []
    for number, text in enumerate(texts):
        path = tmp_path / f"text {number}"
        path.write_bytes(text)
        lines.append(f"{number % MAPPERS}\t{len(text)}\t{path}\n")
    listed = tmp_path / "documents.txt"
    listed.write_text("".join(lines))
    return listed


def test_the_result_is_byte_for_byte_that_of_the_rust_program(documents, client, tmp_path):
    maps = [
        call(mapper, client, {"schema": 1, "documents": str(documents), "part": part, "reducers": REDUCERS}) for part in range(MAPPERS)
    ]
    reduces = [
        call(reducer, client, {"schema": 1, "parts": [mapped["parts"][index]["reference"] for mapped in maps]}) for index in range(REDUCERS)
    ]
    results = [client.get(reduced["result"]["reference"]) for reduced in reduces]
    assert [len(result) for result in results] == [reduced["result"]["bytes"] for reduced in reduces]
    merged = bytearray()
    words = parts.merge([result.view for result in results], merged.extend)
    assert words == sum(reduced["words"] for reduced in reduces)

    built = pathlib.Path(os.environ.get("ZIPLINE_TEST_BIN_DIR") or HERE.parents[2] / "target" / "debug") / "zipline-mapreduce"
    expected = tmp_path / "expected"
    subprocess.run([built, "reference", "--list", documents, "--output", expected], check=True, stdout=subprocess.DEVNULL)
    assert bytes(merged) == expected.read_bytes()
    assert sum(mapped["documents"] for mapped in maps) == 37
    assert sum(mapped["input_bytes"] for mapped in maps) == sum(int(line.split("\t")[1]) for line in documents.read_text().splitlines())


def test_the_hash_is_the_published_one():
    assert [parts.reducer_of(word, 1 << 64) for word in (b"", b"a", b"foobar")] == [
        0xCBF29CE484222325,
        0xAF63DC4C8601EC8C,
        0x85944171F73967E8,
    ]


def test_numbers_of_every_length_survive():
    for shift in range(64):
        for number in (1 << shift, (1 << shift) - 1):
            assert parts._read_varint(parts.varint(number), 0)[0] == number
    with pytest.raises(parts.PartError):
        parts._read_varint(b"\xff" * 10, 0)


@pytest.mark.parametrize("data", [b"", b"zmr2", b"zmr1\x05ab", b"zmr1\x01b\x01\x00\x01\x01a\x01\x00\x01", b"zmr1\x01a\x01\x00\x00"])
def test_what_is_no_part_is_refused(data):
    with pytest.raises(parts.PartError):
        list(parts.entries_of(data))


@pytest.mark.parametrize(
    "role, message",
    [
        (mapper, []),
        (mapper, {"schema": 2}),
        (mapper, {"schema": 1, "documents": "/nowhere", "part": 0, "reducers": 1}),
        (mapper, {"schema": 1, "documents": "/nowhere", "part": 0, "reducers": 0}),
        (reducer, {"schema": 1, "parts": "zi1."}),
    ],
)
def test_a_request_that_is_not_understood_is_refused(role, message, client):
    with pytest.raises(Failure) as refused:
        call(role, client, message)
    assert refused.value.status == 400
