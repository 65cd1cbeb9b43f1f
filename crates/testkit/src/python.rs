//! Functions written in stock Python: a process of their own, which knows nothing of Zipline.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};
use tokio::net::TcpStream;

use crate::{Program, Scratch, Started, free_port, wait};

/// A function of `http.server` that answers every POST with the body's SHA-256, size and the request's headers as JSON; it reads
/// in pieces, so that it can be killed in the middle. Listens on `$PORT`.
pub const PYTHON_SHA256: &str = r#"
import hashlib, http.server, json, os

class Function(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        self.answer(b"ready")

    def do_POST(self):
        total = hashlib.sha256()
        size = 0
        for piece in self.pieces():
            total.update(piece)
            size += len(piece)
        headers = {name.lower(): value for name, value in self.headers.items()}
        self.answer(json.dumps({"sha256": total.hexdigest(), "size": size, "headers": headers, "pid": os.getpid()}).encode())

    def pieces(self):
        if "chunked" in self.headers.get("Transfer-Encoding", ""):
            while True:
                left = int(self.rfile.readline().split(b";")[0], 16)
                if left == 0:
                    while self.rfile.readline().strip():
                        pass
                    return
                yield self.rfile.read(left)
                self.rfile.readline()
        left = int(self.headers.get("Content-Length", 0))
        while left > 0:
            piece = self.rfile.read(min(left, 1 << 20))
            if not piece:
                return
            left -= len(piece)
            yield piece

    def answer(self, body):
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass

http.server.ThreadingHTTPServer.request_queue_size = 128
http.server.ThreadingHTTPServer(("127.0.0.1", int(os.environ["PORT"])), Function).serve_forever()
"#;

const START_LIMIT: Duration = Duration::from_secs(20);

/// A running Python function.
#[derive(Debug)]
pub struct PythonFunction {
    /// Its process.
    pub process: Started,
    port: u16,
}

impl PythonFunction {
    /// Starts a script and waits until it listens on the port it was given as `PORT`.
    pub async fn start(scratch: &Scratch, script: &str, environment: &[(&str, &str)]) -> Result<Self> {
        let port = free_port()?;
        let path = scratch.write(&format!("function-{port}.py"), script)?;
        let mut program =
            Program::at("python", Path::new("/usr/bin/env")).args(["python3", "-u"]).arg(path).env("PORT", port.to_string());
        for (variable, value) in environment {
            program = program.env(variable, value);
        }
        let process = program.start(scratch)?;
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        let connects =
            wait::until("the Python function to listen", START_LIMIT, async || Ok(TcpStream::connect(address).await?), |_| true);
        connects.await.with_context(|| process.tail())?;
        Ok(Self { process, port })
    }

    /// Its port on 127.0.0.1.
    pub fn port(&self) -> u16 {
        self.port
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Payload, Target, http as client};

    #[tokio::test]
    async fn a_python_function_sums_what_it_got() {
        let scratch = Scratch::new().unwrap();
        let function = PythonFunction::start(&scratch, PYTHON_SHA256, &[]).await.unwrap();
        let target = Target::Tcp((Ipv4Addr::LOCALHOST, function.port()).into());
        let payload = Payload::new(3_000_001, 5);
        let answer = client::send(&target, http::Request::post("/").body(payload.body()).unwrap()).await.unwrap();
        assert_eq!(answer.json().unwrap()["sha256"], payload.sha256());
    }
}
