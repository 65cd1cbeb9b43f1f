"""Names the queue-proxy and this SDK share. Made from crates/contract by `cargo xtask docs`; edit that."""

from typing import Dict, Type

from ._error import Refused

HEADER_REFERENCE = "zipline-reference"
HEADER_RETAIN = "zipline-retain"
HEADER_WRITE = "zipline-write"
HEADER_TICKET = "zipline-ticket"
HEADER_ERROR = "zipline-error"
HEADER_SIZE = "zipline-size"
HEADER_RETRIEVALS_LEFT = "zipline-retrievals-left"
HEADER_EXPIRES = "zipline-expires"
PREFIX_ZIPLINE = "zl1."
PREFIX_INLINE = "zi1."
PREFIX_S3 = "zs1."
PREFIX_REDIS = "zr1."
DESCRIPTOR_PROTOCOL = "zipline-descriptors/1"
VARIABLE_API = "ZIPLINE_API"
VARIABLE_TRANSFER = "ZIPLINE_TRANSFER"
VARIABLE_EGRESS_URL = "ZIPLINE_EGRESS_URL"
TRANSFER_DEFAULT = "zipline"
VARIABLE_S3_ENDPOINT = "ZIPLINE_S3_ENDPOINT"
VARIABLE_S3_BUCKET = "ZIPLINE_S3_BUCKET"
VARIABLE_S3_REGION = "ZIPLINE_S3_REGION"
VARIABLE_REDIS_URL = "ZIPLINE_REDIS_URL"
VARIABLE_STORE_TIMEOUT_SECONDS = "ZIPLINE_STORE_TIMEOUT_SECONDS"
VARIABLE_STORE_RETRIES = "ZIPLINE_STORE_RETRIES"
VARIABLE_STORE_INLINE_BYTES = "ZIPLINE_STORE_INLINE_BYTES"
VARIABLE_STORE_COUNTERS = "ZIPLINE_STORE_COUNTERS"
STORE_PREFIX_S3 = "zipline/"
STORE_PREFIX_REDIS = "zipline:"
STORED_PAYLOAD_MEDIA_TYPE = "application/vnd.zipline.stored-payload+json"
STORE_CONTENT_TYPE_NONE = "binary/octet-stream"
MESSAGE_BYTES_MAX = 65536
MESSAGE_INLINE_BYTES_MAX = 32768
REFERENCE_CHARS_MAX = 512
RETRIEVALS_MAX = 1000000
STORE_KEY_RANDOM_BYTES = 16
STORE_PART_BYTES = 16777216
STORE_PARTS_PARALLEL = 8
STORE_CONNECTIONS_MAX = 32
STORE_REDIS_VALUE_BYTES_MAX = 536870912
STORE_FREES_PENDING_MAX = 100000
PUT_TTL_SECONDS_DEFAULT = 300
STORE_TIMEOUT_SECONDS_DEFAULT = 60
STORE_RETRIES_DEFAULT = 6
STORE_INLINE_BYTES_DEFAULT = 32 * 1024


class RequestInvalid(Refused):
    """The request to the local API is not well formed. Compare the request with docs/reference/local-api.md."""

    name = "request-invalid"
    status = 400
    retry = "never"
    fault = "caller"
    title = "The request to the local API is not well formed"
    hint = "Compare the request with docs/reference/local-api.md"


class ReferenceInvalid(Refused):
    """The reference is not one. Pass the reference exactly as put returned it; it is one token without spaces."""

    name = "reference-invalid"
    status = 400
    retry = "never"
    fault = "caller"
    title = "The reference is not one"
    hint = "Pass the reference exactly as put returned it; it is one token without spaces"


class ReferenceAmbiguous(Refused):
    """The request has two payloads. Send one reference, or a body, not both."""

    name = "reference-ambiguous"
    status = 400
    retry = "never"
    fault = "caller"
    title = "The request has two payloads"
    hint = "Send one reference, or a body, not both"


class ReferenceWrongReceiver(Refused):
    """The reference was made for another service. Ask its holder for a reference without a receiver, or narrowed to this service."""

    name = "reference-wrong-receiver"
    status = 403
    retry = "never"
    fault = "caller"
    title = "The reference was made for another service"
    hint = "Ask its holder for a reference without a receiver, or narrowed to this service"


class PeerForbidden(Refused):
    """The producer's address may not be dialled. Add its network to ZIPLINE_PEER_CIDRS if it is one of yours."""

    name = "peer-forbidden"
    status = 403
    retry = "never"
    fault = "caller"
    title = "The producer's address may not be dialled"
    hint = "Add its network to ZIPLINE_PEER_CIDRS if it is one of yours"


