//! What fields and functions give, and how Go prints it.

use std::borrow::Cow;
use std::fmt;

use super::run::Fields;

/// A value while a line is made.
#[derive(Clone)]
pub enum Value<'a> {
    /// Nothing.
    Nil,
    /// A string.
    Text(Cow<'a, str>),
    /// A whole number.
    Int(i64),
    /// Another number.
    Float(f64),
    /// A boolean.
    Bool(bool),
    /// A slice.
    List(Vec<Value<'a>>),
    /// A map of lists by name, sorted by name. A name that is not there gives an empty list.
    Map(Vec<(Cow<'a, str>, Value<'a>)>),
    /// A structure.
    Fields(&'a dyn Fields),
}

impl fmt::Debug for Value<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}({})", self.kind(), self.print())
    }
}

impl<'a> Value<'a> {
    /// A string.
    pub fn text(text: impl Into<Cow<'a, str>>) -> Self {
        Self::Text(text.into())
    }

    /// As `{{ }}` and `%v` print it.
    pub fn print(&self) -> Cow<'_, str> {
        match self {
            Self::Nil => Cow::Borrowed("<no value>"),
            Self::Text(text) => Cow::Borrowed(text),
            Self::Int(number) => number.to_string().into(),
            Self::Float(number) => float(*number).into(),
            Self::Bool(is) => Cow::Borrowed(if *is { "true" } else { "false" }),
            Self::List(values) => format!("[{}]", joined(values)).into(),
            Self::Map(entries) => {
                let entries: Vec<String> = entries.iter().map(|(name, value)| format!("{name}:{}", value.print())).collect();
                format!("map[{}]", entries.join(" ")).into()
            }
            Self::Fields(fields) => fields.print().into(),
        }
    }

    /// Whether `if` takes it for true.
    pub(super) fn is_true(&self) -> bool {
        match self {
            Self::Nil => false,
            Self::Text(text) => !text.is_empty(),
            Self::Int(number) => *number != 0,
            Self::Float(number) => *number != 0.0,
            Self::Bool(is) => *is,
            Self::List(values) => !values.is_empty(),
            Self::Map(entries) => !entries.is_empty(),
            Self::Fields(_) => true,
        }
    }

    /// Go's name of its type, as far as messages show it.
    pub(super) const fn kind(&self) -> &'static str {
        match self {
            Self::Nil => "nil",
            Self::Text(_) => "string",
            Self::Int(_) => "int",
            Self::Float(_) => "float64",
            Self::Bool(_) => "bool",
            Self::List(_) => "[]string",
            Self::Map(_) => "map",
            Self::Fields(_) => "struct",
        }
    }
}

fn joined(values: &[Value<'_>]) -> String {
    values.iter().map(|value| value.print().into_owned()).collect::<Vec<_>>().join(" ")
}

/// A number as Go's `%v` prints it: the shortest digits that read back, with an exponent below 1e-4 and from 1e6 on.
pub(super) fn float(number: f64) -> String {
    if number.is_nan() {
        return "NaN".to_owned();
    }
    if number.is_infinite() {
        return if number > 0.0 { "+Inf" } else { "-Inf" }.to_owned();
    }
    let scientific = format!("{number:e}");
    let (digits, exponent) = scientific.split_once('e').unwrap_or((&scientific, "0"));
    let exponent: i32 = exponent.parse().unwrap_or(0);
    if number == 0.0 || (-4..6).contains(&exponent) {
        return format!("{number}");
    }
    let sign = if exponent < 0 { '-' } else { '+' };
    format!("{digits}e{sign}{:02}", exponent.abs())
}
