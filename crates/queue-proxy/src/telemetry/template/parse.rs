//! From text to a tree.

use super::functions::{self, Function};
use super::lex::{Word, words};

/// Blocks within blocks, and parentheses within parentheses.
const NESTED_MAX: usize = 32;

/// Why a text is no template.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ParseError {
    /// It is not written as templates are.
    #[error("{0}")]
    Syntax(String),
    /// It uses a part of Go's templates that this proxy does not have.
    #[error("`{0}` is not supported in a request log template")]
    Unsupported(String),
    /// Blocks lie too deep in one another.
    #[error("blocks are nested more than {NESTED_MAX} deep")]
    Nested,
}

/// A part of a template.
#[derive(Debug)]
pub(super) enum Node {
    Text(String),
    Print(Pipeline),
    Branch { kind: Branch, condition: Pipeline, then: Vec<Node>, otherwise: Vec<Node> },
}

/// A part that may be left out or repeated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Branch {
    If,
    With,
    Range,
}

/// Commands whose results are handed on, and where the last goes.
#[derive(Debug)]
pub(super) struct Pipeline {
    pub(super) variables: Vec<String>,
    /// Whether the variables are new; else they are given another value.
    pub(super) declares: bool,
    pub(super) commands: Vec<Vec<Operand>>,
}

/// A word of a command.
#[derive(Debug)]
pub(super) enum Operand {
    Function(Function),
    /// Something, and the fields taken of it.
    Fields(Base, Vec<String>),
    Text(String),
    Int(i64),
    Float(f64),
    Bool(bool),
    Nil,
}

/// What fields are taken of.
#[derive(Debug)]
pub(super) enum Base {
    Dot,
    Variable(String),
    Parentheses(Box<Pipeline>),
}

/// What lies between two actions, and the actions.
enum Piece<'a> {
    Text(&'a str),
    Action(&'a str),
}

pub(super) fn parse(text: &str) -> Result<Vec<Node>, ParseError> {
    let pieces = pieces(text)?;
    let mut parser = Parser { pieces: pieces.into_iter(), variables: vec![String::new()], depth: 0 };
    let (nodes, end) = parser.block()?;
    match end {
        Close::Text => Ok(nodes),
        Close::End => Err(ParseError::Syntax("unexpected {{end}}".to_owned())),
        Close::Else(_) => Err(ParseError::Syntax("unexpected {{else}}".to_owned())),
    }
}

/// Cuts a text into what is printed as it is and actions, and takes off what trim markers take.
fn pieces(text: &str) -> Result<Vec<Piece<'_>>, ParseError> {
    let mut pieces = Vec::new();
    let mut rest = text;
    let mut is_trimmed = false;
    loop {
        let start = rest.find("{{");
        let mut plain = &rest[..start.unwrap_or(rest.len())];
        if is_trimmed {
            plain = plain.trim_start();
        }
        let Some(start) = start else {
            pieces.push(Piece::Text(plain));
            return Ok(pieces);
        };
        let mut inside = &rest[start + 2..];
        let marked = inside.strip_prefix('-').filter(|after| after.starts_with(|c: char| c.is_ascii_whitespace()));
        if let Some(after) = marked {
            plain = plain.trim_end();
            inside = after;
        }
        pieces.push(Piece::Text(plain));
        let end = action_end(inside)?;
        let mut action = &inside[..end];
        rest = &inside[end + 2..];
        let marked = action.strip_suffix('-').filter(|before| before.ends_with(|c: char| c.is_ascii_whitespace()));
        is_trimmed = marked.is_some();
        action = marked.unwrap_or(action);
        pieces.push(Piece::Action(action));
    }
}

