//! Making a line from a tree.

use super::parse::{Base, Branch, Node, Operand, Pipeline};
use super::value::Value;

/// A structure that a template looks into.
pub trait Fields {
    /// One of its fields; `None`: it has no such field.
    fn field(&self, name: &str) -> Option<Value<'_>>;

    /// What one of its methods gives; `None`: it has no such method.
    fn method<'a>(&'a self, name: &str, arguments: &[Value<'a>]) -> Option<Result<Value<'a>, String>>;

    /// As a whole.
    fn print(&self) -> String {
        "{…}".to_owned()
    }
}

/// Why a line could not be made.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum RunError {
    /// A field or method that is not there.
    #[error("can't evaluate field {name} in type {kind}")]
    Field {
        /// Its name.
        name: String,
        /// What it was looked for in.
        kind: &'static str,
    },
    /// A function does not take this.
    #[error("{function}: {reason}")]
    Function {
        /// Its name.
        function: String,
        /// What is wrong.
        reason: String,
    },
    /// Arguments were given to what takes none.
    #[error("can't give an argument to a value that is no function")]
    Arguments,
    /// `range` over something that has no parts.
    #[error("range can't iterate over a value of type {0}")]
    Range(&'static str),
    /// The line is too long.
    #[error("a line has more than {LINE_BYTES_MAX} bytes")]
    TooLong,
}

/// Bytes of one line. Request heads end at 1 MiB, and escaping makes at most six bytes of one.
pub(super) const LINE_BYTES_MAX: usize = 8 << 20;

pub(super) fn run<'a>(nodes: &'a [Node], root: &'a dyn Fields, out: &mut String) -> Result<(), RunError> {
    let mut scope = Scope { variables: vec![("", Value::Fields(root))], out };
    scope.block(nodes, &Value::Fields(root))
}

struct Scope<'a, 'o> {
    variables: Vec<(&'a str, Value<'a>)>,
    out: &'o mut String,
}

