//! The one list of errors that leave a queue-proxy.
//!
//! Problem bodies, gRPC statuses, SDK exceptions, metric labels and `docs/reference/errors.md` are made from [`ErrorCode::ALL`].

/// Who must act on an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Whoever sent the request or chose the reference.
    Caller,
    /// Another proxy that broke the protocol or may not be spoken to.
    Peer,
    /// The instance that held the payload.
    Producer,
    /// A limit was reached; time or a larger setting helps.
    Capacity,
    /// The way between two proxies.
    Network,
}

impl Fault {
    /// The name that stands in a problem body.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Caller => "caller",
            Self::Peer => "peer",
            Self::Producer => "producer",
            Self::Capacity => "capacity",
            Self::Network => "network",
        }
    }
}

/// Whether sending the same request again can help.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Retry {
    /// It cannot.
    Never,
    /// It can, after a while.
    Later,
}

impl Retry {
    /// The name that stands in a problem body.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Never => "never",
            Self::Later => "later",
        }
    }
}

macro_rules! errors {
    ($($variant:ident $name:literal $http:literal $grpc:ident $grpc_number:literal $retry:ident $fault:ident $title:literal $hint:literal;)*) => {
        /// A public error.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum ErrorCode {
            $(#[doc = $title] $variant,)*
        }

        impl ErrorCode {
            /// Every error, in the order of the documentation.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)*];

            /// The name: in `Zipline-Error`, in `urn:zipline:error:NAME`, in metrics.
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $name,)* }
            }
            /// HTTP status.
            pub const fn http_status(self) -> u16 {
                match self { $(Self::$variant => $http,)* }
            }
            /// gRPC status, by name.
            pub const fn grpc_name(self) -> &'static str {
                match self { $(Self::$variant => stringify!($grpc),)* }
            }
            /// gRPC status, by number.
            pub const fn grpc_status(self) -> u8 {
                match self { $(Self::$variant => $grpc_number,)* }
            }
            /// Whether the same request may be sent again.
            pub const fn retry(self) -> Retry {
                match self { $(Self::$variant => Retry::$retry,)* }
            }
            /// Who must act.
            pub const fn fault(self) -> Fault {
                match self { $(Self::$variant => Fault::$fault,)* }
            }
            /// One sentence that says what is wrong.
            pub const fn title(self) -> &'static str {
                match self { $(Self::$variant => $title,)* }
            }
            /// What to do about it.
            pub const fn hint(self) -> &'static str {
                match self { $(Self::$variant => $hint,)* }
            }
            /// The error of that name.
            pub fn from_name(name: &str) -> Option<Self> {
                match name { $($name => Some(Self::$variant),)* _ => None }
            }
        }
    };
}

