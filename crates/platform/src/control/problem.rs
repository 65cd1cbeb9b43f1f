//! Refusals of the control API: problem details (RFC 9457), as everywhere in Zipline.

use http::{Response, StatusCode, header};
use serde_json::{Value, json};
use zipline_contract::PROBLEM_MEDIA_TYPE;

use super::{Answer, whole};
use crate::manifest::{Finding, ServiceName};
use crate::services::ApplyError;

/// Why a request was refused.
#[derive(Debug, thiserror::Error)]
pub(super) enum Problem {
    #[error(transparent)]
    Apply(#[from] ApplyError),
    #[error("there is no service {0}")]
    ServiceUnknown(ServiceName),
    #[error("service {service} has no instance {instance}")]
    InstanceUnknown { service: ServiceName, instance: String },
    #[error("{service} is not ready after {seconds} s: {reason}")]
    NotReady { service: ServiceName, seconds: f64, reason: String },
    #[error("{0}")]
    Invalid(String),
    #[error("there is no `{method} {path}` in this API")]
    PathUnknown { method: http::Method, path: String },
}

impl Problem {
    fn kind(&self) -> (&'static str, StatusCode, &'static str) {
        match self {
            Self::Apply(ApplyError::Manifest(_)) => {
                ("manifest-invalid", StatusCode::BAD_REQUEST, "The manifest can't be carried out")
            }
            Self::Apply(ApplyError::RevisionExists { .. }) => {
                ("revision-exists", StatusCode::CONFLICT, "A revision can't be changed")
            }
            Self::Apply(ApplyError::Unfit { .. }) => {
                ("annotations-unfit", StatusCode::CONFLICT, "A service does not fit the new settings")
            }
            Self::Apply(ApplyError::TooMany) => ("too-many-services", StatusCode::CONFLICT, "The platform is full"),
            Self::Apply(ApplyError::ShuttingDown) => {
                ("shutting-down", StatusCode::SERVICE_UNAVAILABLE, "The platform is shutting down")
            }
            Self::ServiceUnknown(_) => ("service-unknown", StatusCode::NOT_FOUND, "There is no such service"),
            Self::InstanceUnknown { .. } => ("instance-unknown", StatusCode::NOT_FOUND, "There is no such instance"),
            Self::NotReady { .. } => ("service-not-ready", StatusCode::GATEWAY_TIMEOUT, "The service did not become ready"),
            Self::Invalid(_) => ("request-invalid", StatusCode::BAD_REQUEST, "The request is not well formed"),
            Self::PathUnknown { .. } => ("path-unknown", StatusCode::NOT_FOUND, "There is no such path"),
        }
    }

    fn hint(&self) -> &'static str {
        match self {
            Self::Apply(ApplyError::Manifest(_)) => "correct the fields named and apply the file again",
            Self::Apply(ApplyError::RevisionExists { .. }) => "give the template another name, or none",
            Self::Apply(ApplyError::Unfit { .. }) => "change the service's annotations or the setting",
            Self::Apply(ApplyError::TooMany) => "delete a service",
            Self::Apply(ApplyError::ShuttingDown) => "start it again",
            Self::ServiceUnknown(_) => "see which there are with `zipline service list`",
            Self::InstanceUnknown { .. } => "see which there are with `zipline instance list`",
            Self::NotReady { .. } => "see `zipline service logs`",
            Self::Invalid(_) | Self::PathUnknown { .. } => "compare the request with docs/reference/control-api.md",
        }
    }

    pub(super) fn into_answer(self) -> Response<Answer> {
        let (name, status, title) = self.kind();
        let later = matches!(self, Self::NotReady { .. } | Self::Apply(ApplyError::ShuttingDown));
        let mut body = json!({
            "type": format!("urn:zipline:error:{name}"),
            "title": title,
            "status": status.as_u16(),
            "detail": self.to_string(),
            "hint": self.hint(),
            "retry": if later { "later" } else { "never" },
        });
        if let Self::Apply(ApplyError::Manifest(error)) = &self {
            body["findings"] = findings(&error.findings);
        }
        let mut response = whole(status, PROBLEM_MEDIA_TYPE, body.to_string());
        if let Ok(name) = http::HeaderValue::from_str(name) {
            response.headers_mut().insert(zipline_contract::headers::ERROR, name);
        }
        response.headers_mut().insert(header::CACHE_CONTROL, http::HeaderValue::from_static("no-store"));
        response
    }
}

fn findings(findings: &[Finding]) -> Value {
    serde_json::to_value(findings).unwrap_or(Value::Null)
}
