//! The query of a request: every key is known, or the request is refused.

use std::collections::BTreeMap;

use super::problem::Problem;

/// Keys and values not read yet.
#[derive(Debug)]
pub(super) struct Query {
    pairs: BTreeMap<String, String>,
    known: Vec<&'static str>,
}

impl Query {
    pub(super) fn parse(text: &str) -> Result<Self, Problem> {
        let mut pairs = BTreeMap::new();
        for pair in text.split('&').filter(|pair| !pair.is_empty()) {
            let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
            let decoded = decode(key).zip(decode(value));
            let (key, value) = decoded.ok_or_else(|| Problem::Invalid(format!("`{pair}` is not percent-encoded UTF-8")))?;
            if pairs.insert(key.clone(), value).is_some() {
                return Err(Problem::Invalid(format!("`{key}` is given twice")));
            }
        }
        Ok(Self { pairs, known: Vec::new() })
    }

    pub(super) fn text(&mut self, key: &'static str) -> Option<String> {
        self.known.push(key);
        self.pairs.remove(key)
    }

    /// `true`, `1` or nothing after the key mean yes.
    pub(super) fn flag(&mut self, key: &'static str) -> Result<bool, Problem> {
        match self.text(key).as_deref() {
            None | Some("false" | "0") => Ok(false),
            Some("" | "true" | "1") => Ok(true),
            Some(other) => Err(Problem::Invalid(format!("`{key}` must be true or false, not `{other}`"))),
        }
    }

    pub(super) fn count(&mut self, key: &'static str) -> Result<Option<usize>, Problem> {
        let Some(text) = self.text(key) else { return Ok(None) };
        let count = text.parse().map_err(|_| Problem::Invalid(format!("`{key}` must be a whole number, not `{text}`")))?;
        Ok(Some(count))
    }

    pub(super) fn seconds(&mut self, key: &'static str, max: f64) -> Result<Option<f64>, Problem> {
        let Some(text) = self.text(key) else { return Ok(None) };
        match text.parse::<f64>() {
            Ok(seconds) if (0.0..=max).contains(&seconds) => Ok(Some(seconds)),
            _ => Err(Problem::Invalid(format!("`{key}` must be seconds from 0 to {max}, not `{text}`"))),
        }
    }

    /// Refuses what nobody read.
    pub(super) fn finish(&self) -> Result<(), Problem> {
        match self.pairs.keys().next() {
            None => Ok(()),
            Some(key) if self.known.is_empty() => Err(Problem::Invalid(format!("`{key}`: this request takes no query"))),
            Some(key) => Err(Problem::Invalid(format!("`{key}` is not a key of this request; it has {}", self.known.join(", ")))),
        }
    }
}

fn decode(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        bytes.push(match byte {
            b'%' => {
                let digit = |byte: u8| char::from(byte).to_digit(16);
                let value = digit(rest.next()?)? * 16 + digit(rest.next()?)?;
                u8::try_from(value).ok()?
            }
            b'+' => b' ',
            other => other,
        });
    }
    String::from_utf8(bytes).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_decoded_and_what_nobody_reads_is_refused() {
        let mut query = Query::parse("base_dir=%2Fa%20b%2Bc&follow&tail=3").expect("well formed");
        assert_eq!(query.text("base_dir").as_deref(), Some("/a b+c"));
        assert_eq!(query.flag("follow").ok(), Some(true));
        let refused = query.finish().expect_err("tail is left").to_string();
        assert!(refused.contains("`tail`") && refused.contains("base_dir, follow"), "{refused}");
        assert_eq!(query.count("tail").ok(), Some(Some(3)));
        assert!(query.finish().is_ok());
    }

    #[test]
    fn malformed_queries_are_refused() {
        for text in ["a=%zz", "a=%f", "a=%ff", "a=1&a=2"] {
            assert!(Query::parse(text).is_err(), "{text}");
        }
        assert!(Query::parse("tail=-1").expect("well formed").count("tail").is_err());
        assert!(Query::parse("wait=9e9").expect("well formed").seconds("wait", 60.0).is_err());
    }
}
