//! `zipline object`: objects of the running platform's client proxy.

use std::fs::File;
use std::io::{self, Read, Write};
use std::num::NonZeroU32;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use clap::{Args, Subcommand};
use serde::Serialize;
use zipline_sdk::{ByteRange, Client, Payload, PayloadWriter, PutOptions, Reference};

use crate::failure::{Exit, Failure, Outcome};
use crate::format;
use crate::output::{Output, SCHEMA, write_out};
use crate::running::Running;

/// Bytes read at a time from a file that is put.
const READ_BYTES: usize = 1 << 20;

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Put a file, or standard input, and print its reference
    Put(Put),
    /// Read an object to standard output or a file
    Get(Get),
    /// Show size, retrievals left and expiry
    Stat(Stat),
    /// Free an object for everybody
    Release(Release),
}

#[derive(Debug, Args)]
pub(crate) struct Put {
    /// File; `-` is standard input
    #[arg(default_value = "-")]
    file: PathBuf,
    /// Whole reads that are granted
    #[arg(long, default_value = "1", value_name = "N")]
    retrievals: NonZeroU32,
    /// When it expires: digits with ms, s, m or h (without one: as ZIPLINE_PUT_TTL_SECONDS is set)
    #[arg(long, value_parser = parse_duration, value_name = "TIME")]
    ttl: Option<Duration>,
    /// Content type that readers get
    #[arg(long, value_name = "TYPE")]
    content_type: Option<String>,
}

#[derive(Debug, Args)]
pub(crate) struct Get {
    /// The reference
    reference: String,
    /// Where the bytes go; without it, standard output
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Only these bytes, FIRST-LAST; does not count as a retrieval
    #[arg(long, value_parser = parse_range, value_name = "FIRST-LAST")]
    range: Option<ByteRange>,
}

#[derive(Debug, Args)]
pub(crate) struct Stat {
    /// The reference
    reference: String,
}

#[derive(Debug, Args)]
pub(crate) struct Release {
    /// The references
    #[arg(required = true)]
    references: Vec<String>,
}

#[derive(Serialize)]
struct PutDocument {
    schema: u32,
    reference: Reference,
    size: u64,
    expires_in_seconds: Option<f64>,
    guaranteed_for_seconds: Option<f64>,
}

#[derive(Serialize)]
struct GetDocument<'a> {
    schema: u32,
    size: u64,
    content_type: Option<&'a str>,
    output: &'a Path,
}

#[derive(Serialize)]
struct StatDocument {
    schema: u32,
    size: Option<u64>,
    retrievals_left: Option<u32>,
    expires_in_seconds: Option<f64>,
}

#[derive(Serialize)]
struct ReleaseDocument {
    schema: u32,
    released: usize,
}

pub(crate) async fn run(command: Command, running: &Running, output: Output) -> Result<Outcome, Failure> {
    let client = running.client()?;
    match command {
        Command::Put(arguments) => put(&client, arguments, output).await,
        Command::Get(arguments) => get(&client, arguments, output).await,
        Command::Stat(arguments) => stat(&client, &arguments.reference, output).await,
        Command::Release(arguments) => release(&client, &arguments.references, output).await,
    }
}

async fn put(client: &Client, arguments: Put, output: Output) -> Result<Outcome, Failure> {
    let payload = read_payload(arguments.file).await?;
    let size = payload.len() as u64;
    let payload = match &arguments.content_type {
        Some(content_type) => payload.with_content_type(content_type),
        None => payload,
    };
    let options = PutOptions { retrievals: arguments.retrievals, ttl: arguments.ttl };
    let receipt = client.put_with_receipt(payload, options).await?;
    let document = PutDocument {
        schema: SCHEMA,
        size,
        expires_in_seconds: receipt.expires.map(seconds_from_now),
        guaranteed_for_seconds: receipt.guaranteed_until.map(seconds_from_now),
        reference: receipt.reference,
    };
    if !output.json {
        let expiry =
            document.expires_in_seconds.map(|left| format!(", expires in {}", format::seconds(left))).unwrap_or_default();
        output.note(&format!("{} held for {} retrieval(s){expiry}", format::bytes(size), arguments.retrievals));
    }
    output.result(&document, || document.reference.to_string())
}

async fn get(client: &Client, arguments: Get, output: Output) -> Result<Outcome, Failure> {
    if output.json && arguments.output.is_none() {
        let failure = Failure::new(Exit::Usage, "usage", "`object get --json` has two results, the document and the bytes");
        return Err(failure.hint("give the bytes a place with --output FILE"));
    }
    let reference = Reference::from_token(arguments.reference);
    let payload = match arguments.range {
        Some(range) => client.get_range(&reference, range).await?,
        None => client.get(&reference).await?,
    };
    let Some(path) = arguments.output else { return write_out(&payload).map(|()| Outcome::Yes) };
    let document =
        GetDocument { schema: SCHEMA, size: payload.len() as u64, content_type: payload.content_type(), output: &path };
    let written = File::create(&path).and_then(|mut file| file.write_all(&payload));
    written.map_err(|error| Failure::system(format_args!("the file {}", path.display()), &error))?;
    output.result(&document, || format!("{} written to {}", format::bytes(document.size), path.display()))
}