impl<'a> Scope<'a, '_> {
    fn block(&mut self, nodes: &'a [Node], dot: &Value<'a>) -> Result<(), RunError> {
        for node in nodes {
            match node {
                Node::Text(text) => self.out.push_str(text),
                Node::Print(pipeline) => {
                    let value = self.pipeline(pipeline, dot)?;
                    if pipeline.variables.is_empty() {
                        self.out.push_str(&value.print());
                    }
                }
                Node::Branch { kind, condition, then, otherwise } => {
                    let known = self.variables.len();
                    self.branch(*kind, condition, (then, otherwise), dot)?;
                    self.variables.truncate(known);
                }
            }
            if self.out.len() > LINE_BYTES_MAX {
                return Err(RunError::TooLong);
            }
        }
        Ok(())
    }

    fn branch(
        &mut self,
        kind: Branch,
        condition: &'a Pipeline,
        (then, otherwise): (&'a [Node], &'a [Node]),
        dot: &Value<'a>,
    ) -> Result<(), RunError> {
        if kind == Branch::Range {
            return self.range(condition, (then, otherwise), dot);
        }
        let value = self.pipeline(condition, dot)?;
        match (value.is_true(), kind) {
            (true, Branch::With) => self.block(then, &value),
            (true, _) => self.block(then, dot),
            (false, _) => self.block(otherwise, dot),
        }
    }

    fn range(
        &mut self,
        over: &'a Pipeline,
        (then, otherwise): (&'a [Node], &'a [Node]),
        dot: &Value<'a>,
    ) -> Result<(), RunError> {
        let entries: Vec<(Value<'a>, Value<'a>)> = match self.commands(over, dot)? {
            Value::List(values) => values.into_iter().enumerate().map(|(at, value)| (Value::Int(at as i64), value)).collect(),
            Value::Map(entries) => entries.into_iter().map(|(name, value)| (Value::Text(name), value)).collect(),
            Value::Nil => Vec::new(),
            other => return Err(RunError::Range(other.kind())),
        };
        if entries.is_empty() {
            return self.block(otherwise, dot);
        }
        let known = self.variables.len();
        for (key, value) in entries {
            match over.variables.as_slice() {
                [one] => self.assign(one, value.clone(), over.declares),
                [first, second] => {
                    self.assign(first, key, over.declares);
                    self.assign(second, value.clone(), over.declares);
                }
                _ => {}
            }
            self.block(then, &value)?;
            self.variables.truncate(known);
        }
        Ok(())
    }

    /// Runs a pipeline and gives its variables their value.
    fn pipeline(&mut self, pipeline: &'a Pipeline, dot: &Value<'a>) -> Result<Value<'a>, RunError> {
        let value = self.commands(pipeline, dot)?;
        for name in &pipeline.variables {
            self.assign(name, value.clone(), pipeline.declares);
        }
        Ok(value)
    }

    fn commands(&mut self, pipeline: &'a Pipeline, dot: &Value<'a>) -> Result<Value<'a>, RunError> {
        let mut handed_on = None;
        for command in &pipeline.commands {
            handed_on = Some(self.command(command, handed_on, dot)?);
        }
        Ok(handed_on.unwrap_or(Value::Nil))
    }

    fn command(&mut self, command: &'a [Operand], handed_on: Option<Value<'a>>, dot: &Value<'a>) -> Result<Value<'a>, RunError> {
        let Some((first, rest)) = command.split_first() else { return Ok(Value::Nil) };
        let mut arguments = rest.iter().map(|operand| self.operand(operand, &[], dot)).collect::<Result<Vec<_>, _>>()?;
        arguments.extend(handed_on);
        match first {
            Operand::Function(function) => {
                (function.apply)(&arguments).map_err(|reason| RunError::Function { function: function.name.to_owned(), reason })
            }
            Operand::Fields(_, names) if !names.is_empty() => self.operand(first, &arguments, dot),
            _ if arguments.is_empty() => self.operand(first, &[], dot),
            _ => Err(RunError::Arguments),
        }
    }

    fn operand(&mut self, operand: &'a Operand, arguments: &[Value<'a>], dot: &Value<'a>) -> Result<Value<'a>, RunError> {
        Ok(match operand {
            Operand::Function(_) => self.command(std::slice::from_ref(operand), None, dot)?,
            Operand::Fields(base, names) => {
                let base = match base {
                    Base::Dot => dot.clone(),
                    Base::Variable(name) => self.variable(name),
                    Base::Parentheses(pipeline) => self.commands(pipeline, dot)?,
                };
                let last = names.len().saturating_sub(1);
                names.iter().enumerate().try_fold(base, |value, (at, name)| {
                    let arguments = if at == last { arguments } else { &[] };
                    field(&value, name, arguments)
                })?
            }
            Operand::Text(text) => Value::text(text.as_str()),
            Operand::Int(number) => Value::Int(*number),
            Operand::Float(number) => Value::Float(*number),
            Operand::Bool(is) => Value::Bool(*is),
            Operand::Nil => Value::Nil,
        })
    }

    fn variable(&self, name: &str) -> Value<'a> {
        // The parser lets none through that is not known.
        self.variables.iter().rev().find(|(known, _)| *known == name).map_or(Value::Nil, |(_, value)| value.clone())
    }

    fn assign(&mut self, name: &'a str, value: Value<'a>, declares: bool) {
        if !declares && let Some((_, known)) = self.variables.iter_mut().rev().find(|(known, _)| *known == name) {
            *known = value;
        } else {
            self.variables.push((name, value));
        }
    }
}

fn field<'a>(value: &Value<'a>, name: &str, arguments: &[Value<'a>]) -> Result<Value<'a>, RunError> {
    let missing = || RunError::Field { name: name.to_owned(), kind: value.kind() };
    match value {
        Value::Fields(fields) => match fields.field(name) {
            Some(_) if !arguments.is_empty() => Err(RunError::Arguments),
            Some(value) => Ok(value),
            None => fields
                .method(name, arguments)
                .ok_or_else(missing)?
                .map_err(|reason| RunError::Function { function: name.to_owned(), reason }),
        },
        // Headers: `Get` and `Values` find a name however it is written.
        Value::Map(entries) => match (name, arguments) {
            ("Get" | "Values", [Value::Text(wanted)]) => {
                let found = entries.iter().find(|(known, _)| known.eq_ignore_ascii_case(wanted)).map(|(_, value)| value.clone());
                match (name, found) {
                    ("Values", found) => Ok(found.unwrap_or(Value::List(Vec::new()))),
                    (_, Some(Value::List(values))) => Ok(values.into_iter().next().unwrap_or(Value::text(""))),
                    (_, _) => Ok(Value::text("")),
                }
            }
            // On a map, a name is a key.
            _ if arguments.is_empty() => {
                Ok(entries.iter().find(|(known, _)| known == name).map_or(Value::Nil, |(_, value)| value.clone()))
            }
            _ => Err(RunError::Arguments),
        },
        _ => Err(missing()),
    }
}
