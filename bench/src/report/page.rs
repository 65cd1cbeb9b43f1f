//! A report as sections of text, tables and figures, and the two forms it is written in.

use std::fmt::Write;

use anyhow::Result;

use super::plot::Figure;

/// A table; cells are text, the first column names the row.
pub(super) struct Table {
    pub(super) caption: String,
    pub(super) columns: Vec<String>,
    pub(super) rows: Vec<Vec<String>>,
}

impl Table {
    pub(super) fn new(caption: impl Into<String>, columns: &[&str]) -> Self {
        Self { caption: caption.into(), columns: columns.iter().map(|column| (*column).to_owned()).collect(), rows: Vec::new() }
    }
}

/// One subject.
pub(super) struct Section {
    /// For links within the page, and for the names of its figures.
    pub(super) id: &'static str,
    pub(super) title: &'static str,
    pub(super) text: Vec<String>,
    pub(super) tables: Vec<Table>,
    pub(super) figures: Vec<Figure>,
}

impl Section {
    pub(super) fn new(id: &'static str, title: &'static str) -> Self {
        Self { id, title, text: Vec::new(), tables: Vec::new(), figures: Vec::new() }
    }

    fn drawn(&self) -> Result<Vec<Drawn<'_>>> {
        let figures = self.figures.iter().filter(|figure| !figure.is_empty());
        figures.map(|figure| Ok(Drawn { figure, svg: figure.svg()? })).collect()
    }
}

/// The whole report.
pub(super) struct Page {
    pub(super) title: String,
    /// Machine, files, what the words mean.
    pub(super) preamble: Vec<String>,
    pub(super) sections: Vec<Section>,
}

/// A figure drawn once for both forms.
struct Drawn<'p> {
    figure: &'p Figure,
    svg: String,
}

