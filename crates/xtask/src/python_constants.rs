//! The Python SDK's share of the contract: header names, limits, error classes.

use std::fmt::Write;

use zipline_contract::{
    DESCRIPTOR_PROTOCOL, ErrorCode, REFERENCE_PREFIX, REFERENCE_PREFIX_INLINE, REFERENCE_PREFIX_REDIS, REFERENCE_PREFIX_S3,
    STORE_CONTENT_TYPE_NONE, STORE_PREFIX_REDIS, STORE_PREFIX_S3, STORED_PAYLOAD_MEDIA_TYPE, headers, limits, settings,
};

/// The text of `zipline_sdk/_generated.py`.
pub(crate) fn module() -> String {
    let mut text = String::from(
        "\"\"\"Names the queue-proxy and this SDK share. Made from crates/contract by `cargo xtask docs`; edit that.\"\"\"\n\n\
         from typing import Dict, Type\n\n\
         from ._error import Refused\n\n",
    );
    constants(&mut text);
    for code in ErrorCode::ALL {
        class(&mut text, *code);
    }
    text += "\n\n#: Error classes by the name that stands in `Zipline-Error`.\nBY_NAME: Dict[str, Type[Refused]] = {\n";
    for code in ErrorCode::ALL {
        line(&mut text, format_args!("    \"{}\": {code:?},", code.name()));
    }
    text += "}\n\n__all__ = [\n";
    for code in ErrorCode::ALL {
        line(&mut text, format_args!("    \"{code:?}\","));
    }
    text + "]\n"
}

fn constants(text: &mut String) {
    let strings = [
        ("HEADER_REFERENCE", headers::REFERENCE),
        ("HEADER_RETAIN", headers::RETAIN),
        ("HEADER_WRITE", headers::WRITE),
        ("HEADER_TICKET", headers::TICKET),
        ("HEADER_ERROR", headers::ERROR),
        ("HEADER_SIZE", headers::SIZE),
        ("HEADER_RETRIEVALS_LEFT", headers::RETRIEVALS_LEFT),
        ("HEADER_EXPIRES", headers::EXPIRES),
        ("PREFIX_ZIPLINE", REFERENCE_PREFIX),
        ("PREFIX_INLINE", REFERENCE_PREFIX_INLINE),
        ("PREFIX_S3", REFERENCE_PREFIX_S3),
        ("PREFIX_REDIS", REFERENCE_PREFIX_REDIS),
        ("DESCRIPTOR_PROTOCOL", DESCRIPTOR_PROTOCOL),
        ("VARIABLE_API", settings::API.variable),
        ("VARIABLE_TRANSFER", settings::TRANSFER.variable),
        ("VARIABLE_EGRESS_URL", settings::EGRESS_URL.variable),
        ("TRANSFER_DEFAULT", settings::TRANSFER.default),
        ("VARIABLE_S3_ENDPOINT", settings::S3_ENDPOINT.variable),
        ("VARIABLE_S3_BUCKET", settings::S3_BUCKET.variable),
        ("VARIABLE_S3_REGION", settings::S3_REGION.variable),
        ("VARIABLE_REDIS_URL", settings::REDIS_URL.variable),
        ("VARIABLE_STORE_TIMEOUT_SECONDS", settings::STORE_TIMEOUT_SECONDS.variable),
        ("VARIABLE_STORE_RETRIES", settings::STORE_RETRIES.variable),
        ("VARIABLE_STORE_INLINE_BYTES", settings::STORE_INLINE_BYTES.variable),
        ("VARIABLE_STORE_COUNTERS", settings::STORE_COUNTERS.variable),
        ("STORE_PREFIX_S3", STORE_PREFIX_S3),
        ("STORE_PREFIX_REDIS", STORE_PREFIX_REDIS),
        ("STORED_PAYLOAD_MEDIA_TYPE", STORED_PAYLOAD_MEDIA_TYPE),
        ("STORE_CONTENT_TYPE_NONE", STORE_CONTENT_TYPE_NONE),
    ];
    for (name, value) in strings {
        line(text, format_args!("{name} = \"{value}\""));
    }
    let numbers = [
        ("MESSAGE_BYTES_MAX", limits::MESSAGE_BYTES_MAX),
        ("MESSAGE_INLINE_BYTES_MAX", limits::MESSAGE_INLINE_BYTES_MAX),
        ("REFERENCE_CHARS_MAX", limits::REFERENCE_CHARS_MAX),
        ("RETRIEVALS_MAX", limits::RETRIEVALS_MAX as usize),
        ("STORE_KEY_RANDOM_BYTES", limits::STORE_KEY_RANDOM_BYTES),
        ("STORE_PART_BYTES", limits::STORE_PART_BYTES),
        ("STORE_PARTS_PARALLEL", limits::STORE_PARTS_PARALLEL),
        ("STORE_CONNECTIONS_MAX", limits::STORE_CONNECTIONS_MAX),
        ("STORE_REDIS_VALUE_BYTES_MAX", limits::STORE_REDIS_VALUE_BYTES_MAX),
        ("STORE_FREES_PENDING_MAX", limits::STORE_FREES_PENDING_MAX),
    ];
    for (name, value) in numbers {
        line(text, format_args!("{name} = {value}"));
    }
    let defaults = [
        ("PUT_TTL_SECONDS_DEFAULT", settings::PUT_TTL_SECONDS.default),
        ("STORE_TIMEOUT_SECONDS_DEFAULT", settings::STORE_TIMEOUT_SECONDS.default),
        ("STORE_RETRIES_DEFAULT", settings::STORE_RETRIES.default),
    ];
    for (name, value) in defaults {
        line(text, format_args!("{name} = {value}"));
    }
    let kib = settings::STORE_INLINE_BYTES.default.trim_end_matches("KiB");
    line(text, format_args!("STORE_INLINE_BYTES_DEFAULT = {kib} * 1024"));
}

fn class(text: &mut String, code: ErrorCode) {
    line(text, format_args!("\n\nclass {code:?}(Refused):\n    \"\"\"{}. {}.\"\"\"\n", code.title(), code.hint()));
    line(text, format_args!("    name = \"{}\"", code.name()));
    line(text, format_args!("    status = {}", code.http_status()));
    line(text, format_args!("    retry = \"{}\"", code.retry().name()));
    line(text, format_args!("    fault = \"{}\"", code.fault().name()));
    line(text, format_args!("    title = \"{}\"", code.title()));
    line(text, format_args!("    hint = \"{}\"", code.hint()));
}

fn line(text: &mut String, arguments: std::fmt::Arguments<'_>) {
    // Writing to a String cannot fail.
    let _ = writeln!(text, "{arguments}");
}
