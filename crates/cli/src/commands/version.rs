//! `zipline version`.

use serde::Serialize;

use crate::failure::{Failure, Outcome};
use crate::output::{Output, SCHEMA};

#[derive(Serialize)]
struct Document {
    schema: u32,
    version: &'static str,
    local_api: u32,
    reference: &'static str,
    pull: u8,
}

pub(crate) fn run(output: Output) -> Result<Outcome, Failure> {
    let document = Document {
        schema: SCHEMA,
        version: env!("CARGO_PKG_VERSION"),
        local_api: 1,
        reference: zipline_contract::REFERENCE_PREFIX.trim_end_matches('.'),
        pull: zipline_contract::PULL_VERSION,
    };
    output.result(&document, || {
        format!(
            "zipline {} (local API v{}, references {}, pull {})",
            document.version, document.local_api, document.reference, document.pull
        )
    })
}
