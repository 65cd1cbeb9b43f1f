//! A queue-proxy as a process, raw connections, and functions by script.

use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::ExitStatus;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use zipline_contract::doors;
use zipline_testkit::{Loopback, Program, Scratch, Started};

/// How long anything may take before a test gives up.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

const PROGRAM: &str = env!("CARGO_BIN_EXE_zipline-queue-proxy");

/// A queue-proxy on an address of its own.
pub(crate) struct Proxy {
    process: Started,
    own: Loopback,
    _scratch: Scratch,
}

impl Proxy {
    /// Starts the proxy of a function at `port`, with these variables on top of quiet defaults.
    pub(crate) fn start(port: u16, variables: &[(&str, &str)]) -> Self {
        let mut proxy = Self::launch(port, variables);
        let admin = proxy.at(doors::ADMIN);
        until("the proxy listens", || {
            let exit = proxy.process.try_ended().expect("a process that can be waited for");
            assert!(exit.is_none(), "the proxy ended at its start: {exit:?}\n{}", proxy.process.stderr());
            TcpStream::connect(admin).ok()
        });
        proxy
    }

    /// Starts it where it is expected to end at once.
    pub(crate) fn launch(port: u16, variables: &[(&str, &str)]) -> Self {
        let own = Loopback::claim().expect("an address");
        Self::launch_at(own, port, variables)
    }

    /// The same at a given address.
    pub(crate) fn launch_at(own: Loopback, port: u16, variables: &[(&str, &str)]) -> Self {
        let scratch = Scratch::new().expect("a scratch directory");
        let mut program = Program::at("zipline-queue-proxy", Path::new(PROGRAM));
        for (name, value) in defaults(&own, port, &scratch) {
            program = program.env(name, value);
        }
        for (name, value) in variables {
            program = program.env(name, *value);
        }
        let process = program.start(&scratch).expect("a process");
        Self { process, own, _scratch: scratch }
    }

    /// One of its ports.
    pub(crate) fn at(&self, port: u16) -> SocketAddr {
        self.own.port(port)
    }

    /// Its request port.
    pub(crate) fn requests(&self) -> SocketAddr {
        self.at(doors::REQUEST_HTTP1)
    }

    /// A connection to its request port.
    pub(crate) fn client(&self) -> Peer {
        Peer::connect(self.requests())
    }

    /// One request on a connection of its own.
    pub(crate) fn ask(&self, request: &str) -> Answer {
        let mut client = self.client();
        client.send(request);
        client.answer()
    }

    /// `GET` at one of its ports.
    pub(crate) fn get(&self, port: u16, path: &str) -> Answer {
        let mut client = Peer::connect(self.at(port));
        client.send(format!("GET {path} HTTP/1.1\r\nHost: a\r\n\r\n"));
        client.answer()
    }

    /// A probe as the kubelet sends it.
    pub(crate) fn probe(&self) -> Answer {
        self.ask("GET / HTTP/1.1\r\nHost: a\r\nUser-Agent: kube-probe/1.34\r\nK-Network-Probe: queue\r\n\r\n")
    }

    /// A field of its `/zipline/status`.
    pub(crate) fn status(&self, field: &str) -> serde_json::Value {
        let answer = self.get(doors::ADMIN, "/zipline/status");
        let mut status: serde_json::Value = serde_json::from_slice(&answer.body).expect("JSON");
        status[field].take()
    }

    /// Sends it a signal.
    pub(crate) fn signal(&self, signal: &str) {
        let sent = std::process::Command::new("kill").args([signal, &self.process.pid().to_string()]).status();
        assert!(sent.expect("kill").success());
    }

    /// Whether it still runs.
    pub(crate) fn runs(&mut self) -> bool {
        self.process.try_ended().expect("a process that can be waited for").is_none()
    }

    /// Waits for its end.
    pub(crate) fn ended(&mut self) -> ExitStatus {
        until("the proxy ends", || self.process.try_ended().expect("a process that can be waited for"))
    }

    /// What it wrote to standard output.
    pub(crate) fn stdout(&self) -> String {
        self.process.stdout()
    }

    /// What it wrote to standard error.
    pub(crate) fn stderr(&self) -> String {
        self.process.stderr()
    }
}

