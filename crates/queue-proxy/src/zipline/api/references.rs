//! `/v1/references/narrow`: a reference made to give less.

use std::num::NonZeroU64;

use http::{Request, StatusCode};
use serde::{Deserialize, Serialize};
use zipline_core::reference::{Extent, Narrowing, Receiver};

use super::{Answer, Api, json, options, small_body};
use crate::zipline::problem::Problem;
use crate::zipline::rfc3339;
use crate::zipline::upload::Upload;

#[derive(Deserialize)]
struct Asked {
    reference: String,
    expires: Option<String>,
    range: Option<Range>,
    receiver: Option<String>,
    slot: Option<u32>,
}

#[derive(Deserialize)]
struct Range {
    first: u64,
    length: u64,
}

#[derive(Serialize)]
struct Narrowed<'a> {
    reference: &'a str,
}

impl Api {
    pub(super) async fn narrow(&self, request: Request<Upload>) -> Answer {
        options::no_query(request.uri().query())?;
        let body = small_body(request).await?;
        let asked: Asked = serde_json::from_slice(&body).map_err(|error| {
            // The parser's own words could quote the reference.
            Problem::invalid(format!("the body is not {{\"reference\", …}}: line {} column {}", error.line(), error.column()))
        })?;
        let narrowed = self.node.narrow(asked.reference.trim(), asked.narrowing()?)?;
        json(StatusCode::OK, &Narrowed { reference: narrowed.as_str() })
    }
}

impl Asked {
    fn narrowing(&self) -> Result<Narrowing, Problem> {
        let expires = match &self.expires {
            Some(text) => {
                Some(rfc3339::parse(text).ok_or_else(|| Problem::invalid(format!("expires {text:?} is no RFC 3339 time")))?)
            }
            None => None,
        };
        let range = match &self.range {
            Some(range) => {
                let extent = NonZeroU64::new(range.length).and_then(|length| Extent::new(range.first, length));
                let refused = || Problem::invalid(format!("range: {} bytes from {} are no range", range.length, range.first));
                Some(extent.ok_or_else(refused)?)
            }
            None => None,
        };
        let receiver = match &self.receiver {
            Some(text) => {
                Some(text.parse::<Receiver>().map_err(|error| Problem::invalid(format!("receiver {text:?}: {error}")))?)
            }
            None => None,
        };
        Ok(Narrowing { expires, range, receiver, slot: self.slot })
    }
}
