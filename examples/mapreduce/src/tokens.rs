//! Words of a text: runs of `[A-Za-z0-9_]`, ASCII-lowercased, bytes not characters.

use std::io::{self, Read};

/// Bytes read at a time.
const CHUNK_BYTES: usize = 256 * 1024;

/// Whether the byte belongs to a word.
pub(crate) const fn is_word(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'_'
}

/// Calls `token` with each word of the text, in order, and returns how many bytes were read.
///
/// The text is read in chunks; a word may be of any length and lie across chunks.
pub(crate) fn each_token(mut text: impl Read, mut token: impl FnMut(&[u8])) -> io::Result<u64> {
    let mut buffer = vec![0; CHUNK_BYTES];
    let mut begun = Vec::new(); // The part of a word that earlier chunks held.
    let mut bytes = 0;
    loop {
        let read = match text.read(&mut buffer) {
            Ok(0) => break,
            Ok(read) => read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        };
        bytes += read as u64;
        let chunk = &mut buffer[..read];
        chunk.make_ascii_lowercase();
        let mut rest = &*chunk;
        if !begun.is_empty() {
            let end = rest.iter().position(|byte| !is_word(*byte)).unwrap_or(rest.len());
            begun.extend_from_slice(&rest[..end]);
            rest = &rest[end..];
            if rest.is_empty() {
                continue;
            }
            token(&begun);
            begun.clear();
        }
        while let Some(start) = rest.iter().position(|byte| is_word(*byte)) {
            rest = &rest[start..];
            let Some(end) = rest.iter().position(|byte| !is_word(*byte)) else {
                begun.extend_from_slice(rest);
                break;
            };
            token(&rest[..end]);
            rest = &rest[end..];
        }
    }
    if !begun.is_empty() {
        token(&begun);
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Gives a text in pieces of one size, as a slow pipe would.
    struct Pieces<'a>(&'a [u8], usize);

    impl Read for Pieces<'_> {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            let length = self.1.min(self.0.len()).min(buffer.len());
            buffer[..length].copy_from_slice(&self.0[..length]);
            self.0 = &self.0[length..];
            Ok(length)
        }
    }

    fn tokens(text: impl Read) -> Vec<String> {
        let mut tokens = Vec::new();
        each_token(text, |token| tokens.push(String::from_utf8_lossy(token).into_owned())).expect("memory can be read");
        tokens
    }

    #[test]
    fn words_are_runs_of_letters_digits_and_underscores_in_lower_case() {
        let text = "The quick_brown FOX2, isn't \u{e9}t\u{e9}; __x__\n42";
        assert_eq!(tokens(text.as_bytes()), ["the", "quick_brown", "fox2", "isn", "t", "t", "__x__", "42"]);
        assert_eq!(tokens(&b""[..]), Vec::<String>::new());
        assert_eq!(tokens(&b" \xff\n"[..]), Vec::<String>::new());
    }

    #[test]
    fn a_word_across_chunks_is_one_word() {
        let text = b"alpha beta,,gamma_delta 7 eps";
        for size in 1..text.len() + 1 {
            assert_eq!(tokens(Pieces(text, size)), ["alpha", "beta", "gamma_delta", "7", "eps"], "pieces of {size}");
        }
        let long = vec![b'A'; CHUNK_BYTES * 2 + 7];
        assert_eq!(tokens(&long[..]).concat().len(), long.len());
    }
}
