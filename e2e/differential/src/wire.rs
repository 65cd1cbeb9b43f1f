//! Connections where every byte is said and seen, and functions by script.

use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::transcript::{Transcript, header, shown};

/// How long anything may take before a case gives up on it.
pub(crate) const PATIENCE: Duration = Duration::from_secs(15);
/// One more request, to see whether a connection goes on; no function writes it down.
const AGAIN: &str = "GET /again HTTP/1.1\r\nHost: a\r\n\r\n";

/// One end of a connection.
pub(crate) struct Peer {
    stream: TcpStream,
    received: Vec<u8>,
}

/// The first line and the headers of a message.
#[derive(Clone, Debug)]
pub(crate) struct Head {
    pub(crate) first: String,
    pub(crate) headers: Vec<(String, String)>,
}

impl Head {
    pub(crate) fn get(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(other, _)| other.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str())
    }

    /// Whether it is the request that only asks whether a connection goes on.
    pub(crate) fn is_again(&self) -> bool {
        self.first.contains(" /again ")
    }

    fn status(&self) -> u16 {
        self.first.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or(0)
    }

    /// Its lines, headers in order of their names.
    fn note(&self, who: &str, transcript: &Transcript) {
        transcript.note(format!("{who}: {}", self.first));
        let mut headers = self.headers.clone();
        headers.sort_by_key(|(name, _)| name.to_ascii_lowercase());
        for (name, value) in headers {
            transcript.note(format!("{who}: {}", header(&name, &value)));
        }
    }
}

/// How a body ended.
enum BodyEnd {
    Whole,
    Closed,
    Reset,
}

impl Peer {
    pub(crate) fn connect(address: SocketAddr) -> Result<Self> {
        Self::of(TcpStream::connect(address).with_context(|| address.to_string())?)
    }

    fn of(stream: TcpStream) -> Result<Self> {
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        stream.set_nodelay(true)?;
        Ok(Self { stream, received: Vec::new() })
    }

    /// Sends, if the other side still takes anything.
    pub(crate) fn send(&mut self, bytes: impl AsRef<[u8]>) {
        // Whether it was taken shows in what comes back.
        drop(self.stream.write_all(bytes.as_ref()));
    }

    /// Ends this side.
    pub(crate) fn finish(&self) {
        drop(self.stream.shutdown(Shutdown::Write));
    }

    /// Ends the connection at once, as a peer that died does.
    pub(crate) fn cut(self) {
        drop(self.stream.shutdown(Shutdown::Both));
    }

    fn fill(&mut self) -> io::Result<usize> {
        let mut buffer = [0; 64 * 1024];
        let n = self.stream.read(&mut buffer)?;
        self.received.extend_from_slice(&buffer[..n]);
        Ok(n)
    }

