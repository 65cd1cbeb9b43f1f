//! Header names, as they stand on the wire.

/// The sealed token that stands for an object.
pub const REFERENCE: &str = "zipline-reference";
/// `retrieval`: free a call's payload at the first acknowledgement.
pub const RETAIN: &str = "zipline-retain";
/// Write token of an object that was opened before its bytes came.
pub const WRITE: &str = "zipline-write";
/// One-time ticket that a registered function redeems for a descriptor.
pub const TICKET: &str = "zipline-ticket";
/// The error's name, so that it can be told from a function's own answer.
pub const ERROR: &str = "zipline-error";
/// One printable line of detail beside [`ERROR`] on the pull port.
pub const DETAIL: &str = "zipline-detail";
/// `1`: the sender takes a large answer by reference, and asks whether the answering proxy is ours.
pub const ACCEPT: &str = "zipline-accept";
/// `1`: the answering revision's queue-proxy is ours.
pub const CAPABLE: &str = "zipline-capable";
/// Retrievals an object still grants.
pub const RETRIEVALS_LEFT: &str = "zipline-retrievals-left";
/// When an object expires.
pub const EXPIRES: &str = "zipline-expires";
/// Pull protocol version.
pub const PULL: &str = "zipline-pull";
/// Key id of a pull.
pub const KEY: &str = "zipline-key";
/// Instance epoch.
pub const EPOCH: &str = "zipline-epoch";
/// Lease id.
pub const LEASE: &str = "zipline-lease";
/// Wall time of a pull, Unix ms.
pub const TIME: &str = "zipline-time";
/// Random value of a pull.
pub const NONCE: &str = "zipline-nonce";
/// Who reads: `NAMESPACE/SERVICE`.
pub const RECEIVER: &str = "zipline-receiver";
/// Slot of a broadcast object.
pub const SLOT: &str = "zipline-slot";
/// Message authentication code of a pull or its answer.
pub const MAC: &str = "zipline-mac";
/// Whole object's size, or `unknown`.
pub const SIZE: &str = "zipline-size";
/// Range that is answered.
pub const RANGE: &str = "zipline-range";
/// Sum kind of the records.
pub const SUM: &str = "zipline-sum";
/// `records`: the body is a sequence of records (pull port). `reference`: the answer's body is the object behind its
/// [`REFERENCE`], put there by the answering proxy and not by its function.
pub const BODY: &str = "zipline-body";

/// W3C trace context: where a request stands in a trace. Goes with every pull, outside its MAC.
pub const TRACEPARENT: &str = "traceparent";

/// Prefix of every header that is ours. A proxy removes them all before its function sees a request, save [`TICKET`].
pub const PREFIX: &str = "zipline-";

/// Knative: names the kind of a network probe.
pub const K_NETWORK_PROBE: &str = "k-network-probe";
/// Knative: echoed by a probe.
pub const K_NETWORK_HASH: &str = "k-network-hash";
/// Knative: a kubelet probe that goes on to the function.
pub const K_KUBELET_PROBE: &str = "k-kubelet-probe";
/// Knative: who proxied a request (`activator`).
pub const K_PROXY_REQUEST: &str = "k-proxy-request";
/// Knative: the host before a proxy replaced it.
pub const K_ORIGINAL_HOST: &str = "k-original-host";
/// Knative: namespace of the revision a request is for.
pub const KNATIVE_SERVING_NAMESPACE: &str = "knative-serving-namespace";
/// Knative: revision a request is for.
pub const KNATIVE_SERVING_REVISION: &str = "knative-serving-revision";
