"""Objects in an S3 bucket, through boto3.

Up to 16 MiB an object is one PUT and one GET; a larger one goes up as a multipart upload and comes down as ranged GETs, with eight
parts under way. Requests are signed without their payload's sum: summing would cost more than sending on a fast network.
"""

from __future__ import annotations

import io
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from typing import Any, Dict, List, Optional, Tuple

import boto3
import botocore.exceptions
from boto3.s3.transfer import TransferConfig
from botocore.config import Config

from ._error import StoreRefused, StoreUnreachable, ZiplineError
from ._generated import (
    STORE_CONNECTIONS_MAX,
    STORE_CONTENT_TYPE_NONE,
    STORE_PART_BYTES,
    STORE_PARTS_PARALLEL,
    STORE_PREFIX_S3,
)
from ._payload import Payload
from ._store_config import Stores
from ._store_counters import Counters
from ._store_key import Stored

_CONNECT_SECONDS = 5.0
_CHUNK_BYTES = 1 << 20
_GETS = ("GetObject", "HeadObject")
_DELETES = ("DeleteObject", "AbortMultipartUpload")
#: What the client raises where there is no whole answer.
_UNREACHABLE = (
    botocore.exceptions.ConnectionError,
    botocore.exceptions.HTTPClientError,
    botocore.exceptions.IncompleteReadError,
)


class S3:
    """One bucket."""

    expires = False

    def __init__(self, stores: Stores, counters: Counters) -> None:
        store = stores.s3
        assert store is not None, "checked before"
        self._bucket = store.bucket
        self._place = store.place
        self._counters = counters
        self._config = TransferConfig(
            multipart_threshold=STORE_PART_BYTES + 1, multipart_chunksize=STORE_PART_BYTES, max_concurrency=STORE_PARTS_PARALLEL
        )
        self._parts = ThreadPoolExecutor(STORE_PARTS_PARALLEL, thread_name_prefix="zipline-s3")
        options: Dict[str, Any] = {
            "connect_timeout": min(_CONNECT_SECONDS, stores.timeout),
            "read_timeout": stores.timeout,
            "max_pool_connections": STORE_CONNECTIONS_MAX,
            "retries": {"mode": "standard", "total_max_attempts": stores.retries + 1},
            "s3": {"addressing_style": "path" if store.endpoint else "auto", "payload_signing_enabled": False},
            "request_checksum_calculation": "when_required",
            "response_checksum_validation": "when_required",
        }
        try:
            session = boto3.session.Session(
                aws_access_key_id=store.access_key_id,
                aws_secret_access_key=store.secret_access_key,
                aws_session_token=store.session_token,
                region_name=store.region,
            )
            self._client = session.client("s3", endpoint_url=store.endpoint, config=Config(**options))
        except (botocore.exceptions.BotoCoreError, ValueError) as error:
            raise StoreRefused("s3", self._place, "configure", error, False) from None
        self._client.meta.events.register("response-received.s3", self._count)

    def close(self) -> None:
        """Closes the connections."""
        self._parts.shutdown(wait=False)
        self._client.close()

    def put(self, stored: Stored, payload: Payload, ttl: float) -> None:
        """Writes the object; its time is kept by the client that put it."""
        extra = {"ContentType": payload.content_type or STORE_CONTENT_TYPE_NONE}
        name = STORE_PREFIX_S3 + stored.key
        with _Sorted(self._place, "put", stored):
            if len(payload) <= STORE_PART_BYTES:
                self._client.put_object(Bucket=self._bucket, Key=name, Body=bytes(payload.view), **extra)
            else:
                source = io.BufferedReader(_Source(payload.view))  # type: ignore[arg-type]
                self._client.upload_fileobj(source, self._bucket, name, ExtraArgs=extra, Config=self._config)

    def get(self, stored: Stored, counted: bool) -> Tuple[Optional[Payload], bool]:
        """Reads the object. Retrievals are not counted: S3 cannot."""
        return self._read(stored, 0, stored.size), False

    def get_part(self, stored: Stored, part: Tuple[int, int]) -> Optional[Payload]:
        """Reads a part."""
        return self._read(stored, *part)

    def stat(self, stored: Stored) -> Optional[Tuple[Optional[int], Optional[datetime]]]:
        """Whether it is there."""
        with _Sorted(self._place, "stat", stored) as sorted_:
            self._client.head_object(Bucket=self._bucket, Key=STORE_PREFIX_S3 + stored.key)
            return None, None
        return None if sorted_.missing else (None, None)

    def retrieved(self, stored: Stored) -> None:
        """One retrieval is over."""
        if stored.retrievals == 1:
            self.delete(stored)

    def delete(self, stored: Stored) -> None:
        """Deletes the object."""
        with _Sorted(self._place, "delete", stored):
            self._client.delete_object(Bucket=self._bucket, Key=STORE_PREFIX_S3 + stored.key)

    def _read(self, stored: Stored, first: int, length: int) -> Optional[Payload]:
        data = bytearray(length)
        view = memoryview(data)
        starts = range(0, max(length, 1), STORE_PART_BYTES)
        whole = length == stored.size and length <= STORE_PART_BYTES

        def fill(start: int) -> Optional[str]:
            return self._fill(stored, first + start, view[start : start + STORE_PART_BYTES], whole)

        with _Sorted(self._place, "get", stored) as sorted_:
            types: List[Optional[str]] = [fill(0)] if len(starts) == 1 else list(self._parts.map(fill, starts))
            return Payload(data, types[0])
        return None if sorted_.missing else Payload(data)

    def _fill(self, stored: Stored, first: int, place: memoryview, whole: bool) -> Optional[str]:
        """Reads a part into its place; gives the content type."""
        part = {} if whole else {"Range": f"bytes={first}-{first + len(place) - 1}"}
        answer = self._client.get_object(Bucket=self._bucket, Key=STORE_PREFIX_S3 + stored.key, **part)
        at = 0
        for chunk in answer["Body"].iter_chunks(_CHUNK_BYTES):
            if at + len(chunk) > len(place):
                raise StoreRefused("s3", self._place, "get", f"a part of {len(place)} bytes has another length there", False)
            place[at : at + len(chunk)] = chunk
            at += len(chunk)
        if at < len(place):
            raise StoreRefused("s3", self._place, "get", f"a part of {len(place)} bytes has another length there", False)
        content_type: Optional[str] = answer.get("ContentType")
        return None if content_type == STORE_CONTENT_TYPE_NONE else content_type

    def _count(self, response_dict: Any = None, exception: Any = None, model: Any = None, **more: Any) -> None:
        """Counts one try. botocore tells of each by an event that is named after the operation."""
        status = response_dict["status_code"] if response_dict else None
        if exception is not None or status is None or status >= 500 or status == 429:
            self._counters.note("s3", failed=1, throttled=int(status in (503, 429)))
            return
        operation = str(more.get("event_name", "")).rpartition(".")[2]
        self._counters.note("s3", **{"gets" if operation in _GETS else "deletes" if operation in _DELETES else "puts": 1})