fn defaults(own: &Loopback, port: u16, scratch: &Scratch) -> Vec<(&'static str, String)> {
    let text = |path: &str| scratch.join(path).to_string_lossy().into_owned();
    vec![
        ("SERVING_NAMESPACE", "default".into()),
        ("SERVING_SERVICE", "shop".into()),
        ("SERVING_CONFIGURATION", "shop".into()),
        ("SERVING_REVISION", "shop-00001".into()),
        ("SERVING_POD", "shop-00001-abc".into()),
        ("SERVING_POD_IP", own.ip().to_string()),
        ("QUEUE_SERVING_PORT", doors::REQUEST_HTTP1.to_string()),
        ("QUEUE_SERVING_TLS_PORT", doors::REQUEST_TLS.to_string()),
        ("USER_PORT", port.to_string()),
        ("CONTAINER_CONCURRENCY", "0".into()),
        ("REVISION_TIMEOUT_SECONDS", "300".into()),
        ("SERVING_LOGGING_CONFIG", String::new()),
        ("SERVING_LOGGING_LEVEL", String::new()),
        ("ZIPLINE_BIND", own.ip().to_string()),
        ("ZIPLINE_API_PORT", "0".into()),
        ("ZIPLINE_EGRESS_PORT", "0".into()),
        ("ZIPLINE_API_SOCKET", text("api")),
        ("ZIPLINE_KEYS_FILE", text("no-keys")),
        ("ZIPLINE_DRAIN_QUIET_SECONDS", "0".into()),
    ]
}

/// Waits until something is there.
pub(crate) fn until<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < deadline, "it did not come to pass in {PATIENCE:?}: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Waits until something holds.
pub(crate) fn until_holds(what: &str, mut holds: impl FnMut() -> bool) {
    until(what, || holds().then_some(()));
}

/// The first line and the headers of a message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Head {
    pub(crate) first: String,
    pub(crate) headers: Vec<(String, String)>,
}

impl Head {
    /// A header's value, by name in lower case.
    pub(crate) fn get(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(other, _)| other.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str())
    }

    /// The status of a response.
    pub(crate) fn status(&self) -> u16 {
        self.first.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or_else(|| panic!("no status in {self:?}"))
    }
}

/// A complete response.
#[derive(Clone, Debug)]
pub(crate) struct Answer {
    pub(crate) head: Head,
    pub(crate) body: Vec<u8>,
}

impl Answer {
    pub(crate) fn status(&self) -> u16 {
        self.head.status()
    }

    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
}

/// One end of a connection, where every byte is said and seen.
pub(crate) struct Peer {
    stream: TcpStream,
    received: Vec<u8>,
}

impl Peer {
    pub(crate) fn connect(address: SocketAddr) -> Self {
        Self::of(TcpStream::connect(address).unwrap_or_else(|error| panic!("{address}: {error}")))
    }

    fn of(stream: TcpStream) -> Self {
        stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
        stream.set_write_timeout(Some(PATIENCE)).expect("a timeout");
        stream.set_nodelay(true).expect("an option");
        Self { stream, received: Vec::new() }
    }

    pub(crate) fn send(&mut self, bytes: impl AsRef<[u8]>) {
        self.stream.write_all(bytes.as_ref()).expect("a connection that takes bytes");
    }

    /// Sends, if the other side still takes anything.
    pub(crate) fn try_send(&mut self, bytes: impl AsRef<[u8]>) -> io::Result<()> {
        self.stream.write_all(bytes.as_ref())
    }

    /// Ends this side.
    pub(crate) fn finish(&self) {
        self.stream.shutdown(std::net::Shutdown::Write).expect("a connection that can be ended");
    }

    fn fill(&mut self) -> io::Result<usize> {
        let mut buffer = [0; 64 * 1024];
        let n = self.stream.read(&mut buffer)?;
        self.received.extend_from_slice(&buffer[..n]);
        Ok(n)
    }

    /// Whether the other side has ended the connection, politely or not, and nothing more came.
    pub(crate) fn is_ended(&mut self) -> bool {
        match self.fill() {
            Ok(n) => n == 0 && self.received.is_empty(),
            Err(error) => matches!(error.kind(), io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe),
        }
    }

