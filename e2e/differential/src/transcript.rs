//! What was seen, as lines that two runs can be compared by.

use std::sync::{Arc, Mutex, PoisonError};

/// Bytes of a body that a line shows; of a longer one it shows how long it is and a sum.
const SHOWN_BYTES_MAX: usize = 300;

/// Lines in the making. Clones write into the same.
#[derive(Clone, Debug, Default)]
pub(crate) struct Transcript(Arc<Mutex<Vec<String>>>);

impl Transcript {
    /// Adds a line.
    pub(crate) fn note(&self, line: impl Into<String>) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(normalised(&line.into()));
    }

    /// Takes all lines.
    pub(crate) fn take(&self) -> Vec<String> {
        std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// A body in a line.
pub(crate) fn shown(body: &[u8]) -> String {
    if body.len() <= SHOWN_BYTES_MAX {
        return format!("{:?}", String::from_utf8_lossy(body));
    }
    let sum = body.iter().fold(0_u32, |sum, byte| sum.rotate_left(5) ^ u32::from(*byte));
    format!("{} bytes, sum {sum:08x}", body.len())
}

/// A header in a line. What differs from run to run is taken out.
pub(crate) fn header(name: &str, value: &str) -> String {
    match name.to_ascii_lowercase().as_str() {
        "date" => format!("{name}: *"),
        _ => format!("{name}: {value}"),
    }
}

/// Takes ports out, which differ from run to run.
fn normalised(line: &str) -> String {
    const BEFORE_PORT: [&str; 2] = ["127.0.0.1:", "[::1]:"];
    let mut out = String::with_capacity(line.len());
    let mut rest = line;
    while let Some((at, host)) = BEFORE_PORT.iter().filter_map(|host| Some((rest.find(host)?, host))).min() {
        let end = at + host.len();
        out.push_str(&rest[..end]);
        let digits = rest[end..].find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len() - end);
        if digits > 0 {
            out.push('*');
        }
        rest = &rest[end + digits..];
    }
    out + rest
}
