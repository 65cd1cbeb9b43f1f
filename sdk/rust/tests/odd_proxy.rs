//! The SDK against a local API that misbehaves: a scripted peer that says exactly what each test wants it to.
#![forbid(unsafe_code)]

use std::net::Ipv4Addr;
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt, Interest};
use tokio::net::{UnixListener, UnixStream};
use tokio::time::timeout;
use zipline_sdk::{Client, Config, Endpoint, PutOptions, Reference, Response, Server};
use zipline_sys::fd_passing;
use zipline_testkit::Scratch;

const LIMIT: Duration = Duration::from_secs(10);

/// A local API under the test's control.
struct Script {
    listener: UnixListener,
    client: Client,
    _scratch: Scratch,
}

impl Script {
    fn new() -> Self {
        let scratch = Scratch::new().expect("a scratch folder");
        let path: PathBuf = scratch.join("api");
        let listener = UnixListener::bind(&path).expect("bound");
        let client = Client::new(Config::new(Endpoint::Unix(path)));
        Self { listener, client, _scratch: scratch }
    }

    async fn accept(&self) -> UnixStream {
        timeout(LIMIT, self.listener.accept()).await.expect("in time").expect("accepted").0
    }

    /// Answers the client's first question, what the proxy is, and leaves that connection open.
    async fn introduce(&self) -> UnixStream {
        let mut stream = self.accept().await;
        assert!(head(&mut stream).await.starts_with("GET /v1 "));
        let body = json!({"version": 1, "features": ["descriptors"], "inline_threshold_bytes": 100, "heap_threshold_bytes": 100});
        respond(&mut stream, "200 OK", "", &body.to_string()).await;
        stream
    }

    /// Accepts a connection and switches it to descriptor messages.
    async fn channel(&self) -> UnixStream {
        let mut stream = self.accept().await;
        let head = head(&mut stream).await;
        assert!(head.starts_with("GET /v1/descriptors ") && head.contains("Upgrade: zipline-descriptors/1\r\n"), "{head}");
        let switched = "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: zipline-descriptors/1\r\n\r\n";
        stream.write_all(switched.as_bytes()).await.expect("written");
        stream
    }
}

async fn head(stream: &mut UnixStream) -> String {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(timeout(LIMIT, stream.read_u8()).await.expect("in time").expect("a request's head"));
    }
    String::from_utf8(head).expect("a head is text")
}

async fn respond(stream: &mut UnixStream, status: &str, headers: &str, body: &str) {
    let answer = format!("HTTP/1.1 {status}\r\n{headers}Content-Length: {}\r\n\r\n{body}", body.len());
    stream.write_all(answer.as_bytes()).await.expect("written");
}

async fn message(stream: &mut UnixStream) -> Value {
    let length = timeout(LIMIT, stream.read_u32()).await.expect("in time").expect("a message");
    let mut body = vec![0; length as usize];
    stream.read_exact(&mut body).await.expect("a whole message");
    serde_json::from_slice(&body).expect("a message is JSON")
}

fn framed(message: &Value) -> Vec<u8> {
    let body = message.to_string();
    [&(body.len() as u32).to_be_bytes()[..], body.as_bytes()].concat()
}

async fn is_closed(mut stream: UnixStream) -> bool {
    let mut rest = Vec::new();
    timeout(LIMIT, stream.read_to_end(&mut rest)).await.expect("in time").expect("read");
    rest.is_empty()
}

#[tokio::test]
async fn a_descriptor_without_seals_is_not_mapped_and_its_lease_is_given_back() {
    let script = Script::new();
    let reference = Reference::from_token("zl1.any");
    let peer = async {
        let _first = script.introduce().await;
        let mut channel = script.channel().await;
        let asked = message(&mut channel).await;
        assert_eq!((&asked["op"], &asked["reference"]), (&json!("get"), &json!("zl1.any")));
        let told = framed(&json!({"id": asked["id"], "ok": true, "lease": 1, "size": 4}));
        let file = zipline_sys::Memfd::create("unsealed").expect("a memfd");
        file.write_all_at(b"abcd", 0).expect("written");
        let send = || fd_passing::send(&channel, &told, Some(file.as_fd()));
        channel.async_io(Interest::WRITABLE, send).await.expect("sent");
        assert!(is_closed(channel).await, "no accept was sent");
    };
    let (got, ()) = tokio::join!(script.client.get(&reference), peer);
    let error = got.expect_err("refused");
    assert_eq!(error.name(), "protocol");
    assert!(error.to_string().contains("lacks seals"), "{error}");
}

#[tokio::test]
async fn answers_that_make_no_sense_are_errors_and_close_the_channel() {
    type Answer = fn(&Value) -> Vec<u8>;
    let cases: [(&str, Answer); 5] = [
        ("to message 77", |_| framed(&json!({"id": 77, "ok": true}))),
        ("bytes announced", |_| 70_000u32.to_be_bytes().to_vec()),
        ("no lease", |asked| framed(&json!({"id": asked["id"], "ok": true, "inline": ""}))),
        ("5 bytes announced, 1 came", |asked| {
            framed(&json!({"id": asked["id"], "ok": true, "lease": 1, "size": 5, "inline": "YQ=="}))
        }),
        ("expected", |_| [&3u32.to_be_bytes()[..], b"[1]"].concat()),
    ];
    for (words, answer) in cases {
        let script = Script::new();
        let reference = Reference::from_token("zl1.any");
        let peer = async {
            let _first = script.introduce().await;
            let mut channel = script.channel().await;
            let asked = message(&mut channel).await;
            channel.write_all(&answer(&asked)).await.expect("written");
            assert!(is_closed(channel).await, "{words}");
        };
        let (got, ()) = tokio::join!(script.client.get(&reference), peer);
        let error = got.expect_err(words);
        assert_eq!(error.name(), "protocol", "{words}");
        assert!(error.to_string().contains(words), "{error}");
    }
}

