//! The functions that templates call, as Go defines them.

use std::cmp::Ordering;
use std::fmt::Write;

use super::value::{Value, float};

/// A function.
#[derive(Clone, Copy)]
pub(super) struct Function {
    pub(super) name: &'static str,
    pub(super) apply: Apply,
}

type Apply = for<'a> fn(&[Value<'a>]) -> Result<Value<'a>, String>;

impl std::fmt::Debug for Function {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name)
    }
}

const ALL: [Function; 17] = [
    Function { name: "and", apply: |values| Ok(chosen(values, false)) },
    Function { name: "or", apply: |values| Ok(chosen(values, true)) },
    Function { name: "not", apply: |values| Ok(Value::Bool(!one(values)?.is_true())) },
    Function { name: "len", apply: length },
    Function { name: "index", apply: index },
    Function { name: "print", apply: |values| Ok(Value::text(print(values))) },
    Function { name: "println", apply: |values| Ok(Value::text(println(values))) },
    Function { name: "printf", apply: |values| printf(values).map(Value::text) },
    Function { name: "js", apply: |values| Ok(Value::text(js(&print(values)))) },
    Function { name: "html", apply: |values| Ok(Value::text(html(&print(values)))) },
    Function { name: "urlquery", apply: |values| Ok(Value::text(urlquery(&print(values)))) },
    Function { name: "eq", apply: |values| equal(values).map(Value::Bool) },
    Function { name: "ne", apply: |values| equal(two(values)?).map(|is| Value::Bool(!is)) },
    Function { name: "lt", apply: |values| ordered(values, Ordering::is_lt) },
    Function { name: "le", apply: |values| ordered(values, Ordering::is_le) },
    Function { name: "gt", apply: |values| ordered(values, Ordering::is_gt) },
    Function { name: "ge", apply: |values| ordered(values, Ordering::is_ge) },
];

pub(super) fn named(name: &str) -> Option<Function> {
    ALL.into_iter().find(|function| function.name == name)
}

/// The first value that is as true as `wanted`, or else the last.
fn chosen<'a>(values: &[Value<'a>], wanted: bool) -> Value<'a> {
    values.iter().find(|value| value.is_true() == wanted).or(values.last()).cloned().unwrap_or(Value::Nil)
}

fn one<'v, 'a>(values: &'v [Value<'a>]) -> Result<&'v Value<'a>, String> {
    match values {
        [value] => Ok(value),
        _ => Err(format!("wrong number of arguments: want 1, got {}", values.len())),
    }
}

fn two<'v, 'a>(values: &'v [Value<'a>]) -> Result<&'v [Value<'a>], String> {
    if values.len() == 2 { Ok(values) } else { Err(format!("wrong number of arguments: want 2, got {}", values.len())) }
}

fn length<'a>(values: &[Value<'a>]) -> Result<Value<'a>, String> {
    let length = match one(values)? {
        Value::Text(text) => text.len(),
        Value::List(values) => values.len(),
        Value::Map(entries) => entries.len(),
        other => return Err(format!("len of type {}", other.kind())),
    };
    Ok(Value::Int(length as i64))
}

fn index<'a>(values: &[Value<'a>]) -> Result<Value<'a>, String> {
    let (of, keys) = values.split_first().ok_or("index of nothing")?;
    keys.iter().try_fold(of.clone(), |of, key| match (of, key) {
        (Value::List(values), Value::Int(at)) => {
            let found = usize::try_from(*at).ok().and_then(|at| values.get(at).cloned());
            found.ok_or_else(|| format!("index out of range: {at}"))
        }
        (Value::Text(text), Value::Int(at)) => {
            let found = usize::try_from(*at).ok().and_then(|at| text.as_bytes().get(at).copied());
            found.map(|byte| Value::Int(byte.into())).ok_or_else(|| format!("index out of range: {at}"))
        }
        (Value::Map(entries), Value::Text(key)) => {
            let found = entries.into_iter().find(|(name, _)| name == key).map(|(_, value)| value);
            Ok(found.unwrap_or(Value::List(Vec::new())))
        }
        (of, key) => Err(format!("can't index item of type {} with {}", of.kind(), key.kind())),
    })
}