errors! {
    RequestInvalid "request-invalid" 400 INVALID_ARGUMENT 3 Never Caller "The request to the local API is not well formed" "Compare the request with docs/reference/local-api.md";
    ReferenceInvalid "reference-invalid" 400 INVALID_ARGUMENT 3 Never Caller "The reference is not one" "Pass the reference exactly as put returned it; it is one token without spaces";
    ReferenceAmbiguous "reference-ambiguous" 400 INVALID_ARGUMENT 3 Never Caller "The request has two payloads" "Send one reference, or a body, not both";
    ReferenceWrongReceiver "reference-wrong-receiver" 403 PERMISSION_DENIED 7 Never Caller "The reference was made for another service" "Ask its holder for a reference without a receiver, or narrowed to this service";
    PeerForbidden "peer-forbidden" 403 PERMISSION_DENIED 7 Never Caller "The producer's address may not be dialled" "Add its network to ZIPLINE_PEER_CIDRS if it is one of yours";
    ReferenceUnknownKey "reference-unknown-key" 403 FAILED_PRECONDITION 9 Later Caller "The reference was sealed with a key that is not here" "Producer and consumer must share a trust domain; after a key rotation, try again";
    ReferenceExpired "reference-expired" 410 FAILED_PRECONDITION 9 Never Caller "The reference has expired" "Put the payload again, with a longer ttl";
    ReferenceExhausted "reference-exhausted" 410 FAILED_PRECONDITION 9 Never Caller "Every retrieval of the object was used, or it was released" "Put with as many retrievals as there are readers";
    AttemptsExhausted "attempts-exhausted" 410 FAILED_PRECONDITION 9 Never Caller "The object was begun too often without being read to its end" "See why readers do not acknowledge; raise ZIPLINE_ATTEMPTS_EXTRA if they are that many";
    ProducerGone "producer-gone" 410 FAILED_PRECONDITION 9 Never Producer "The instance that held the object is no more" "Put the payload again";
    ApiUnauthorized "api-unauthorized" 401 UNAUTHENTICATED 16 Never Caller "The local API was used over TCP without its token" "Give the content of the token file as the password of HTTP Basic authentication, or use the Unix socket, which needs none";
    EgressUnauthorized "egress-unauthorized" 407 UNAUTHENTICATED 16 Never Caller "The egress was used without its token" "Use the proxy URL from http_proxy or ZIPLINE_EGRESS_URL as it was given; it carries the token";
    PayloadTooLarge "payload-too-large" 413 RESOURCE_EXHAUSTED 8 Never Caller "The payload is larger than can be received" "Raise ZIPLINE_BUFFER_BYTES or the sidecar's memory limit, or read it in ranges";
    RangeUnsatisfiable "range-unsatisfiable" 416 OUT_OF_RANGE 11 Never Caller "The range lies outside the payload" "Ask for bytes below its size; HEAD tells it";
    CalleeUnreachable "callee-unreachable" 502 UNAVAILABLE 14 Later Network "The called service does not answer" "See whether it is deployed and whether the ingress runs";
    ProducerUnreachable "producer-unreachable" 502 UNAVAILABLE 14 Later Network "The instance that holds the object does not answer" "See whether it still runs and whether its pull port is open to this network";
    PullUnauthenticated "pull-unauthenticated" 502 UNAVAILABLE 14 Later Peer "A pull was not made, or not answered, by a proxy of the trust domain" "See that both sides have the same keys";
    ClockSkew "clock-skew" 502 UNAVAILABLE 14 Later Peer "The two machines' clocks are too far apart" "Set both clocks by NTP";
    ProtocolUnsupported "protocol-unsupported" 502 UNAVAILABLE 14 Later Peer "The other proxy speaks another version" "Finish the rollout, so that both are at most one release apart";
    PayloadCorrupt "payload-corrupt" 502 DATA_LOSS 15 Later Producer "The payload's bytes do not match their sums" "Try again; if it repeats, suspect memory or the network between the two";
    PayloadAborted "payload-aborted" 502 ABORTED 10 Never Producer "The object's writer failed before it was complete" "Put the payload again";
    BufferFull "buffer-full" 503 RESOURCE_EXHAUSTED 8 Later Capacity "The object buffer is full" "Wait for consumers to read, or raise ZIPLINE_BUFFER_BYTES";
    Draining "draining" 503 RESOURCE_EXHAUSTED 8 Later Capacity "The instance is shutting down" "Put at another instance";
    StoreUnavailable "store-unavailable" 503 UNAVAILABLE 14 Later Network "The durable tier does not take or give the payload" "See the store that ZIPLINE_TIER_ENDPOINT and ZIPLINE_TIER_URL name, and this proxy's log; without durability=always a put does not need it";
    CallTimeout "call-timeout" 504 DEADLINE_EXCEEDED 4 Later Network "The called service did not answer in time" "See the callee; raise ZIPLINE_INVOKE_TIMEOUT_SECONDS for slow ones";
    PullIdleTimeout "pull-idle-timeout" 504 DEADLINE_EXCEEDED 4 Later Network "No byte of the payload came for too long" "See the producer and the network; raise ZIPLINE_PULL_IDLE_TIMEOUT_SECONDS for slow writers";
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_unique_and_lead_back_to_their_error() {
        for (i, code) in ErrorCode::ALL.iter().enumerate() {
            assert_eq!(ErrorCode::from_name(code.name()), Some(*code));
            assert!(ErrorCode::ALL[..i].iter().all(|other| other.name() != code.name()));
        }
    }

    #[test]
    fn what_can_be_tried_again_is_never_a_4xx_but_for_a_key_that_may_still_come() {
        for code in ErrorCode::ALL {
            if code.retry() == Retry::Later {
                assert!(code.http_status() >= 500 || *code == ErrorCode::ReferenceUnknownKey, "{}", code.name());
            }
        }
    }
}
