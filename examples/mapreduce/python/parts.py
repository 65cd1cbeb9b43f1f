"""Words, parts and messages of the MapReduce example, as `../README.md` says them: byte for byte what the Rust ones write."""

import heapq
import json
import os
import re
from itertools import groupby
from operator import itemgetter

from zipline_sdk import Failure, PayloadWriter

SCHEMA = 1
#: Parts of one job.
PARTS_MAX = 256
#: Bytes of a document that are read at once.
READ_BYTES = 1 << 20
#: Bytes that are gathered before they are written into a payload.
WRITE_BYTES = 256 << 10

MAGIC = b"zmr1"
_WORD = re.compile(rb"[a-z0-9_]+")
_WORD_BYTES = b"abcdefghijklmnopqrstuvwxyz0123456789_"
_FNV_OFFSET, _FNV_PRIME, _64_BITS = 0xCBF29CE484222325, 0x100000001B3, (1 << 64) - 1


def request_of(payload):
    """The message that a request carries."""
    try:
        message = json.loads(bytes(payload))
        schema = message["schema"]
    except (ValueError, TypeError, KeyError) as error:
        raise Failure(400, f"the request is not understood: {error!r}") from error
    if schema != SCHEMA:
        raise Failure(400, f"schema {schema!r}; this mapper and reducer speak {SCHEMA}")
    return message


def number_of(message, name, low, high):
    """A whole number of a message."""
    value = message.get(name)
    if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
        raise Failure(400, f"{name}: {value!r}, expected {low} to {high}")
    return value


def documents_of(path, part):
    """Number and path of every document of a part of the list."""
    try:
        with open(path, "rb") as lines:
            for number, line in enumerate(lines):
                fields = line.rstrip(b"\r\n").split(b"\t", 2)
                if len(fields) != 3 or not fields[0].isdigit():
                    raise Failure(400, f"line {number + 1} of {path}: expected PART, BYTES and PATH, separated by tabs")
                if int(fields[0]) == part:
                    yield number, os.fsdecode(fields[2])
    except OSError as error:
        raise Failure(400, f"the list of documents {path}: {error}") from error


def tokens_of(path):
    """The words of a document, as lists of lower-cased ones, each with the number of bytes that were read for it."""
    with open(path, "rb", buffering=0) as document:
        begun = b""  # A word that goes on in the next piece.
        while True:
            piece = document.read(READ_BYTES)
            if not piece:
                yield _WORD.findall(begun), 0
                return
            text = begun + piece.lower()  # Of bytes: A to Z only.
            whole = len(text.rstrip(_WORD_BYTES))
            begun = text[whole:]
            yield _WORD.findall(text, 0, whole), len(piece)


def reducer_of(word, reducers):
    """The reducer that a word belongs to: FNV-1a, 64 bits, modulo their number."""
    value = _FNV_OFFSET
    for byte in word:
        value = (value ^ byte) * _FNV_PRIME & _64_BITS
    return value % reducers


def varint(number):
    """A number as LEB128."""
    encoded = bytearray()
    while number >= 0x80:
        encoded.append(number & 0x7F | 0x80)
        number >>= 7
    encoded.append(number)
    return bytes(encoded)


class PartError(ValueError):
    """Why bytes are no part."""


def entries_of(part):
    """The words of a part in their order, as (word, number of postings, encoded postings), checked on the way."""
    if bytes(part[:4]) != MAGIC:
        raise PartError("the part does not begin with `zmr1`")
    at, last = 4, None
    while at < len(part):
        length, at = _read_varint(part, at)
        if at + length > len(part):
            raise PartError("the part is cut off")
        word, at = bytes(part[at : at + length]), at + length
        if last is not None and last >= word:
            raise PartError("the part's words are not in ascending order")
        last = word
        postings, at = _read_varint(part, at)
        begun, document = at, 0
        for index in range(postings):
            distance, at = _read_varint(part, at)
            count, at = _read_varint(part, at)
            document += distance
            if document > _64_BITS:
                raise PartError("a number in the part has more than 64 bits")
            if count == 0 or (index and not distance):
                raise PartError("a posting has no count, or repeats its document")
        yield word, postings, bytes(part[begun:at])


def merge(parts, write):
    """Merges parts into one, given to `write` piece by piece; returns the number of its words."""
    write(MAGIC)
    words = 0
    for word, same in groupby(heapq.merge(*map(entries_of, parts), key=itemgetter(0)), key=itemgetter(0)):
        words += 1
        _, postings, encoded = next(same)
        others = list(same)
        if others:
            postings, encoded = _united([(postings, encoded), *(entry[1:] for entry in others)])
        write(varint(len(word)) + word + varint(postings) + encoded)
    return words


def _united(encoded):
    """Postings of one word from several parts: by document, counts of the same one added up."""
    counts = {}
    for postings, each in encoded:
        at = document = 0
        for _ in range(postings):
            distance, at = _read_varint(each, at)
            count, at = _read_varint(each, at)
            document += distance
            counts[document] = counts.get(document, 0) + count
    united, last = bytearray(), 0
    for document in sorted(counts):
        united += varint(document - last) + varint(counts[document])
        last = document
    return len(counts), bytes(united)


def _read_varint(data, at):
    number = shift = 0
    while True:
        if at >= len(data):
            raise PartError("the part is cut off")
        byte = data[at]
        at += 1
        number |= (byte & 0x7F) << shift
        if number > _64_BITS or shift > 63:
            raise PartError("a number in the part has more than 64 bits")
        if byte < 0x80:
            return number, at
        shift += 7


class PartWriter:
    """A payload that is written in small pieces."""

    def __init__(self):
        self._payload = PayloadWriter()
        self._gathered = bytearray()

    def write(self, data):
        self._gathered += data
        if len(self._gathered) >= WRITE_BYTES:
            self._flush()

    def finish(self):
        self._flush()
        return self._payload.finish()

    def _flush(self):
        self._payload.write(self._gathered)
        self._gathered = bytearray()