    /// Reads a line; `None` at the end.
    pub(crate) fn line(&mut self) -> Result<Option<String>> {
        loop {
            if let Some(at) = self.received.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = self.received.drain(..=at).collect();
                return Ok(Some(String::from_utf8_lossy(&line).trim_end_matches(['\r', '\n']).to_owned()));
            }
            match self.fill() {
                Ok(0) => return Ok(None),
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::ConnectionReset => return Ok(None),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => bail!("nothing came"),
                Err(error) => bail!("no line came: {error}"),
            }
        }
    }

    /// Reads a head; `None` if the connection ends instead.
    pub(crate) fn head(&mut self) -> Result<Option<Head>> {
        let Some(first) = self.line()? else { return Ok(None) };
        let mut headers = Vec::new();
        loop {
            match self.line()? {
                None => return Ok(None),
                Some(line) if line.is_empty() => return Ok(Some(Head { first, headers })),
                Some(line) => {
                    let (name, value) = line.split_once(':').unwrap_or((&line, ""));
                    headers.push((name.to_owned(), value.trim().to_owned()));
                }
            }
        }
    }

    /// Reads exactly so many bytes, or fewer at the end.
    pub(crate) fn exactly(&mut self, bytes: usize) -> Vec<u8> {
        while self.received.len() < bytes && matches!(self.fill(), Ok(1..)) {}
        let bytes = bytes.min(self.received.len());
        self.received.drain(..bytes).collect()
    }

    fn until_end(&mut self) -> (Vec<u8>, BodyEnd) {
        loop {
            match self.fill() {
                Ok(0) => return (std::mem::take(&mut self.received), BodyEnd::Closed),
                Ok(_) => {}
                Err(_) => return (std::mem::take(&mut self.received), BodyEnd::Reset),
            }
        }
    }

    /// Reads the body that a head announces, with its trailers.
    fn body(&mut self, head: &Head, has_none: bool) -> Result<(Vec<u8>, Vec<String>, BodyEnd)> {
        if has_none {
            return Ok((Vec::new(), Vec::new(), BodyEnd::Whole));
        }
        if head.get("transfer-encoding").is_some_and(|coding| coding.eq_ignore_ascii_case("chunked")) {
            return self.chunks();
        }
        let is_request = !head.first.starts_with("HTTP/");
        match head.get("content-length").and_then(|length| length.parse().ok()) {
            Some(length) => {
                let body = self.exactly(length);
                let end = if body.len() == length { BodyEnd::Whole } else { BodyEnd::Closed };
                Ok((body, Vec::new(), end))
            }
            None if is_request => Ok((Vec::new(), Vec::new(), BodyEnd::Whole)),
            None => {
                let (body, end) = self.until_end();
                Ok((body, Vec::new(), end))
            }
        }
    }

    fn chunks(&mut self) -> Result<(Vec<u8>, Vec<String>, BodyEnd)> {
        let mut body = Vec::new();
        loop {
            let Some(line) = self.line()? else { return Ok((body, Vec::new(), BodyEnd::Closed)) };
            let size = usize::from_str_radix(line.split(';').next().unwrap_or_default().trim(), 16);
            let Ok(size) = size else { return Ok((body, vec![format!("bad chunk {line:?}")], BodyEnd::Closed)) };
            if size == 0 {
                break;
            }
            let chunk = self.exactly(size);
            let is_cut = chunk.len() < size;
            body.extend(chunk);
            if is_cut || self.line()?.is_none() {
                return Ok((body, Vec::new(), BodyEnd::Closed));
            }
        }
        let mut trailers = Vec::new();
        while let Some(line) = self.line()? {
            if line.is_empty() {
                trailers.sort();
                return Ok((body, trailers, BodyEnd::Whole));
            }
            trailers.push(line);
        }
        Ok((body, trailers, BodyEnd::Closed))
    }

    /// Reads the answer to a request and writes it down; answers whether the connection may go on.
    pub(crate) fn answer(&mut self, method: &str, transcript: &Transcript) -> Result<bool> {
        loop {
            let Some(head) = self.head()? else {
                transcript.note("client: the connection ended without an answer");
                return Ok(false);
            };
            head.note("client", transcript);
            let status = head.status();
            if (100..200).contains(&status) && status != 101 {
                continue;
            }
            let has_none = method == "HEAD" || matches!(status, 101 | 204 | 304);
            let (body, trailers, end) = self.body(&head, has_none)?;
            transcript.note(format!("client: body {}", shown(&body)));
            trailers.into_iter().for_each(|line| transcript.note(format!("client: trailer {line}")));
            let is_announced = has_none || head.get("content-length").is_some() || head.get("transfer-encoding").is_some();
            match end {
                BodyEnd::Whole => {}
                BodyEnd::Closed if is_announced => transcript.note("client: the body was cut"),
                BodyEnd::Closed => transcript.note("client: the end of the connection ended the body"),
                BodyEnd::Reset => transcript.note("client: the connection was reset"),
            }
            return Ok(matches!(end, BodyEnd::Whole) && !head.get("connection").is_some_and(|c| c.contains("close")));
        }
    }

    /// Sends a request, and writes its answer down.
    pub(crate) fn ask(&mut self, request: &str, transcript: &Transcript) -> Result<bool> {
        self.send(request);
        self.answer(request.split(' ').next().unwrap_or_default(), transcript)
    }

    /// Writes down whether the connection goes on, which one more request shows.
    pub(crate) fn note_end(&mut self, transcript: &Transcript) -> Result<()> {
        self.send(AGAIN);
        transcript.note(match self.line()? {
            None => "client: the connection is closed".to_owned(),
            Some(line) if line.starts_with("HTTP/1.") => "client: the connection stays open".to_owned(),
            Some(line) => format!("client: and then {line:?}"),
        });
        Ok(())
    }

    /// Writes down what comes until the other side ends the connection.
    pub(crate) fn note_rest(&mut self, transcript: &Transcript) {
        let (rest, _) = self.until_end();
        transcript.note(match rest.is_empty() {
            true => "client: the connection is closed".to_owned(),
            false => format!("client: and then {}", shown(&rest)),
        });
    }

    /// Answers 200 with a body.
    pub(crate) fn reply(&mut self, body: &str) {
        self.send(format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\nContent-Type: text/plain\r\n\r\n{body}", body.len()));
    }

    /// Reads a request with its body and writes it down; `None` at the end.
    pub(crate) fn request(&mut self, transcript: &Transcript) -> Result<Option<Head>> {
        let Some(head) = self.head()? else { return Ok(None) };
        if head.is_again() {
            return Ok(Some(head));
        }
        head.note("function", transcript);
        let (body, trailers, end) = self.body(&head, false)?;
        transcript.note(format!("function: body {}", shown(&body)));
        trailers.into_iter().for_each(|line| transcript.note(format!("function: trailer {line}")));
        if !matches!(end, BodyEnd::Whole) {
            transcript.note("function: the body was cut");
        }
        Ok(Some(head))
    }
}