async fn stat(client: &Client, reference: &str, output: Output) -> Result<Outcome, Failure> {
    let stat = client.stat(&Reference::from_token(reference)).await?;
    let document = StatDocument {
        schema: SCHEMA,
        size: stat.size_bytes,
        retrievals_left: stat.retrievals_left,
        expires_in_seconds: stat.expires.map(seconds_from_now),
    };
    output.result(&document, || {
        let or = |text: Option<String>, otherwise: &str| text.unwrap_or_else(|| otherwise.to_owned());
        format!(
            "Size:        {}\nRetrievals:  {}\nExpires:     {}\n",
            or(document.size.map(|size| format!("{} ({size} B)", format::bytes(size))), "still being written"),
            or(document.retrievals_left.map(|left| format!("{left} left")), "without limit"),
            or(document.expires_in_seconds.map(|left| format!("in {}", format::seconds(left))), "never"),
        )
    })
}

async fn release(client: &Client, references: &[String], output: Output) -> Result<Outcome, Failure> {
    for reference in references {
        client.release(&Reference::from_token(reference)).await?;
    }
    let document = ReleaseDocument { schema: SCHEMA, released: references.len() };
    output.result(&document, || format!("{} released", document.released))
}

/// A file, or standard input, as a payload: read straight into the memory that becomes the object.
pub(crate) async fn read_payload(file: PathBuf) -> Result<Payload, Failure> {
    let read = move || -> Result<Payload, Failure> {
        let named = |error: io::Error| Failure::system(format_args!("the file {}", file.display()), &error);
        let mut source: Box<dyn Read> = match file.as_os_str().to_str() {
            Some("-") => Box::new(io::stdin().lock()),
            _ => Box::new(File::open(&file).map_err(named)?),
        };
        let mut writer = PayloadWriter::new()?;
        let mut buffer = vec![0; READ_BYTES];
        loop {
            match source.read(&mut buffer) {
                Ok(0) => return Ok(writer.finish()?),
                Ok(read) => writer.write_all(&buffer[..read]).map_err(named)?,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(named(error)),
            }
        }
    };
    tokio::task::spawn_blocking(read).await.map_err(|error| Failure::system("reading the payload", &io::Error::other(error)))?
}

fn seconds_from_now(time: SystemTime) -> f64 {
    time.duration_since(SystemTime::now()).unwrap_or_default().as_secs_f64()
}

/// Reads digits with `ms`, `s`, `m` or `h`.
fn parse_duration(text: &str) -> Result<Duration, String> {
    let end = text.bytes().position(|byte| !byte.is_ascii_digit()).unwrap_or(text.len());
    let (digits, unit) = text.split_at(end);
    let number: u64 = digits.parse().map_err(|_| "expected digits with ms, s, m or h".to_owned())?;
    let milliseconds: u64 = match unit {
        "ms" => 1,
        "" | "s" => 1000,
        "m" => 60_000,
        "h" => 3_600_000,
        other => return Err(format!("unit `{other}`, expected ms, s, m or h")),
    };
    number.checked_mul(milliseconds).map(Duration::from_millis).ok_or_else(|| "too long".to_owned())
}

fn parse_range(text: &str) -> Result<ByteRange, String> {
    let (first, last) = text.split_once('-').ok_or("expected FIRST-LAST")?;
    let number = |text: &str| text.parse::<u64>().map_err(|_| format!("`{text}` is not a byte's number"));
    let (first, last) = (number(first)?, number(last)?);
    let length = last.checked_sub(first).and_then(|more| more.checked_add(1));
    length.map(|length| ByteRange { first, length }).ok_or_else(|| format!("the last byte, {last}, is before the first, {first}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_and_ranges_are_read_and_what_is_none_is_refused() {
        let times: Vec<_> = ["250ms", "30s", "5m", "1h", "7"].iter().map(|text| parse_duration(text)).collect();
        let expected = [250, 30_000, 300_000, 3_600_000, 7000].map(|ms| Ok(Duration::from_millis(ms)));
        assert_eq!(times, expected);
        for text in ["", "s", "5d", "-1s", "99999999999999999999h"] {
            assert!(parse_duration(text).is_err(), "{text}");
        }
        assert_eq!(parse_range("0-0"), Ok(ByteRange { first: 0, length: 1 }));
        assert_eq!(parse_range("10-19"), Ok(ByteRange { first: 10, length: 10 }));
        for text in ["", "5", "5-4", "a-b", "0-18446744073709551615"] {
            assert!(parse_range(text).is_err(), "{text}");
        }
    }
}