/// Where an action's `}}` stands, quoted ones left aside.
fn action_end(text: &str) -> Result<usize, ParseError> {
    let unclosed = || ParseError::Syntax("unclosed action".to_owned());
    if text.trim_start().starts_with("/*") {
        let comment = text.find("*/").ok_or_else(|| ParseError::Syntax("unclosed comment".to_owned()))?;
        return text[comment..].find("}}").map(|at| comment + at).ok_or_else(unclosed);
    }
    let mut quote = None;
    let mut bytes = text.bytes().enumerate();
    while let Some((at, byte)) = bytes.next() {
        match (quote, byte) {
            (None, b'"' | b'`' | b'\'') => quote = Some(byte),
            (None, b'}') if text[at..].starts_with("}}") => return Ok(at),
            (Some(b'"' | b'\''), b'\\') => drop(bytes.next()),
            (Some(open), _) if open == byte => quote = None,
            _ => {}
        }
    }
    match quote {
        Some(_) => Err(ParseError::Syntax("unterminated string or character in an action".to_owned())),
        None => Err(unclosed()),
    }
}

/// What ends a block.
enum Close {
    /// The text itself.
    Text,
    End,
    /// `{{else}}` with what follows it.
    Else(Vec<Word>),
}

struct Parser<'a> {
    pieces: std::vec::IntoIter<Piece<'a>>,
    /// Names that are known here; the first, without a name, is the root.
    variables: Vec<String>,
    depth: usize,
}

