//! Reading objects over the wire, proxy to proxy: the sockets beneath `zipline_core::pull`.
//!
//! ```text
//! stream    a connection, plain or encrypted
//! tls       the certificates of mutual TLS, from the key ring
//! wire      heads of the closed HTTP/1.1 subset, as text and from text
//! serve     the pull port: connections, requests, answers
//! body      the producer's records, by sendfile where the object is sealed
//! pool      the consumer's connections, a bounded number to each producer
//! exchange  one question and its answer; the renewal and the return of leases
//! read      one read: from the first question to the last verified byte
//! ```

pub(crate) mod body;
pub(crate) mod exchange;
pub(crate) mod pool;
pub(crate) mod read;
pub(crate) mod serve;
pub(crate) mod stream;
pub(crate) mod tls;
pub(crate) mod wire;