class ReferenceUnknownKey(Refused):
    """The reference was sealed with a key that is not here. Producer and consumer must share a trust domain; after a key rotation, try again."""

    name = "reference-unknown-key"
    status = 403
    retry = "later"
    fault = "caller"
    title = "The reference was sealed with a key that is not here"
    hint = "Producer and consumer must share a trust domain; after a key rotation, try again"


class ReferenceExpired(Refused):
    """The reference has expired. Put the payload again, with a longer ttl."""

    name = "reference-expired"
    status = 410
    retry = "never"
    fault = "caller"
    title = "The reference has expired"
    hint = "Put the payload again, with a longer ttl"


class ReferenceExhausted(Refused):
    """Every retrieval of the object was used, or it was released. Put with as many retrievals as there are readers."""

    name = "reference-exhausted"
    status = 410
    retry = "never"
    fault = "caller"
    title = "Every retrieval of the object was used, or it was released"
    hint = "Put with as many retrievals as there are readers"


class AttemptsExhausted(Refused):
    """The object was begun too often without being read to its end. See why readers do not acknowledge; raise ZIPLINE_ATTEMPTS_EXTRA if they are that many."""

    name = "attempts-exhausted"
    status = 410
    retry = "never"
    fault = "caller"
    title = "The object was begun too often without being read to its end"
    hint = "See why readers do not acknowledge; raise ZIPLINE_ATTEMPTS_EXTRA if they are that many"


class ProducerGone(Refused):
    """The instance that held the object is no more. Put the payload again."""

    name = "producer-gone"
    status = 410
    retry = "never"
    fault = "producer"
    title = "The instance that held the object is no more"
    hint = "Put the payload again"


class ApiUnauthorized(Refused):
    """The local API was used over TCP without its token. Give the content of the token file as the password of HTTP Basic authentication, or use the Unix socket, which needs none."""

    name = "api-unauthorized"
    status = 401
    retry = "never"
    fault = "caller"
    title = "The local API was used over TCP without its token"
    hint = "Give the content of the token file as the password of HTTP Basic authentication, or use the Unix socket, which needs none"


class EgressUnauthorized(Refused):
    """The egress was used without its token. Use the proxy URL from http_proxy or ZIPLINE_EGRESS_URL as it was given; it carries the token."""

    name = "egress-unauthorized"
    status = 407
    retry = "never"
    fault = "caller"
    title = "The egress was used without its token"
    hint = "Use the proxy URL from http_proxy or ZIPLINE_EGRESS_URL as it was given; it carries the token"


class PayloadTooLarge(Refused):
    """The payload is larger than can be received. Raise ZIPLINE_BUFFER_BYTES or the sidecar's memory limit, or read it in ranges."""

    name = "payload-too-large"
    status = 413
    retry = "never"
    fault = "caller"
    title = "The payload is larger than can be received"
    hint = "Raise ZIPLINE_BUFFER_BYTES or the sidecar's memory limit, or read it in ranges"


class RangeUnsatisfiable(Refused):
    """The range lies outside the payload. Ask for bytes below its size; HEAD tells it."""

    name = "range-unsatisfiable"
    status = 416
    retry = "never"
    fault = "caller"
    title = "The range lies outside the payload"
    hint = "Ask for bytes below its size; HEAD tells it"


class CalleeUnreachable(Refused):
    """The called service does not answer. See whether it is deployed and whether the ingress runs."""

    name = "callee-unreachable"
    status = 502
    retry = "later"
    fault = "network"
    title = "The called service does not answer"
    hint = "See whether it is deployed and whether the ingress runs"


class ProducerUnreachable(Refused):
    """The instance that holds the object does not answer. See whether it still runs and whether its pull port is open to this network."""

    name = "producer-unreachable"
    status = 502
    retry = "later"
    fault = "network"
    title = "The instance that holds the object does not answer"
    hint = "See whether it still runs and whether its pull port is open to this network"


class PullUnauthenticated(Refused):
    """A pull was not made, or not answered, by a proxy of the trust domain. See that both sides have the same keys."""

    name = "pull-unauthenticated"
    status = 502
    retry = "later"
    fault = "peer"
    title = "A pull was not made, or not answered, by a proxy of the trust domain"
    hint = "See that both sides have the same keys"


class ClockSkew(Refused):
    """The two machines' clocks are too far apart. Set both clocks by NTP."""

    name = "clock-skew"
    status = 502
    retry = "later"
    fault = "peer"
    title = "The two machines' clocks are too far apart"
    hint = "Set both clocks by NTP"


class ProtocolUnsupported(Refused):
    """The other proxy speaks another version. Finish the rollout, so that both are at most one release apart."""

    name = "protocol-unsupported"
    status = 502
    retry = "later"
    fault = "peer"
    title = "The other proxy speaks another version"
    hint = "Finish the rollout, so that both are at most one release apart"


