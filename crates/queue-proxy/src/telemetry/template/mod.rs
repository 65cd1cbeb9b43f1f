//! Request log templates: the part of Go's `text/template` that a line about one request needs.
//!
//! Knative's operators write these (`logging.request-log-template`), so the language is Go's: text, `{{ pipelines }}` with
//! fields, variables, literals and parentheses, `if`/`else if`/`else`, `with`, `range`, comments and trim markers; the
//! functions `and`, `or`, `not`, `len`, `index`, `print`, `printf`, `println`, `js`, `html`, `urlquery`, `eq`, `ne`, `lt`, `le`,
//! `gt`, `ge`. Values are printed as Go prints them. Not here: `define`, `template`, `block`, `break`, `continue`, `call` and
//! `slice`; each is an error that names it when the template is read.
//!
//! [`parse`](mod@parse) makes a tree of the text once, [`run`] writes a line from it, [`value`] is what fields give, and
//! [`functions`] are Go's. A mistake that only shows when a line is made (a field that does not exist) fails that line.

mod functions;
mod lex;
mod parse;
mod run;
mod value;

pub use parse::ParseError;
pub(super) use run::{Fields, RunError};
pub(super) use value::Value;

use parse::Node;

/// A template that was read.
#[derive(Debug)]
pub struct Template(Vec<Node>);

impl Template {
    /// Reads a template.
    ///
    /// # Errors
    /// It is none, or it uses what is not here.
    pub fn parse(text: &str) -> Result<Self, ParseError> {
        parse::parse(text).map(Self)
    }

    /// Appends a line made from `root`.
    ///
    /// # Errors
    /// A field or an argument is not what the template takes it for. Part of the line may have been written.
    pub(super) fn run<'a>(&'a self, root: &'a dyn Fields, out: &mut String) -> Result<(), RunError> {
        run::run(&self.0, root, out)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Root;

    impl Fields for Root {
        fn field(&self, name: &str) -> Option<Value<'_>> {
            Some(match name {
                "Name" => Value::text("a\"b<c>"),
                "Empty" => Value::text(""),
                "Count" => Value::Int(3),
                "Latency" => Value::Float(0.000_012_3),
                "Whole" => Value::Float(2.0),
                "Yes" => Value::Bool(true),
                "List" => Value::List(vec![Value::text("x"), Value::text("y")]),
                "None" => Value::Nil,
                "Inner" => Value::Fields(&Root),
                "Map" => Value::Map(vec![("A-B".into(), Value::List(vec![Value::text("1"), Value::text("2")]))]),
                _ => return None,
            })
        }

        fn method<'a>(&'a self, name: &str, arguments: &[Value<'a>]) -> Option<Result<Value<'a>, String>> {
            let greeted = arguments.first().map(|who| Value::text(format!("hello {}", who.print())));
            (name == "Greet").then(|| greeted.ok_or_else(|| "nobody to greet".to_owned()))
        }
    }

    fn line(template: &str) -> String {
        let mut out = String::new();
        match Template::parse(template) {
            Err(error) => format!("PARSE {error}"),
            Ok(template) => match template.run(&Root, &mut out) {
                Ok(()) => out,
                Err(error) => format!("RUN {error}"),
            },
        }
    }

    #[test]
    fn values_are_printed_as_go_prints_them() {
        for (template, expected) in [
            ("a {{.Count}} b", "a 3 b"),
            ("{{.Latency}} {{.Whole}} {{1.5}} {{1234567.5}} {{123456.5}}", "1.23e-05 2 1.5 1.2345675e+06 123456.5"),
            ("{{.List}} {{.Map}} {{.Yes}} {{.None}}", "[x y] map[A-B:[1 2]] true <no value>"),
            ("{{.Inner.Inner.Count}}{{(.Inner).Count}}", "33"),
            ("{{index .List 1}}{{index .Map \"A-B\" 0}}{{index .Map \"none\"}}{{len .List}}", "y1[]2"),
            ("{{range .List}}<{{.}}>{{end}}{{range $i, $v := .List}}{{$i}}{{$v}}{{else}}none{{end}}", "<x><y>0x1y"),
            ("{{range $k, $v := .Map}}{{$k}}={{index $v 0}}{{end}}", "A-B=1"),
            ("{{- /* note */ -}} a {{- \" b\"}} {{`raw\\`}} {{'a'}}", "a b raw\\ 97"),
            ("a\n {{- .Count -}} \n b", "a3b"),
            ("{{.Greet \"you\"}}", "hello you"),
        ] {
            assert_eq!(line(template), expected, "{template}");
        }
    }

    #[test]
    fn conditions_variables_and_functions_work_as_in_go() {
        for (template, expected) in [
            ("{{if .Empty}}a{{else if gt .Count 2}}b{{else}}c{{end}}", "b"),
            ("{{with .Name}}{{.}}{{else}}none{{end}}{{with .Empty}}x{{else}}none{{end}}", "a\"b<c>none"),
            ("{{$x := .Count}}{{if true}}{{$x = 5}}{{end}}{{$x}}{{$.Count}}", "53"),
            ("{{js .Name}}|{{.Name | html}}|{{urlquery \"a b&c\"}}", "a\\\"b\\u003Cc\\u003E|a&#34;b&lt;c&gt;|a+b%26c"),
            ("{{js \"é\\n\\u0001'=&\"}}", "é\\u000A\\u0001\\'\\u003D\\u0026"),
            (
                "{{printf \"%s-%d-%.2f-%q-%v-%5d|%-5s|%05d|%t|%x\" \"a\" 3 1.5 \"q\" .List 7 \"l\" 42 true 255}}",
                "a-3-1.50-\"q\"-[x y]-    7|l    |00042|true|ff",
            ),
            ("{{print 1 2 \"a\" \"b\" 3}}|{{println \"a\" 1}}", "1 2ab3|a 1\n"),
            ("{{and .Count .Name}}{{or .Empty \"d\"}}{{not .Empty}}", "a\"b<c>dtrue"),
            ("{{eq .Count 1 3}}{{ne .Name \"x\"}}{{le 1 1}}{{lt \"a\" \"b\"}}{{ge 1.5 2.5}}", "truetruetruetruefalse"),
            ("{{printf \"%d\" \"a\"}} {{printf \"%d\"}} {{printf \"x\" 1}}", "%!d(string=a) %!d(MISSING) x%!(EXTRA int=1)"),
        ] {
            assert_eq!(line(template), expected, "{template}");
        }
    }

    #[test]
    fn mistakes_are_named() {
        for (template, part) in [
            ("{{", "unclosed action"),
            ("{{.A}", "unclosed action"),
            ("{{if .A}}", "unexpected end of the template"),
            ("{{end}}", "unexpected {{end}}"),
            ("{{frob .A}}", "function \"frob\" is not defined"),
            ("{{template \"x\"}}", "`template` is not supported"),
            ("{{define \"x\"}}{{end}}", "`define` is not supported"),
            ("{{$y}}", "undefined variable \"$y\""),
            ("{{\"a}}", "unterminated"),
            ("{{.A | }}", "missing value"),
            ("{{ 1 | .Name }}x", "RUN"),
            ("{{.Wrong}}", "RUN"),
            ("{{eq .Count \"3\"}}", "incompatible types"),
            ("{{index .List 9}}", "out of range"),
            ("{{.Count.More}}", "can't evaluate field More"),
        ] {
            let text = line(template);
            assert!(text.contains(part), "{template}: {text}");
        }
        let deep = "{{if true}}".repeat(200);
        assert!(line(&deep).contains("nested"), "{}", line(&deep));
    }
}