impl Parser<'_> {
    fn block(&mut self) -> Result<(Vec<Node>, Close), ParseError> {
        let mut nodes = Vec::new();
        while let Some(piece) = self.pieces.next() {
            let action = match piece {
                Piece::Text("") => continue,
                Piece::Text(text) => {
                    nodes.push(Node::Text(text.to_owned()));
                    continue;
                }
                Piece::Action(action) => action,
            };
            if action.trim_start().starts_with("/*") {
                continue;
            }
            let mut words = words(action)?;
            let keyword = match words.first() {
                Some(Word::Name(name)) => name.clone(),
                _ => String::new(),
            };
            match keyword.as_str() {
                "end" => return Ok((nodes, Close::End)),
                "else" => return Ok((nodes, Close::Else(words.split_off(1)))),
                "if" => nodes.push(self.branch(Branch::If, words.split_off(1))?),
                "with" => nodes.push(self.branch(Branch::With, words.split_off(1))?),
                "range" => nodes.push(self.branch(Branch::Range, words.split_off(1))?),
                "define" | "template" | "block" | "break" | "continue" => return Err(ParseError::Unsupported(keyword)),
                _ => nodes.push(Node::Print(self.pipeline(words, false)?)),
            }
        }
        Ok((nodes, Close::Text))
    }

    fn branch(&mut self, kind: Branch, condition: Vec<Word>) -> Result<Node, ParseError> {
        self.depth += 1;
        if self.depth > NESTED_MAX {
            return Err(ParseError::Nested);
        }
        let known = self.variables.len();
        let condition = self.pipeline(condition, kind == Branch::Range)?;
        let (then, end) = self.block()?;
        let otherwise = match end {
            Close::Text => return Err(ParseError::Syntax("unexpected end of the template: an {{end}} is missing".to_owned())),
            Close::End => Vec::new(),
            Close::Else(words) => self.otherwise(words)?,
        };
        self.variables.truncate(known);
        self.depth -= 1;
        Ok(Node::Branch { kind, condition, then, otherwise })
    }

    fn otherwise(&mut self, mut words: Vec<Word>) -> Result<Vec<Node>, ParseError> {
        let chained = match words.first() {
            None => None,
            Some(Word::Name(name)) if name == "if" => Some(Branch::If),
            Some(Word::Name(name)) if name == "with" => Some(Branch::With),
            Some(_) => return Err(ParseError::Syntax("unexpected words after {{else}}".to_owned())),
        };
        if let Some(kind) = chained {
            return Ok(vec![self.branch(kind, words.split_off(1))?]); // It takes the {{end}}.
        }
        match self.block()? {
            (nodes, Close::End) => Ok(nodes),
            (_, Close::Else(_)) => Err(ParseError::Syntax("expected {{end}}, found {{else}}".to_owned())),
            (_, Close::Text) => Err(ParseError::Syntax("unexpected end of the template: an {{end}} is missing".to_owned())),
        }
    }

    fn pipeline(&mut self, words: Vec<Word>, is_range: bool) -> Result<Pipeline, ParseError> {
        let mut words = words.into_iter().peekable();
        let (variables, declares) = self.declared(&mut words, is_range)?;
        let commands = self.commands(&mut words, false)?;
        if declares {
            self.variables.extend(variables.iter().cloned());
        }
        Ok(Pipeline { variables, declares, commands })
    }

    /// The variables that a pipeline's result goes to.
    fn declared(&mut self, words: &mut Words, is_range: bool) -> Result<(Vec<String>, bool), ParseError> {
        let mut ahead = words.clone();
        let mut names = Vec::new();
        loop {
            let Some(Word::Variable(name)) = ahead.next() else { return Ok((Vec::new(), false)) };
            names.push(name);
            match ahead.next() {
                Some(Word::Comma) if is_range && names.len() == 1 => {}
                Some(end @ (Word::Declare | Word::Assign)) => {
                    *words = ahead;
                    let declares = end == Word::Declare;
                    if !declares {
                        names.iter().try_for_each(|name| self.known(name))?;
                    }
                    return Ok((names, declares));
                }
                _ => return Ok((Vec::new(), false)),
            }
        }
    }

    fn known(&self, name: &str) -> Result<(), ParseError> {
        let is_known = self.variables.iter().any(|known| known == name);
        is_known.then_some(()).ok_or_else(|| ParseError::Syntax(format!("undefined variable \"${name}\"")))
    }

    fn commands(&mut self, words: &mut Words, in_parentheses: bool) -> Result<Vec<Vec<Operand>>, ParseError> {
        let mut commands = Vec::new();
        let mut command = Vec::new();
        loop {
            match words.next() {
                Some(Word::Pipe) if !command.is_empty() => commands.push(std::mem::take(&mut command)),
                Some(Word::Close) if in_parentheses => break,
                None if !in_parentheses => break,
                None => return Err(ParseError::Syntax("unclosed parenthesis".to_owned())),
                Some(Word::Pipe) => break command.clear(),
                Some(word) => command.push(self.operand(word, words)?),
            }
        }
        if command.is_empty() {
            return Err(ParseError::Syntax("missing value in an action".to_owned()));
        }
        commands.push(command);
        Ok(commands)
    }

    fn operand(&mut self, word: Word, words: &mut Words) -> Result<Operand, ParseError> {
        let base = match word {
            Word::Name(name) => match name.as_str() {
                "true" => return Ok(Operand::Bool(true)),
                "false" => return Ok(Operand::Bool(false)),
                "nil" => return Ok(Operand::Nil),
                "call" | "slice" => return Err(ParseError::Unsupported(name)),
                _ => {
                    return functions::named(&name)
                        .map(Operand::Function)
                        .ok_or_else(|| ParseError::Syntax(format!("function \"{name}\" is not defined")));
                }
            },
            Word::Text(text) => return Ok(Operand::Text(text)),
            Word::Int(number) => return Ok(Operand::Int(number)),
            Word::Float(number) => return Ok(Operand::Float(number)),
            Word::Dot => return Ok(Operand::Fields(Base::Dot, Vec::new())),
            Word::Field { name, .. } => return Ok(Operand::Fields(Base::Dot, chain(vec![name], words))),
            Word::Variable(name) => {
                self.known(&name)?;
                Base::Variable(name)
            }
            Word::Open => {
                self.depth += 1;
                if self.depth > NESTED_MAX {
                    return Err(ParseError::Nested);
                }
                let commands = self.commands(words, true)?;
                self.depth -= 1;
                Base::Parentheses(Box::new(Pipeline { variables: Vec::new(), declares: false, commands }))
            }
            Word::Pipe | Word::Close | Word::Comma | Word::Declare | Word::Assign => {
                return Err(ParseError::Syntax("unexpected punctuation in an action".to_owned()));
            }
        };
        Ok(Operand::Fields(base, chain(Vec::new(), words)))
    }
}

type Words = std::iter::Peekable<std::vec::IntoIter<Word>>;

/// The fields that follow without a space.
fn chain(mut names: Vec<String>, words: &mut Words) -> Vec<String> {
    while let Some(Word::Field { name, .. }) = words.next_if(|word| matches!(word, Word::Field { chained: true, .. })) {
        names.push(name);
    }
    names
}
