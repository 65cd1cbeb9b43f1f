"""The reducer: gets its parts, merges them, and puts the result.

Started as a function (`PORT`, `ZIPLINE_API`); `../README.md` has its messages. Nothing here knows how bytes move.
"""

import json

from parts import PartError, PartWriter, merge, request_of

from zipline_sdk import Client, Failure, Response, serve


def answer(client, request):
    """What a request to the reducer is answered with."""
    message = request_of(request.payload)
    references = message.get("parts")
    if not isinstance(references, list) or not all(isinstance(reference, str) for reference in references):
        raise Failure(400, "parts: expected a list of references")
    writer = PartWriter()
    try:
        words = merge([part.view for part in client.gather(references)], writer.write)
    except PartError as error:
        raise Failure(500, str(error)) from error
    result = writer.finish()
    stored = {"reference": client.put(result), "bytes": len(result)}
    return Response.of(json.dumps({"result": stored, "words": words}), content_type="application/json")


if __name__ == "__main__":
    own = Client.from_env()
    serve(lambda request: answer(own, request), own)
