//! Words of an action: what stands between `{{` and `}}`.

use super::parse::ParseError;

/// One word.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Word {
    /// A bare name: a function, a keyword, `true`, `nil`.
    Name(String),
    /// `.`.
    Dot,
    /// `.Name`; `chained` if it follows what stands before it without a space.
    Field { name: String, chained: bool },
    /// `$` or `$name`, without the `$`.
    Variable(String),
    /// A string.
    Text(String),
    /// A whole number.
    Int(i64),
    /// Another number.
    Float(f64),
    /// `|`.
    Pipe,
    /// `(`.
    Open,
    /// `)`.
    Close,
    /// `,`.
    Comma,
    /// `:=`.
    Declare,
    /// `=`.
    Assign,
}

/// Splits an action into words.
pub(super) fn words(action: &str) -> Result<Vec<Word>, ParseError> {
    let mut words = Vec::new();
    let mut rest = action;
    let mut after_space = true;
    while let Some(first) = rest.chars().next() {
        if first.is_whitespace() {
            rest = &rest[first.len_utf8()..];
            after_space = true;
            continue;
        }
        let (word, bytes) = word(rest, !after_space && !matches!(words.last(), None | Some(Word::Pipe | Word::Open)))?;
        words.push(word);
        rest = &rest[bytes..];
        after_space = false;
    }
    Ok(words)
}

/// The first word, and how many bytes it has.
fn word(text: &str, follows: bool) -> Result<(Word, usize), ParseError> {
    let name = |from: usize| {
        let end = text[from..].find(|c: char| !(c.is_alphanumeric() || c == '_')).map_or(text.len(), |at| from + at);
        (text[from..end].to_owned(), end)
    };
    let bytes = text.as_bytes();
    Ok(match bytes[0] {
        b'|' => (Word::Pipe, 1),
        b'(' => (Word::Open, 1),
        b')' => (Word::Close, 1),
        b',' => (Word::Comma, 1),
        b':' if bytes.get(1) == Some(&b'=') => (Word::Declare, 2),
        b'=' => (Word::Assign, 1),
        b'"' | b'`' | b'\'' => quoted(text)?,
        b'$' => {
            let (name, end) = name(1);
            (Word::Variable(name), end)
        }
        b'.' if bytes.get(1).is_some_and(u8::is_ascii_digit) => number(text)?,
        b'.' => match name(1) {
            (name, _) if name.is_empty() => (Word::Dot, 1),
            (name, end) => (Word::Field { name, chained: follows }, end),
        },
        b'+' | b'-' | b'0'..=b'9' => number(text)?,
        _ => match name(0) {
            (name, _) if name.is_empty() => {
                let odd = text.chars().next().unwrap_or_default();
                return Err(ParseError::Syntax(format!("unexpected {odd:?} in an action")));
            }
            (name, end) => (Word::Name(name), end),
        },
    })
}

fn number(text: &str) -> Result<(Word, usize), ParseError> {
    let is_part = |(at, c): (usize, char)| {
        let after_exponent = at > 0 && matches!(text.as_bytes()[at - 1], b'e' | b'E');
        c.is_ascii_alphanumeric() || c == '.' || c == '_' || ((c == '+' || c == '-') && (at == 0 || after_exponent))
    };
    let end = text.char_indices().find(|place| !is_part(*place)).map_or(text.len(), |(at, _)| at);
    let digits = text[..end].replace('_', "");
    let (sign, unsigned) = match digits.strip_prefix('-') {
        Some(rest) => (-1, rest),
        None => (1, digits.strip_prefix('+').unwrap_or(&digits)),
    };
    let radix = |prefix: &str, radix| unsigned.strip_prefix(prefix).and_then(|hex| i64::from_str_radix(hex, radix).ok());
    let whole = radix("0x", 16).or_else(|| radix("0b", 2)).or_else(|| radix("0o", 8)).or_else(|| unsigned.parse().ok());
    match whole.and_then(|whole: i64| whole.checked_mul(sign)) {
        Some(whole) => Ok((Word::Int(whole), end)),
        None => match digits.parse::<f64>() {
            Ok(float) if float.is_finite() => Ok((Word::Float(float), end)),
            _ => Err(ParseError::Syntax(format!("bad number {:?}", &text[..end]))),
        },
    }
}

/// A string or a character.
fn quoted(text: &str) -> Result<(Word, usize), ParseError> {
    let quote = text.as_bytes()[0] as char;
    let mut value = String::new();
    let mut chars = text.char_indices().skip(1);
    while let Some((at, c)) = chars.next() {
        match c {
            _ if c == quote => {
                let word = match (quote, value.chars().next()) {
                    ('\'', Some(only)) if value.chars().count() == 1 => Word::Int(i64::from(u32::from(only))),
                    ('\'', _) => return Err(ParseError::Syntax(format!("bad character {:?}", &text[..=at]))),
                    _ => Word::Text(value),
                };
                return Ok((word, at + 1));
            }
            '\\' if quote != '`' => value.push(escaped(&mut chars)?),
            '\n' if quote != '`' => break,
            _ => value.push(c),
        }
    }
    Err(ParseError::Syntax("unterminated string or character".to_owned()))
}

/// What stands after a backslash.
fn escaped(chars: &mut impl Iterator<Item = (usize, char)>) -> Result<char, ParseError> {
    let bad = || ParseError::Syntax("bad escape in a string".to_owned());
    let (_, c) = chars.next().ok_or_else(bad)?;
    match c {
        'n' => Ok('\n'),
        't' => Ok('\t'),
        'r' => Ok('\r'),
        'a' => Ok('\x07'),
        'b' => Ok('\x08'),
        'f' => Ok('\x0c'),
        'v' => Ok('\x0b'),
        '\\' | '"' | '\'' => Ok(c),
        'x' => hex(chars, 2).ok_or_else(bad),
        'u' => hex(chars, 4).ok_or_else(bad),
        'U' => hex(chars, 8).ok_or_else(bad),
        _ => Err(bad()),
    }
}

fn hex(chars: &mut impl Iterator<Item = (usize, char)>, digits: usize) -> Option<char> {
    let text: String = chars.take(digits).map(|(_, c)| c).collect();
    if text.len() != digits {
        return None;
    }
    u32::from_str_radix(&text, 16).ok().and_then(char::from_u32)
}
