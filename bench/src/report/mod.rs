//! `bench report`: raw files in, one HTML page, Markdown and figures out.
//!
//! Nothing is measured here: a report made twice from the same files is the same to the letter.

mod cost;
mod page;
mod plot;
mod read;
mod sections;
mod targets;

use std::io::{self, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow};

use crate::network::Network;
use crate::{machine, method, output};
use page::Page;
use read::{AppRow, Files, KINDS, MicroRow, ScaleRow, TransferRow};

/// The method that others are compared with.
const OURS: &str = "zipline";

/// What the command line chose.
pub(crate) struct Options {
    /// Raw files; none: the newest of each bench.
    pub(crate) from: Vec<PathBuf>,
    /// The page; Markdown and figures lie beside it.
    pub(crate) out: PathBuf,
}

/// What was written.
#[derive(serde::Serialize)]
pub(crate) struct Written {
    schema: u32,
    html: PathBuf,
    markdown: PathBuf,
    figures: Vec<PathBuf>,
    from: Vec<PathBuf>,
}

impl Written {
    /// For people.
    pub(crate) fn print(&self, out: &mut dyn Write) -> io::Result<()> {
        writeln!(out, "{}\n{}", self.html.display(), self.markdown.display())?;
        for figure in &self.figures {
            writeln!(out, "{}", figure.display())?;
        }
        Ok(())
    }
}

/// Makes the report. All of its files are there, or none is new.
pub(crate) fn run(options: &Options) -> Result<Written> {
    let files = Files::read(&options.from, &output::raw_folder()?)?;
    let page = make(&files)?;
    let html = page.html()?;
    let stem = options.out.file_stem().and_then(|stem| stem.to_str()).context("--out names no file")?.to_owned();
    let folder = options.out.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let figures_folder = format!("{stem}-figures");
    let markdown = page.markdown(&figures_folder)?;
    let drawn = page.figures()?;
    let mut texts: Vec<(PathBuf, String)> =
        drawn.into_iter().map(|(name, svg)| (folder.join(&figures_folder).join(name), svg)).collect();
    let figures = texts.iter().map(|(path, _)| path.clone()).collect();
    let markdown_path = folder.join(format!("{stem}.md"));
    texts.push((markdown_path.clone(), markdown));
    texts.push((options.out.clone(), html));
    output::write_texts(&texts).map_err(|error| {
        anyhow!("the report is not written: {error:#}\nhint: make room, or name a file elsewhere with --out FILE")
    })?;
    let from = files.all().map(|(_, _, file)| file.path.clone()).collect();
    Ok(Written { schema: output::SCHEMA, html: options.out.clone(), markdown: markdown_path, figures, from })
}

fn make(files: &Files) -> Result<Page> {
    let apps = files.of("apps");
    let app_rows: Vec<AppRow> = read::merged(apps)?;
    let mut priced = Vec::new();
    for (at, file) in apps.iter().enumerate() {
        priced.extend(cost::price(at, &file.text, file.head.seed)?);
    }
    let micro: Vec<MicroRow> = read::merged(files.of("micro"))?;
    let transfer: Vec<TransferRow> = read::merged(files.of("transfer"))?;
    let scale: Vec<ScaleRow> = files.of("scale").first().map(|file| file.rows()).transpose()?.unwrap_or_default();
    let proxy = files.of("proxy").first();
    let mut sections = Vec::new();
    if !apps.is_empty() {
        sections.extend([sections::headline(&app_rows, &priced, apps.len()), sections::claims(&app_rows, &priced)]);
    }
    sections.push(targets::targets(&targets::Measured {
        apps: &app_rows,
        priced: &priced,
        micro: &micro,
        transfer: &transfer,
        scale: &scale,
        proxy,
    }));
    sections.push(sections::losses(&app_rows, &priced, &micro, &transfer));
    if !apps.is_empty() {
        sections.push(sections::bill(&app_rows, &priced));
    }
    if !micro.is_empty() {
        sections.push(sections::micro(&micro));
    }
    if !transfer.is_empty() {
        sections.push(sections::transfer(&transfer));
    }
    if let Some(file) = proxy {
        sections.push(sections::proxy(file));
    }
    if !scale.is_empty() {
        sections.push(sections::scale(&scale));
    }
    Ok(Page { title: "Zipline, measured".to_owned(), preamble: preamble(files), sections })
}

fn preamble(files: &Files) -> Vec<String> {
    let mut lines = Vec::new();
    for (kind, at, file) in files.all() {
        let head = &file.head;
        if lines.is_empty() {
            let machine = &head.machine;
            lines.push(format!(
                "Machine: {}, {} cores, {}, Linux {}; congestion control by default {}; release {}.",
                machine.cpu,
                machine.cores,
                output::bytes(machine.memory_bytes),
                machine.kernel,
                machine.congestion_default,
                machine.release
            ));
        }
        let name = file.path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        let run = if files.of(kind).len() > 1 { format!(", run {}", read::letter(at)) } else { String::new() };
        let mut line = format!("`zipline bench {kind}`{run} ({} mode, seed {}, raw file {name}", head.mode, head.seed);
        let network = head.network.as_deref().map(Network::described);
        for (what, value) in [("network", network), ("congestion control", head.congestion.as_deref())] {
            if let Some(value) = value {
                line += &format!(", {what} {value}");
            }
        }
        line += if head.interrupted { "; interrupted: what was measured until then)." } else { ")." };
        for method in head.methods.iter().filter(|method| !method.description.is_empty()) {
            line += &format!(" {}: {}.", method.name, method.description);
        }
        line +=
            &head.missing.iter().map(|missing| format!(" Without {}: {}.", missing.method, missing.reason)).collect::<String>();
        for left in &head.left_out {
            let what: Vec<String> = left.what.iter().map(|(name, value)| format!("{name} {value}")).collect();
            line += &format!(" Left out ({}): {}.", what.join(", "), left.reason);
        }
        let repeated = head.stores.iter().filter_map(|(name, did)| method::repeated(name, did.failed, did.throttled));
        line += &repeated.map(|line| format!(" {line}.")).collect::<String>();
        lines.push(line);
    }
    if files.all().any(|(_, _, file)| file.head.machine.cores == 1) {
        lines.push(format!("On this machine {}.", machine::ONE_CORE));
    }
    if KINDS.iter().any(|kind| files.of(kind).len() > 1) {
        lines.push(
            "Where two runs have the same row, the one with more pairs stands, and the letter of its run with it; a ratio is always one \
             within a run."
                .to_owned(),
        );
    }
    lines.push(
        "Three words stand on numbers: measured (timed or counted here), injected (a delay added from published figures), priced (computed from measured \
         operations and a dated table of list prices)."
            .to_owned(),
    );
    lines
}