class PayloadCorrupt(Refused):
    """The payload's bytes do not match their sums. Try again; if it repeats, suspect memory or the network between the two."""

    name = "payload-corrupt"
    status = 502
    retry = "later"
    fault = "producer"
    title = "The payload's bytes do not match their sums"
    hint = "Try again; if it repeats, suspect memory or the network between the two"


class PayloadAborted(Refused):
    """The object's writer failed before it was complete. Put the payload again."""

    name = "payload-aborted"
    status = 502
    retry = "never"
    fault = "producer"
    title = "The object's writer failed before it was complete"
    hint = "Put the payload again"


class BufferFull(Refused):
    """The object buffer is full. Wait for consumers to read, or raise ZIPLINE_BUFFER_BYTES."""

    name = "buffer-full"
    status = 503
    retry = "later"
    fault = "capacity"
    title = "The object buffer is full"
    hint = "Wait for consumers to read, or raise ZIPLINE_BUFFER_BYTES"


class Draining(Refused):
    """The instance is shutting down. Put at another instance."""

    name = "draining"
    status = 503
    retry = "later"
    fault = "capacity"
    title = "The instance is shutting down"
    hint = "Put at another instance"


class StoreUnavailable(Refused):
    """The durable tier does not take or give the payload. See the store that ZIPLINE_TIER_ENDPOINT and ZIPLINE_TIER_URL name, and this proxy's log; without durability=always a put does not need it."""

    name = "store-unavailable"
    status = 503
    retry = "later"
    fault = "network"
    title = "The durable tier does not take or give the payload"
    hint = "See the store that ZIPLINE_TIER_ENDPOINT and ZIPLINE_TIER_URL name, and this proxy's log; without durability=always a put does not need it"


class CallTimeout(Refused):
    """The called service did not answer in time. See the callee; raise ZIPLINE_INVOKE_TIMEOUT_SECONDS for slow ones."""

    name = "call-timeout"
    status = 504
    retry = "later"
    fault = "network"
    title = "The called service did not answer in time"
    hint = "See the callee; raise ZIPLINE_INVOKE_TIMEOUT_SECONDS for slow ones"


class PullIdleTimeout(Refused):
    """No byte of the payload came for too long. See the producer and the network; raise ZIPLINE_PULL_IDLE_TIMEOUT_SECONDS for slow writers."""

    name = "pull-idle-timeout"
    status = 504
    retry = "later"
    fault = "network"
    title = "No byte of the payload came for too long"
    hint = "See the producer and the network; raise ZIPLINE_PULL_IDLE_TIMEOUT_SECONDS for slow writers"


#: Error classes by the name that stands in `Zipline-Error`.
BY_NAME: Dict[str, Type[Refused]] = {
    "request-invalid": RequestInvalid,
    "reference-invalid": ReferenceInvalid,
    "reference-ambiguous": ReferenceAmbiguous,
    "reference-wrong-receiver": ReferenceWrongReceiver,
    "peer-forbidden": PeerForbidden,
    "reference-unknown-key": ReferenceUnknownKey,
    "reference-expired": ReferenceExpired,
    "reference-exhausted": ReferenceExhausted,
    "attempts-exhausted": AttemptsExhausted,
    "producer-gone": ProducerGone,
    "api-unauthorized": ApiUnauthorized,
    "egress-unauthorized": EgressUnauthorized,
    "payload-too-large": PayloadTooLarge,
    "range-unsatisfiable": RangeUnsatisfiable,
    "callee-unreachable": CalleeUnreachable,
    "producer-unreachable": ProducerUnreachable,
    "pull-unauthenticated": PullUnauthenticated,
    "clock-skew": ClockSkew,
    "protocol-unsupported": ProtocolUnsupported,
    "payload-corrupt": PayloadCorrupt,
    "payload-aborted": PayloadAborted,
    "buffer-full": BufferFull,
    "draining": Draining,
    "store-unavailable": StoreUnavailable,
    "call-timeout": CallTimeout,
    "pull-idle-timeout": PullIdleTimeout,
}

__all__ = [
    "RequestInvalid",
    "ReferenceInvalid",
    "ReferenceAmbiguous",
    "ReferenceWrongReceiver",
    "PeerForbidden",
    "ReferenceUnknownKey",
    "ReferenceExpired",
    "ReferenceExhausted",
    "AttemptsExhausted",
    "ProducerGone",
    "ApiUnauthorized",
    "EgressUnauthorized",
    "PayloadTooLarge",
    "RangeUnsatisfiable",
    "CalleeUnreachable",
    "ProducerUnreachable",
    "PullUnauthenticated",
    "ClockSkew",
    "ProtocolUnsupported",
    "PayloadCorrupt",
    "PayloadAborted",
    "BufferFull",
    "Draining",
    "StoreUnavailable",
    "CallTimeout",
    "PullIdleTimeout",
]