/// `fmt.Sprint`: a space between two values neither of which is a string.
fn print(values: &[Value<'_>]) -> String {
    let mut text = String::new();
    let mut last_is_text = true;
    for (at, value) in values.iter().enumerate() {
        let is_text = matches!(value, Value::Text(_));
        if at > 0 && !is_text && !last_is_text {
            text.push(' ');
        }
        text.push_str(&plain(value));
        last_is_text = is_text;
    }
    text
}

fn println(values: &[Value<'_>]) -> String {
    let parts: Vec<String> = values.iter().map(plain).collect();
    parts.join(" ") + "\n"
}

/// As `fmt` prints a value; its name for nothing differs from the template's.
fn plain(value: &Value<'_>) -> String {
    match value {
        Value::Nil => "<nil>".to_owned(),
        value => value.print().into_owned(),
    }
}

fn equal(values: &[Value<'_>]) -> Result<bool, String> {
    let (first, others) = values.split_first().ok_or("missing argument for comparison")?;
    if others.is_empty() {
        return Err("missing argument for comparison".to_owned());
    }
    for other in others {
        let is_equal = match (first, other) {
            (Value::Nil, Value::Nil) => true,
            (Value::Nil, _) | (_, Value::Nil) => false,
            (Value::Bool(a), Value::Bool(b)) => a == b,
            (a, b) => compared(a, b)?.is_eq(),
        };
        if is_equal {
            return Ok(true);
        }
    }
    Ok(false)
}

fn ordered<'a>(values: &[Value<'a>], is: fn(Ordering) -> bool) -> Result<Value<'a>, String> {
    let values = two(values)?;
    compared(&values[0], &values[1]).map(|ordering| Value::Bool(is(ordering)))
}

fn compared(a: &Value<'_>, b: &Value<'_>) -> Result<Ordering, String> {
    match (a, b) {
        (Value::Int(a), Value::Int(b)) => Ok(a.cmp(b)),
        (Value::Text(a), Value::Text(b)) => Ok(a.cmp(b)),
        (Value::Float(a), Value::Float(b)) => a.partial_cmp(b).ok_or_else(|| "NaN has no order".to_owned()),
        _ => Err(format!("incompatible types for comparison: {} and {}", a.kind(), b.kind())),
    }
}

/// Go's `template.JSEscape`.
fn js(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '\\' => out.push_str("\\\\"),
            '\'' => out.push_str("\\'"),
            '"' => out.push_str("\\\""),
            '<' | '>' | '&' | '=' | '\0'..=' ' if c != ' ' => unicode(c, &mut out),
            '\x7f'..='\u{9f}' | '\u{ad}' | '\u{2028}' | '\u{2029}' | '\u{feff}' => unicode(c, &mut out),
            _ => out.push(c),
        }
    }
    out
}

fn unicode(c: char, out: &mut String) {
    write!(out, "\\u{:04X}", u32::from(c)).ok(); // Writing into a string can't fail.
}

/// Go's `template.HTMLEscape`.
fn html(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '"' => out.push_str("&#34;"),
            '\'' => out.push_str("&#39;"),
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '\0' => out.push('\u{fffd}'),
            _ => out.push(c),
        }
    }
    out
}

/// Go's `url.QueryEscape`.
fn urlquery(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => out.push(byte as char),
            b' ' => out.push('+'),
            _ => {
                write!(out, "%{byte:02X}").ok(); // Writing into a string can't fail.
            }
        }
    }
    out
}

/// What stands between `%` and its letter.
#[derive(Default)]
struct Format {
    minus: bool,
    zero: bool,
    plus: bool,
    width: usize,
    precision: Option<usize>,
}

/// Columns a value may be padded to, digits it may have.
const PADDED_MAX: usize = 1000;