#[tokio::test]
async fn a_get_that_is_dropped_closes_its_channel_and_so_gives_its_lease_back() {
    let script = Script::new();
    let reference = Reference::from_token("zl1.any");
    let peer = async {
        let _first = script.introduce().await;
        let mut channel = script.channel().await;
        message(&mut channel).await;
        channel
    };
    let channel = tokio::select! {
        got = script.client.get(&reference) => panic!("nothing was answered, got {got:?}"),
        channel = peer => channel,
    };
    assert!(is_closed(channel).await);
}

#[tokio::test]
async fn a_channel_that_the_proxy_closed_while_idle_is_replaced_unseen() {
    let script = Script::new();
    let reference = Reference::from_token("zl1.any");
    let serve_one = async |channel: &mut UnixStream| {
        let asked = message(channel).await;
        let told = json!({"id": asked["id"], "ok": true, "lease": {"any": "shape"}, "size": 1, "inline": "YQ==", "new": 1});
        channel.write_all(&framed(&told)).await.expect("written");
        let accepted = message(channel).await;
        assert_eq!((&accepted["op"], &accepted["lease"]), (&json!("accept"), &json!({"any": "shape"})));
        channel.write_all(&framed(&json!({"id": accepted["id"], "ok": true}))).await.expect("written");
    };
    let peer = async {
        let first = script.introduce().await;
        let mut channel = script.channel().await;
        serve_one(&mut channel).await;
        (first, channel)
    };
    let (got, (_first, channel)) = tokio::join!(script.client.get(&reference), peer);
    assert_eq!(&got.expect("read")[..], b"a");
    drop(channel);
    let peer = async {
        let mut channel = script.channel().await;
        serve_one(&mut channel).await;
    };
    let (got, ()) = tokio::join!(script.client.get(&reference), peer);
    assert_eq!(&got.expect("read over a new channel")[..], b"a");
}

#[tokio::test]
async fn a_pooled_connection_that_has_ended_costs_a_new_one_and_no_error() {
    let script = Script::new();
    let created =
        json!({"reference": "zl1.x", "size": 1, "expires": "2100-01-01T00:00:00.000Z", "guaranteed_until": null}).to_string();
    for _ in 0..2 {
        let peer = async {
            // The first round begins with the introduction; both puts come on the pooled connection, or on a new one.
            let mut stream = script.accept().await;
            loop {
                let head = head(&mut stream).await;
                if head.starts_with("GET /v1 ") {
                    respond(&mut stream, "200 OK", "", &json!({"version": 1, "features": []}).to_string()).await;
                    continue;
                }
                assert!(head.starts_with("POST /v1/objects?retrievals=1 "), "{head}");
                assert_eq!(stream.read_u8().await.expect("the body"), b'a');
                respond(&mut stream, "201 Created", "", &created).await;
                return; // Closes the connection without a word.
            }
        };
        let (put, ()) = tokio::join!(script.client.put("a", PutOptions::default()), peer);
        assert_eq!(put.expect("put").as_str(), "zl1.x");
    }
}

#[tokio::test]
async fn an_error_that_is_no_problem_body_and_a_success_that_is_no_json_are_told_apart() {
    let script = Script::new();
    let reference = Reference::from_token("zl1.any");
    let peer = async {
        let mut stream = script.accept().await;
        assert!(head(&mut stream).await.starts_with("HEAD "));
        respond(&mut stream, "410 Gone", "Zipline-Error: reference-expired\r\n", "").await;
        assert!(head(&mut stream).await.starts_with("DELETE "));
        respond(&mut stream, "500 Internal Server Error", "", "oops").await;
        assert!(head(&mut stream).await.starts_with("POST /v1/references/narrow "));
        respond(&mut stream, "200 OK", "", "oops").await;
    };
    let asked = async {
        let stat = script.client.stat(&reference).await.expect_err("expired");
        assert_eq!((stat.name(), stat.code().is_some()), ("reference-expired", true));
        assert_eq!(script.client.release(&reference).await.expect_err("500").name(), "protocol");
        let narrow = script.client.narrow(&reference, &zipline_sdk::Narrow::default()).await;
        assert_eq!(narrow.expect_err("no JSON").name(), "protocol");
    };
    tokio::join!(peer, asked);
}

#[tokio::test]
async fn a_serving_function_registers_anew_when_its_proxy_has_restarted() {
    let script = Script::new();
    let server = Server::bind((Ipv4Addr::LOCALHOST, 0).into(), script.client.clone()).await.expect("bound");
    let peer = async {
        let _first = script.introduce().await;
        for _ in 0..3 {
            let mut channel = script.channel().await;
            let asked = message(&mut channel).await;
            assert_eq!(asked["op"], "serve");
            channel.write_all(&framed(&json!({"id": asked["id"], "ok": true}))).await.expect("written");
            // Dropped: the proxy is gone.
        }
    };
    let answer = |_| async { Ok(Response::ok("")) };
    server.serve(answer, peer).await.expect("served until the script was over");
}
