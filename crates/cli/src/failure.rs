//! What a command ends with when it cannot do what was asked: a message, a way out, an exit code.

use std::fmt;

use serde::Serialize;
use zipline_contract::Retry;
use zipline_sdk::Error as SdkError;

/// How a command that ran to its end answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub(crate) enum Outcome {
    /// Exit code 0.
    Yes,
    /// Exit code 1, its result shown: a result that is not right, a callee that answered 400 or above.
    No,
}

/// Exit codes of failures; `docs/reference/cli.md` lists them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Exit {
    /// The command line is not understood. (clap uses the same.)
    Usage = 2,
    /// No platform runs on the state directory, or it does not answer.
    NotRunning = 3,
    /// The named thing does not exist.
    NotFound = 4,
    /// The platform or a queue-proxy refused.
    Refused = 5,
    /// The system refused: a file, a port, memory, a program that is missing.
    System = 6,
    /// A setting is not understood.
    Configuration = 64,
    /// It was interrupted, as shells count SIGINT.
    Interrupted = 130,
}

/// A command's failure.
#[derive(Debug)]
pub(crate) struct Failure {
    pub(crate) exit: Exit,
    /// A short name for programs: of the error table, or of this command.
    pub(crate) name: String,
    pub(crate) message: String,
    pub(crate) hint: Option<String>,
    /// Whether the same command can succeed later.
    pub(crate) retry: Retry,
}

/// A failure as a document.
#[derive(Serialize)]
struct Document<'a> {
    schema: u32,
    error: Body<'a>,
}

#[derive(Serialize)]
struct Body<'a> {
    name: &'a str,
    message: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    hint: Option<&'a str>,
    retry: &'static str,
    exit: u8,
}

impl Failure {
    pub(crate) fn new(exit: Exit, name: &str, message: impl Into<String>) -> Self {
        Self { exit, name: name.to_owned(), message: message.into(), hint: None, retry: Retry::Never }
    }

    /// With a way out.
    #[must_use]
    pub(crate) fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// The system refused something that has a name.
    pub(crate) fn system(what: impl fmt::Display, error: &std::io::Error) -> Self {
        Self::new(Exit::System, "system", format!("{what}: {error}"))
    }

    /// The failure as the one document on standard output.
    pub(crate) fn document(&self) -> impl Serialize {
        let body = Body {
            name: &self.name,
            message: &self.message,
            hint: self.hint.as_deref(),
            retry: self.retry.name(),
            exit: self.exit as u8,
        };
        Document { schema: crate::output::SCHEMA, error: body }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "error: {}", self.message)?;
        self.hint.as_ref().map_or(Ok(()), |hint| write!(f, "\nhint: {hint}"))
    }
}

impl From<SdkError> for Failure {
    fn from(error: SdkError) -> Self {
        let exit = match &error {
            SdkError::Unreachable { .. } => Exit::NotRunning,
            SdkError::Configuration { .. } | SdkError::MethodNotBuilt { .. } => Exit::Configuration,
            SdkError::System { .. } | SdkError::Source { .. } => Exit::System,
            _ => Exit::Refused,
        };
        let hint = error.hint();
        Self {
            exit,
            name: error.name().to_owned(),
            message: error.to_string(),
            hint: (!hint.is_empty()).then(|| hint.to_owned()),
            retry: error.retry(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_is_a_sentence_and_a_hint_for_people_and_a_document_for_programs() {
        let failure = Failure::new(Exit::NotFound, "service-unknown", "service `hello` does not exist in namespace `default`")
            .hint("`zipline service list` shows those that do");
        assert_eq!(
            failure.to_string(),
            "error: service `hello` does not exist in namespace `default`\nhint: `zipline service list` shows those that do"
        );
        let document = serde_json::to_value(failure.document()).expect("a document");
        assert_eq!(document["error"]["exit"], 4);
        assert_eq!(document["error"]["name"], "service-unknown");
        assert_eq!(document["error"]["retry"], "never");
    }
}
