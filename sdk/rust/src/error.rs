//! What can go wrong for a function, by name.
//!
//! Everything a queue-proxy refuses comes as [`Error::Refused`] with the public code of the error table. The other
//! variants are the SDK's own; their [names](Error::name) are the same in every language.

use std::fmt;
use std::io;

use serde::Deserialize;
use zipline_contract::{ErrorCode, Fault, Retry};

/// A failed call of the SDK.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A queue-proxy, the own one or the callee's, refused.
    #[error(transparent)]
    Refused(Box<Problem>),
    /// The local API does not answer.
    #[error("the local API at {api} does not answer: {reason}")]
    Unreachable {
        /// Where it was looked for, as in `ZIPLINE_API`.
        api: String,
        /// What the system said.
        reason: String,
    },
    /// A variable is missing or not understood.
    #[error("{variable}={value:?}: {reason}")]
    Configuration {
        /// The variable.
        variable: &'static str,
        /// Its value; empty where it is missing.
        value: String,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// The transfer method, or the reference's, is known but not part of this build.
    #[error("transfer method `{method}` is not part of this build")]
    MethodNotBuilt {
        /// The method.
        method: &'static str,
    },
    /// The local API's answer is not understood.
    #[error("the local API's answer to {request} is not understood: {reason}")]
    Protocol {
        /// What was asked.
        request: &'static str,
        /// What was wrong with the answer.
        reason: String,
    },
    /// A store, S3 or Redis, does not answer.
    #[error("{store} ({place}) cannot be reached: {reason}")]
    StoreUnreachable {
        /// The transfer method.
        store: &'static str,
        /// Where it was looked for.
        place: String,
        /// What was seen instead of an answer.
        reason: String,
    },
    /// A store refused, also when it was asked again.
    #[error("{store} ({place}) refused to {operation}: {reason}")]
    StoreRefused {
        /// The transfer method.
        store: &'static str,
        /// Where it is.
        place: String,
        /// What it was asked for: `put`, `get`, `stat`, `delete`, `configure`.
        operation: &'static str,
        /// Its own words.
        reason: String,
        /// Whether it can change its mind: 503, `LOADING`.
        passes: bool,
    },
    /// The operating system refused memory or a descriptor.
    #[error("{action}: {source}")]
    System {
        /// What was tried.
        action: &'static str,
        /// What the system said.
        source: io::Error,
    },
    /// The stream that was being put ended in an error; the object was aborted.
    #[error("the payload's stream broke off after {sent_bytes} bytes: {reason}")]
    Source {
        /// Bytes the stream gave before.
        sent_bytes: u64,
        /// What it said.
        reason: String,
    },
}

impl Error {
    /// The public code, where a queue-proxy refused with one that this release knows.
    pub fn code(&self) -> Option<ErrorCode> {
        match self {
            Self::Refused(problem) => problem.code,
            _ => None,
        }
    }

    /// The error's name: a name of the error table, or one of the SDK's own.
    pub fn name(&self) -> &str {
        match self {
            Self::Refused(problem) => &problem.name,
            Self::Unreachable { .. } => "unreachable",
            Self::Configuration { .. } => "configuration",
            Self::MethodNotBuilt { .. } => "method-not-built",
            Self::Protocol { .. } => "protocol",
            Self::StoreUnreachable { .. } => "store-unreachable",
            Self::StoreRefused { .. } => "store-refused",
            Self::System { .. } => "system",
            Self::Source { .. } => "source",
        }
    }

    /// Whether the same call can succeed later.
    pub fn retry(&self) -> Retry {
        match self {
            Self::Refused(problem) => problem.retry,
            Self::Unreachable { .. } | Self::StoreUnreachable { .. } | Self::System { .. } => Retry::Later,
            Self::StoreRefused { passes: true, .. } => Retry::Later,
            _ => Retry::Never,
        }
    }

    /// What to do about it.
    pub fn hint(&self) -> &str {
        match self {
            Self::Refused(problem) => &problem.hint,
            Self::Unreachable { .. } => "See whether the queue-proxy runs, and whether ZIPLINE_API names its socket",
            Self::Configuration { .. } => "See docs/reference/settings.md",
            Self::MethodNotBuilt { .. } => "Build the SDK with the method's feature (extra), or set ZIPLINE_TRANSFER to another",
            Self::StoreUnreachable { .. } => {
                "See whether the store runs, and whether ZIPLINE_S3_ENDPOINT or ZIPLINE_REDIS_URL names it"
            }
            Self::StoreRefused { passes: true, .. } => "Try again later; raise ZIPLINE_STORE_RETRIES to be more patient",
            Self::StoreRefused { .. } => "See the credentials, the bucket and what they may do",
            Self::Protocol { .. } => "See that ZIPLINE_API names a queue-proxy of a release close to this SDK's",
            Self::System { .. } => "See the process's limits on memory and open files",
            Self::Source { .. } => "Put the payload again",
        }
    }

