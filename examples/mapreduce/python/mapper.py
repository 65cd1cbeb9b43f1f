"""The mapper: counts the words of one part of the documents, and puts one part per reducer.

Started as a function (`PORT`, `ZIPLINE_API`); `../README.md` has its messages. Nothing here knows how bytes move.
"""

import json
from collections import Counter

from parts import MAGIC, PARTS_MAX, PartWriter, documents_of, number_of, reducer_of, request_of, tokens_of, varint

from zipline_sdk import Client, Failure, Response, serve


def count(list_path, part):
    """The postings of every word of a part's documents, encoded, and what was read."""
    words = {}  # Word to [last document, number of postings, encoded postings].
    read = {"documents": 0, "input_bytes": 0, "tokens": 0}
    for number, path in documents_of(list_path, part):
        counts = Counter()
        try:
            for tokens, size in tokens_of(path):
                counts.update(tokens)
                read["input_bytes"] += size
        except OSError as error:
            raise Failure(500, f"document {path}: {error}") from error
        for word, times in counts.items():
            postings = words.setdefault(word, [0, 0, bytearray()])
            postings[2] += varint(number - postings[0]) + varint(times)
            postings[0], postings[1] = number, postings[1] + 1
        read["documents"] += 1
        read["tokens"] += sum(counts.values())
    return words, read


def write_parts(words, reducers):
    """One part per reducer."""
    writers = [PartWriter() for _ in range(reducers)]
    for writer in writers:
        writer.write(MAGIC)
    for word in sorted(words):
        _, postings, encoded = words[word]
        writers[reducer_of(word, reducers)].write(varint(len(word)) + word + varint(postings) + encoded)
    return [writer.finish() for writer in writers]


def answer(client, request):
    """What a request to the mapper is answered with."""
    message = request_of(request.payload)
    reducers = number_of(message, "reducers", 1, PARTS_MAX)
    words, read = count(str(message.get("documents")), number_of(message, "part", 0, 2**32 - 1))
    made = write_parts(words, reducers)
    references = client.scatter(made)
    stored = [{"reference": reference, "bytes": len(part)} for reference, part in zip(references, made)]
    return Response.of(json.dumps({"parts": stored, **read}), content_type="application/json")


if __name__ == "__main__":
    own = Client.from_env()
    serve(lambda request: answer(own, request), own)