fn printf(values: &[Value<'_>]) -> Result<String, String> {
    let (format, mut values) = match values.split_first() {
        Some((Value::Text(format), values)) => (format, values.iter()),
        _ => return Err("the format is not a string".to_owned()),
    };
    let mut out = String::new();
    let mut chars = format.chars().peekable();
    while let Some(c) = chars.next() {
        if c != '%' {
            out.push(c);
            continue;
        }
        let shape = shape(&mut chars);
        match chars.next() {
            None => out.push_str("%!(NOVERB)"),
            Some('%') => out.push('%'),
            Some(letter) => match values.next() {
                None => out.push_str(&format!("%!{letter}(MISSING)")),
                Some(value) => out.push_str(&padded(&verb(letter, value, &shape), &shape, value)),
            },
        }
    }
    let extra: Vec<String> = values.map(|value| format!("{}={}", value.kind(), plain(value))).collect();
    if !extra.is_empty() {
        out.push_str(&format!("%!(EXTRA {})", extra.join(", ")));
    }
    Ok(out)
}

fn shape(chars: &mut std::iter::Peekable<std::str::Chars<'_>>) -> Format {
    let mut shape = Format::default();
    while let Some(flag) = chars.next_if(|c| matches!(c, '-' | '0' | '+' | ' ' | '#')) {
        match flag {
            '-' => shape.minus = true,
            '0' => shape.zero = true,
            '+' => shape.plus = true,
            _ => {}
        }
    }
    let mut number = || {
        let mut number = None;
        while let Some(digit) = chars.next_if(char::is_ascii_digit).and_then(|c| c.to_digit(10)) {
            number = Some((number.unwrap_or(0) * 10 + digit as usize).min(PADDED_MAX));
        }
        (number, chars.next_if_eq(&'.').is_some())
    };
    let (width, has_precision) = number();
    shape.width = width.unwrap_or(0);
    if has_precision {
        shape.precision = Some(number().0.unwrap_or(0));
    }
    shape
}

fn verb(letter: char, value: &Value<'_>, shape: &Format) -> String {
    let plus = |text: String| if shape.plus && !text.starts_with('-') { format!("+{text}") } else { text };
    match (letter, value) {
        ('v', value) => match value {
            Value::Int(_) | Value::Float(_) => plus(plain(value)),
            _ => plain(value),
        },
        ('s', Value::Text(text)) => text.chars().take(shape.precision.unwrap_or(usize::MAX)).collect(),
        ('s', Value::List(_) | Value::Map(_)) => plain(value),
        ('q', Value::Text(text)) => format!("{text:?}"),
        ('d', Value::Int(number)) => plus(number.to_string()),
        ('t', Value::Bool(is)) => is.to_string(),
        ('x', Value::Int(number)) => signed(*number, |n| format!("{n:x}")),
        ('X', Value::Int(number)) => signed(*number, |n| format!("{n:X}")),
        ('o', Value::Int(number)) => signed(*number, |n| format!("{n:o}")),
        ('b', Value::Int(number)) => signed(*number, |n| format!("{n:b}")),
        ('c', Value::Int(number)) => {
            u32::try_from(*number).ok().and_then(char::from_u32).unwrap_or(char::REPLACEMENT_CHARACTER).to_string()
        }
        ('x', Value::Text(text)) => text.bytes().map(|byte| format!("{byte:02x}")).collect(),
        ('X', Value::Text(text)) => text.bytes().map(|byte| format!("{byte:02X}")).collect(),
        ('f' | 'F', Value::Float(number)) => plus(format!("{number:.*}", shape.precision.unwrap_or(6))),
        ('e', Value::Float(number)) => plus(exponent(*number, shape.precision.unwrap_or(6))),
        ('g', Value::Float(number)) => plus(float(*number)),
        (letter, value) => format!("%!{letter}({}={})", value.kind(), plain(value)),
    }
}

fn signed(number: i64, digits: impl Fn(u64) -> String) -> String {
    format!("{}{}", if number < 0 { "-" } else { "" }, digits(number.unsigned_abs()))
}

fn exponent(number: f64, precision: usize) -> String {
    let text = format!("{number:.precision$e}");
    match text.split_once('e') {
        Some((digits, exponent)) => {
            let exponent: i32 = exponent.parse().unwrap_or(0);
            format!("{digits}e{}{:02}", if exponent < 0 { '-' } else { '+' }, exponent.abs())
        }
        None => text, // Infinite, or no number.
    }
}

fn padded(text: &str, shape: &Format, value: &Value<'_>) -> String {
    let missing = shape.width.saturating_sub(text.chars().count());
    if missing == 0 {
        return text.to_owned();
    }
    let is_number = matches!(value, Value::Int(_) | Value::Float(_));
    if shape.minus {
        return format!("{text}{}", " ".repeat(missing));
    }
    if shape.zero && is_number {
        let (sign, digits) = text.split_at(usize::from(text.starts_with(['-', '+'])));
        return format!("{sign}{}{digits}", "0".repeat(missing));
    }
    format!("{}{text}", " ".repeat(missing))
}
