//! The vectors, as the page has them.

mod pull;
mod references;
mod spec;

/// Each file's name and text.
pub(crate) fn files() -> [(&'static str, String); 2] {
    [("references.json", pretty(&references::file())), ("pull.json", pretty(&pull::file()))]
}

fn pretty(file: &serde_json::Value) -> String {
    let mut text = serde_json::to_string_pretty(file).expect("a JSON value has a text");
    text.push('\n');
    text
}
