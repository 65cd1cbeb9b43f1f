//! Writes the conformance vectors of `docs/reference/protocol.md`: `cargo run -p zipline-core --example write_vectors`.
//!
//! They are made from the page, not from the crate: nothing here uses the crate's types, so that the test which holds
//! the crate to these files compares two readings of the page.

#![allow(clippy::disallowed_methods, clippy::disallowed_macros)] // A program, beside the crate: it writes files.

mod vectors;

fn main() -> std::io::Result<()> {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../conformance/vectors");
    for (name, text) in vectors::files() {
        let path = folder.join(name);
        std::fs::write(&path, text)?;
        println!("{}", path.display());
    }
    Ok(())
}
