//! Objects as YAML, for people and for `kubectl`.

use serde_json::Value;

/// One document after another.
///
/// # Panics
/// Never: what `serde_json` holds can be written as YAML.
pub fn documents(objects: &[Value]) -> String {
    serde_saphyr::to_string_multiple(objects).expect("JSON values can be written as YAML")
}