    pub(crate) fn protocol(request: &'static str, reason: impl fmt::Display) -> Self {
        Self::Protocol { request, reason: reason.to_string() }
    }

    pub(crate) fn system(action: &'static str) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::System { action, source }
    }

    /// A refusal that the SDK finds out itself, with a code of the table.
    pub(crate) fn refused(code: ErrorCode, detail: impl Into<String>) -> Self {
        Self::Refused(Box::new(Problem {
            name: code.name().to_owned(),
            code: Some(code),
            status: code.http_status(),
            title: code.title().to_owned(),
            detail: detail.into(),
            retry: code.retry(),
            fault: Some(code.fault()),
            hint: code.hint().to_owned(),
            retry_after_seconds: None,
        }))
    }
}

/// A refusal, as the problem body told it.
#[derive(Clone, Debug)]
pub struct Problem {
    /// The error's name.
    pub name: String,
    /// The name's code; `None` when the proxy is newer than this SDK and knows more errors.
    pub code: Option<ErrorCode>,
    /// HTTP status.
    pub status: u16,
    /// One sentence that says what is wrong.
    pub title: String,
    /// The thing, the value and the limit.
    pub detail: String,
    /// Whether the same request can succeed later.
    pub retry: Retry,
    /// Who must act.
    pub fault: Option<Fault>,
    /// What to do about it.
    pub hint: String,
    /// After how long a retry makes sense, in seconds.
    pub retry_after_seconds: Option<f64>,
}

impl std::error::Error for Problem {}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let head = if self.detail.is_empty() { &self.title } else { &self.detail };
        write!(f, "{head} ({})", self.name)
    }
}

/// The members of a problem body, or of a refusing descriptor message, that are read.
#[derive(Debug, Default, Deserialize)]
pub(crate) struct ProblemBody {
    pub(crate) error: Option<String>,
    pub(crate) status: Option<u16>,
    pub(crate) title: Option<String>,
    pub(crate) detail: Option<String>,
    pub(crate) hint: Option<String>,
    pub(crate) retry: Option<String>,
    pub(crate) retry_after_seconds: Option<f64>,
}

impl ProblemBody {
    /// The refusal it tells; what it leaves out comes from the error table.
    pub(crate) fn into_error(self, name: &str, status: u16) -> Error {
        let code = ErrorCode::from_name(name);
        let retry = match self.retry.as_deref() {
            Some("later") => Retry::Later,
            Some(_) => Retry::Never,
            None => code.map_or(Retry::Never, ErrorCode::retry),
        };
        Error::Refused(Box::new(Problem {
            name: name.to_owned(),
            code,
            status: self.status.unwrap_or(status),
            title: self.title.unwrap_or_else(|| code.map_or("The queue-proxy refused", ErrorCode::title).to_owned()),
            detail: self.detail.unwrap_or_default(),
            retry,
            fault: code.map(ErrorCode::fault),
            hint: self.hint.unwrap_or_else(|| code.map_or("", ErrorCode::hint).to_owned()),
            retry_after_seconds: self.retry_after_seconds,
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_problem_keeps_its_numbers_and_its_code() {
        let body = r#"{"type":"urn:zipline:error:buffer-full","status":503,"detail":"480 MiB of 512 MiB held","retry":"later","retry_after_seconds":2.5,"new":1}"#;
        let body: ProblemBody = serde_json::from_str(body).expect("the body is JSON");
        let error = body.into_error("buffer-full", 503);
        assert_eq!(error.code(), Some(ErrorCode::BufferFull));
        assert_eq!(error.retry(), Retry::Later);
        assert_eq!(error.to_string(), "480 MiB of 512 MiB held (buffer-full)");
        assert_eq!(error.hint(), ErrorCode::BufferFull.hint());
        let Error::Refused(problem) = error else { panic!("a refusal") };
        assert_eq!(problem.retry_after_seconds, Some(2.5));
    }

    #[test]
    fn an_error_of_a_newer_proxy_keeps_its_name() {
        let error = ProblemBody::default().into_error("moon-eclipsed", 502);
        assert_eq!((error.name(), error.code(), error.retry()), ("moon-eclipsed", None, Retry::Never));
    }
}