const STYLE: &str = "\
:root { color-scheme: light dark; --ink: #1a1a1a; --paper: #ffffff; --line: #d0d0d0; --soft: #f4f4f4; }
@media (prefers-color-scheme: dark) { :root { --ink: #e8e8e8; --paper: #161616; --line: #444; --soft: #222; } }
@media print { :root { --ink: #000; --paper: #fff; --line: #bbb; --soft: #fff; } nav { display: none; } section { break-inside: avoid-page; } }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 62rem; padding: 1rem; font: 1rem/1.5 system-ui, sans-serif; color: var(--ink); background: var(--paper); }
h1 { font-size: 1.6rem; } h2 { font-size: 1.25rem; margin-top: 2.5rem; border-bottom: 1px solid var(--line); }
nav ul { columns: 2 16rem; padding-left: 1.2rem; }
.wide { overflow-x: auto; margin: 1rem 0; }
table { border-collapse: collapse; font-size: .88rem; font-variant-numeric: tabular-nums; min-width: 60%; }
caption { text-align: left; font-weight: 600; padding: .3rem 0; }
th, td { border-bottom: 1px solid var(--line); padding: .25rem .6rem; text-align: right; vertical-align: top; white-space: nowrap; }
th:first-child, td:first-child { text-align: left; position: sticky; left: 0; background: var(--paper); }
thead th { background: var(--soft); }
figure { margin: 1.2rem 0; } figure svg { width: 100%; height: auto; color: var(--ink); }
figcaption { font-size: .88rem; }
";

impl Page {
    fn drawn(&self) -> Result<Vec<Vec<Drawn<'_>>>> {
        self.sections.iter().map(Section::drawn).collect()
    }

    /// The figures' files, by name.
    pub(super) fn figures(&self) -> Result<Vec<(String, String)>> {
        let drawn = self.drawn()?;
        Ok(drawn.into_iter().flatten().map(|drawn| (format!("{}.svg", drawn.figure.name), drawn.svg)).collect())
    }

    /// One HTML file that needs nothing else: no script, no style sheet, no picture and no link leaves it.
    pub(super) fn html(&self) -> Result<String> {
        let mut html = String::new();
        let title = escaped(&self.title);
        write!(
            html,
            "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
             <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n<title>{title}</title>\n<style>\n{STYLE}</style>\n</head>\n\
             <body>\n<h1>{title}</h1>\n"
        )?;
        paragraphs(&mut html, &self.preamble);
        html.push_str("<nav><ul>\n");
        for section in &self.sections {
            writeln!(html, "<li><a href=\"#{}\">{}</a></li>", section.id, escaped(section.title))?;
        }
        html.push_str("</ul></nav>\n");
        for (section, drawn) in self.sections.iter().zip(self.drawn()?) {
            writeln!(html, "<section id=\"{}\">\n<h2>{}</h2>", section.id, escaped(section.title))?;
            paragraphs(&mut html, &section.text);
            for Drawn { figure, svg } in drawn {
                let caption = escaped(&format!("{} ({}).", figure.title, figure.kind));
                writeln!(html, "<figure id=\"figure-{}\">\n{svg}\n<figcaption>{caption}</figcaption>\n</figure>", figure.name)?;
            }
            for table in &section.tables {
                html.push_str(&table.html());
            }
            html.push_str("</section>\n");
        }
        html.push_str("</body>\n</html>\n");
        Ok(html)
    }

    /// The same as Markdown; figures are files beside it.
    pub(super) fn markdown(&self, figures_folder: &str) -> Result<String> {
        let mut text = format!("# {}\n", self.title);
        for paragraph in &self.preamble {
            write!(text, "\n{paragraph}\n")?;
        }
        for (section, drawn) in self.sections.iter().zip(self.drawn()?) {
            write!(text, "\n## {}\n", section.title)?;
            for paragraph in &section.text {
                write!(text, "\n{paragraph}\n")?;
            }
            for Drawn { figure, .. } in drawn {
                write!(
                    text,
                    "\n![{}]({figures_folder}/{}.svg)\n\n{} ({}).\n",
                    figure.title, figure.name, figure.title, figure.kind
                )?;
            }
            for table in &section.tables {
                text.push_str(&table.markdown());
            }
        }
        Ok(text)
    }
}

impl Table {
    fn html(&self) -> String {
        let mut html = format!("<div class=\"wide\"><table>\n<caption>{}</caption>\n<thead><tr>", escaped(&self.caption));
        for column in &self.columns {
            html += &format!("<th scope=\"col\">{}</th>", escaped(column));
        }
        html += "</tr></thead>\n<tbody>\n";
        for row in &self.rows {
            html += "<tr>";
            for cell in row {
                html += &format!("<td>{}</td>", with_code(cell));
            }
            html += "</tr>\n";
        }
        html + "</tbody>\n</table></div>\n"
    }

    fn markdown(&self) -> String {
        let line = |cells: &[String]| {
            let cells: Vec<String> = cells.iter().map(|cell| cell.replace('|', "\\|")).collect();
            format!("| {} |\n", cells.join(" | "))
        };
        let rule: Vec<String> = self.columns.iter().map(|_| "---".to_owned()).collect();
        let rows: String = self.rows.iter().map(|row| line(row)).collect();
        format!("\n{}\n\n{}{}{rows}", self.caption, line(&self.columns), line(&rule))
    }
}

fn paragraphs(html: &mut String, paragraphs: &[String]) {
    for paragraph in paragraphs {
        *html += &format!("<p>{}</p>\n", with_code(paragraph));
    }
}

/// Text that can't be taken for markup, with what stands between backticks as code. A backtick without its second one stands as it is.
fn with_code(text: &str) -> String {
    let mut html = String::new();
    let mut rest = text;
    while let Some((before, from)) = rest.split_once('`')
        && let Some((code, after)) = from.split_once('`')
    {
        html += &format!("{}<code>{}</code>", escaped(before), escaped(code));
        rest = after;
    }
    html + &escaped(rest)
}

/// Text that can't be taken for markup.
pub(super) fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_stands_between_backticks_is_code_and_never_markup() {
        assert_eq!(with_code("run `a <b>` & `c`"), "run <code>a &lt;b&gt;</code> &amp; <code>c</code>");
        assert_eq!(with_code("one ` alone"), "one ` alone");
    }
}