    /// Reads a line, or `None` at the end.
    pub(crate) fn try_line(&mut self) -> Option<String> {
        loop {
            if let Some(at) = self.received.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = self.received.drain(..=at).collect();
                return Some(String::from_utf8_lossy(&line).trim_end().to_owned());
            }
            match self.fill() {
                Ok(1..) => {}
                Ok(0) => return None,
                Err(error) if error.kind() == io::ErrorKind::ConnectionReset => return None,
                Err(error) => panic!("no line came: {error}; {:?}", String::from_utf8_lossy(&self.received)),
            }
        }
    }

    pub(crate) fn line(&mut self) -> String {
        self.try_line().expect("a line before the end")
    }

    pub(crate) fn exactly(&mut self, bytes: usize) -> Vec<u8> {
        while self.received.len() < bytes {
            let n = self.fill().expect("bytes in time");
            assert!(n > 0, "the end after {:?}", String::from_utf8_lossy(&self.received));
        }
        self.received.drain(..bytes).collect()
    }

    /// Reads everything until the end; false if the connection was reset.
    pub(crate) fn rest(&mut self) -> (Vec<u8>, bool) {
        loop {
            match self.fill() {
                Ok(0) => return (std::mem::take(&mut self.received), true),
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::ConnectionReset => {
                    return (std::mem::take(&mut self.received), false);
                }
                Err(error) => panic!("the connection did not end: {error}"),
            }
        }
    }

    /// Reads a head; `None` if the connection ends instead.
    pub(crate) fn try_head(&mut self) -> Option<Head> {
        let first = self.try_line()?;
        let mut headers = Vec::new();
        loop {
            let line = self.try_line()?;
            if line.is_empty() {
                return Some(Head { first, headers });
            }
            let (name, value) = line.split_once(':').unwrap_or_else(|| panic!("{line:?} is no header"));
            headers.push((name.to_owned(), value.trim().to_owned()));
        }
    }

    pub(crate) fn head(&mut self) -> Head {
        self.try_head().expect("a head before the end")
    }

    /// Reads one chunk; empty for the last.
    pub(crate) fn chunk(&mut self) -> Vec<u8> {
        let size = usize::from_str_radix(&self.line(), 16).expect("a chunk's size");
        let payload = self.exactly(size);
        if size > 0 {
            assert_eq!(self.line(), "");
        }
        payload
    }

    /// Reads the body that a head announces.
    pub(crate) fn body(&mut self, head: &Head) -> Vec<u8> {
        if head.get("transfer-encoding") == Some("chunked") {
            let mut body = Vec::new();
            loop {
                let chunk = self.chunk();
                if chunk.is_empty() {
                    assert_eq!(self.line(), "");
                    return body;
                }
                body.extend(chunk);
            }
        }
        let length = head.get("content-length").map_or(0, |length| length.parse().expect("a length"));
        self.exactly(length)
    }

    pub(crate) fn answer(&mut self) -> Answer {
        let head = self.head();
        let body = self.body(&head);
        Answer { head, body }
    }

    /// Answers 200 with a body.
    pub(crate) fn reply(&mut self, body: &str) {
        self.send(format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len()));
    }
}

/// A function: what it does with each connection is the test's.
pub(crate) struct Function {
    pub(crate) port: u16,
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    is_over: AtomicBool,
    connections: AtomicUsize,
    ended: AtomicUsize,
}

impl Function {
    /// Gives each connection to `serve`, on a thread of its own.
    pub(crate) fn with_connections(serve: impl Fn(Peer) + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
        let port = listener.local_addr().expect("an address").port();
        let (shared, serve) = (Arc::new(Shared::default()), Arc::new(serve));
        let function = Self { port, shared: Arc::clone(&shared) };
        std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                if shared.is_over.load(Ordering::SeqCst) {
                    break;
                }
                shared.connections.fetch_add(1, Ordering::SeqCst);
                let (serve, shared) = (Arc::clone(&serve), Arc::clone(&shared));
                std::thread::spawn(move || {
                    serve(Peer::of(stream));
                    shared.ended.fetch_add(1, Ordering::SeqCst);
                });
            }
        });
        function
    }

    /// Gives each request's head to `answer`, connection by connection.
    pub(crate) fn with_requests(answer: impl Fn(&mut Peer, Head) + Send + Sync + 'static) -> Self {
        Self::with_connections(move |mut peer| {
            while let Some(head) = peer.try_head() {
                answer(&mut peer, head);
            }
        })
    }

    /// Answers every request with `ok`, after its body.
    pub(crate) fn ok() -> Self {
        Self::with_requests(|peer, head| {
            peer.body(&head);
            peer.reply("ok");
        })
    }

    /// Connections it has closed.
    pub(crate) fn ended(&self) -> usize {
        self.shared.ended.load(Ordering::SeqCst)
    }

    /// Connections it has accepted.
    pub(crate) fn connections(&self) -> usize {
        self.shared.connections.load(Ordering::SeqCst)
    }
}

impl Drop for Function {
    fn drop(&mut self) {
        self.shared.is_over.store(true, Ordering::SeqCst);
        drop(TcpStream::connect((Ipv4Addr::LOCALHOST, self.port))); // Wakes the accepting thread.
    }
}

/// A port on which nobody listens.
pub(crate) fn silent_port() -> u16 {
    zipline_testkit::free_port().expect("a port")
}