class _Sorted:
    """Turns the client's errors into the SDK's; a missing object only ends the block."""

    def __init__(self, place: str, operation: str, stored: Stored) -> None:
        self._place = place
        self._operation = operation
        self._key = stored.key
        self.missing = False

    def __enter__(self) -> "_Sorted":
        return self

    def __exit__(self, _: Any, error: Optional[BaseException], __: Any) -> bool:
        if error is None or isinstance(error, ZiplineError):
            return False
        if isinstance(error, boto3.exceptions.S3UploadFailedError) and isinstance(error.__context__, Exception):
            error = error.__context__  # s3transfer's own error around the one that says why.
        if isinstance(error, botocore.exceptions.ClientError):
            told = error.response.get("Error", {})
            status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
            if told.get("Code") in ("NoSuchKey", "404"):
                self.missing = True
                return True
            reason = f"status {status}, {told.get('Code', '')}, {told.get('Message', '')}"
            raise StoreRefused("s3", self._place, self._operation, reason, status >= 500 or status == 429) from None
        # botocore names the whole URL, and with it the key, which is not for logs.
        reason = str(error).replace(self._key, "…")
        if isinstance(error, _UNREACHABLE):
            raise StoreUnreachable("s3", self._place, reason) from None
        if isinstance(error, botocore.exceptions.BotoCoreError):
            raise StoreRefused("s3", self._place, self._operation, reason, False) from None
        return False


class _Source(io.RawIOBase):
    """A payload's bytes as a file, for boto3, without a copy of all of them."""

    def __init__(self, view: memoryview) -> None:
        self._view = view
        self._at = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: len(self._view)}[whence]
        self._at = max(0, min(len(self._view), base + offset))
        return self._at

    def tell(self) -> int:
        return self._at

    def readinto(self, buffer: Any) -> int:
        piece = self._view[self._at : self._at + len(buffer)]
        buffer[: len(piece)] = piece
        self._at += len(piece)
        return len(piece)