/// A function: what it does with each connection is the case's.
pub(crate) struct Function {
    pub(crate) port: u16,
    is_over: Arc<AtomicBool>,
}

impl Function {
    /// Gives each connection to `serve`, on a thread of its own.
    pub(crate) fn with_connections(serve: impl Fn(Peer) + Send + Sync + 'static) -> Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        let port = listener.local_addr()?.port();
        let is_over = Arc::new(AtomicBool::new(false));
        let (over, serve) = (Arc::clone(&is_over), Arc::new(serve));
        std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                if over.load(Ordering::SeqCst) {
                    break;
                }
                let serve = Arc::clone(&serve);
                if let Ok(peer) = Peer::of(stream) {
                    std::thread::spawn(move || serve(peer));
                }
            }
        });
        Ok(Self { port, is_over })
    }

    /// Writes each request down, and gives it to `answer`.
    pub(crate) fn with_requests(
        transcript: &Transcript,
        answer: impl Fn(&mut Peer, &Head) + Send + Sync + 'static,
    ) -> Result<Self> {
        let transcript = transcript.clone();
        Self::with_connections(move |mut peer| {
            while let Ok(Some(head)) = peer.request(&transcript) {
                answer(&mut peer, &head);
            }
        })
    }

    /// Gives each request to `answer`, unwritten and with its body unread.
    pub(crate) fn with_heads(answer: impl Fn(&mut Peer, &Head) + Send + Sync + 'static) -> Result<Self> {
        Self::with_connections(move |mut peer| {
            while let Ok(Some(head)) = peer.head() {
                answer(&mut peer, &head);
            }
        })
    }

    /// Writes each request down and answers it with `ok`.
    pub(crate) fn echo(transcript: &Transcript) -> Result<Self> {
        Self::with_requests(transcript, |peer, _| peer.reply("ok"))
    }
}

impl Drop for Function {
    fn drop(&mut self) {
        self.is_over.store(true, Ordering::SeqCst);
        drop(TcpStream::connect((Ipv4Addr::LOCALHOST, self.port))); // Wakes the accepting thread.
    }
}
