"""Plain HTTP/1.1: methods, framing, bodies, connection handling."""
import hashlib
import json
import threading
import time

import pytest

from backend import BLOCK
from client import Raw, ask, chunked, request, timed


def inspect(*a, **k):
    r = ask(*a, **k)
    assert r.status == 200, r
    d = json.loads(r.body)
    d["h"] = {}
    for n, v in d["headers"]:
        d["h"].setdefault(n.lower(), []).append(v)
    return d


@pytest.mark.parametrize("method", ["GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "PROPFIND", "get"])
def test_methods_pass_unchanged(proxy, backend, method):
    ask("/m", method)
    assert backend.seen("/m")[0].method == method


def test_head_has_headers_but_no_body(proxy, backend):
    with Raw() as c:
        c.send(request("/inspect", "HEAD") + request("/inspect"))
        r = c.response("HEAD")
        assert r.status == 200 and int(r.get("content-length")) > 100
        assert c.response().status == 200  # the connection is still in step


@pytest.mark.accidental
def test_options_star_is_answered_by_the_proxy(proxy, backend):
    r = ask("*", "OPTIONS")
    assert (r.status, r.body) == (200, b"")
    assert not backend.requests


@pytest.mark.parametrize("target", ["/inspect?a=1;b=2&c", "/inspect?q=%2F%20+x", "/inspect?%zz=%"])
def test_query_is_not_touched(proxy, backend, target):
    assert inspect(target)["target"] == target


@pytest.mark.parametrize("target", ["//a/../inspect", "/a%2Fb", "/a;p=1/b", "/%E2%82%AC", "/a//b/./c"])
def test_path_is_not_normalised(proxy, backend, target):
    ask(target)
    assert backend.requests[-1].target == target


def test_absolute_form_target_sets_host(proxy, backend):
    d = inspect("http://other.example/inspect")
    assert d["target"] == "/inspect" and d["h"]["host"] == ["other.example"]


@pytest.mark.parametrize("code", [200, 201, 202, 204, 206, 301, 302, 304, 400, 401, 404, 409, 418, 429, 500, 502, 503, 504, 599])
def test_status_codes_pass(proxy, backend, code):
    r = ask(f"/status?code={code}")
    assert r.status == code and r.get("x-code") == str(code)


@pytest.mark.accidental
def test_reason_phrase_is_replaced(proxy, backend):
    backend.routes["/r"] = lambda c, r: (c.body(r), c.reply(200, b"x", reason="Fine by me"))[1]
    assert ask("/r").reason == "OK"


@pytest.mark.accidental
def test_unknown_status_codes_pass(proxy, backend):
    backend.routes["/r"] = lambda c, r: c.reply(299, b"x")
    backend.routes["/s"] = lambda c, r: c.reply(999, b"x")
    assert ask("/r").status == 299 and ask("/s").status == 999


def test_content_length_body_up_keeps_its_framing(proxy, backend):
    d = inspect("/inspect", "POST", body=b"hello")
    assert d["length"] == 5 and d["h"]["content-length"] == ["5"] and "transfer-encoding" not in d["h"]


def test_chunked_body_up_stays_chunked(proxy, backend):
    d = inspect("/inspect", "POST", [("Transfer-Encoding", "chunked")], chunked(b"ab", b"cde"))
    assert d["length"] == 5 and d["h"]["transfer-encoding"] == ["chunked"] and "content-length" not in d["h"]


def test_empty_chunked_body_up_stays_chunked(proxy, backend):
    d = inspect("/inspect", "POST", [("Transfer-Encoding", "chunked")], chunked())
    assert d["length"] == 0 and d["h"]["transfer-encoding"] == ["chunked"]


@pytest.mark.accidental
def test_post_without_body_gets_content_length_zero(proxy, backend):
    assert inspect("/inspect", "POST")["h"]["content-length"] == ["0"]


def test_get_without_body_has_no_framing_headers(proxy, backend):
    d = inspect("/inspect")
    assert not {"content-length", "transfer-encoding"} & set(d["h"])


def test_get_with_body_passes(proxy, backend):
    assert inspect("/inspect", "GET", body=b"abc")["length"] == 3


def test_chunked_reply_arrives_piece_by_piece(proxy, backend):
    """Nothing of a chunked reply waits for the next piece."""
    gate = threading.Semaphore(0)

    def h(c, r):
        c.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        for i in range(3):
            c.chunk(b"piece%d" % i)
            gate.acquire(timeout=10)
        c.send(b"0\r\n\r\n")

    backend.routes["/p"] = h
    with Raw() as c:
        c.send(request("/p"))
        r = c.head()
        assert r.get("transfer-encoding") == "chunked"
        for i in range(3):
            assert c.line() == b"6" and c.exactly(6) == b"piece%d" % i and c.line() == b""
            gate.release()
        assert c.line() == b"0"


def test_event_stream_is_flushed_even_with_a_length(proxy, backend):
    gate = threading.Event()

    def h(c, r):
        c.send("HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nContent-Length: 20\r\n\r\ndata: 1\n\n.")
        gate.wait(10)
        c.send(b"data: 2\n\n.")

    backend.routes["/p"] = h
    with Raw() as c:
        c.send(request("/p"))
        c.head()
        assert c.exactly(10) == b"data: 1\n\n."
        gate.set()
        assert c.exactly(10) == b"data: 2\n\n."


@pytest.mark.accidental
@pytest.mark.differs("The head and first bytes of a response")
def test_small_reply_with_a_length_is_buffered_until_complete(proxy, backend):
    """Head and first bytes of a Content-Length reply wait in a 4 KiB buffer."""
    gate = threading.Event()

    def h(c, r):
        c.send("HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 20\r\n\r\n0123456789")
        gate.wait(10)
        c.send(b"0123456789")

    backend.routes["/p"] = h
    with Raw() as c:
        c.send(request("/p"))
        assert c.silent(0.5)
        gate.set()
        assert c.response().body == b"0123456789" * 2


def test_request_body_is_streamed_up(proxy, backend):
    """The user container sees the first part while the client still holds back the rest."""
    got = threading.Event()

    def h(c, r):
        c.body(r, each=lambda d: got.set())
        c.reply(200, b"done")

    backend.routes["/up"] = h
    with Raw() as c:
        c.send("POST /up HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n")
        assert got.wait(5)
        c.send("0\r\n\r\n")
        assert c.response().body == b"done"


@pytest.mark.bug
@pytest.mark.differs("Request trailers are announced and dropped")
def test_request_trailers_are_announced_but_lost(proxy, backend):
    d = inspect("/inspect", "POST", [("Transfer-Encoding", "chunked"), ("Trailer", "X-T")],
                chunked(b"ab", trailers=[("X-T", "v"), ("X-U", "u")]))
    assert d["h"]["trailer"] == ["X-T"] and d["trailers"] == []


@pytest.mark.parametrize("announce", [True, False])
def test_response_trailers_pass_announced_or_not(proxy, backend, announce):
    def h(c, r):
        t = "Trailer: X-End\r\n" if announce else ""
        c.send(f"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n{t}\r\n3\r\nabc\r\n0\r\nX-End: 1\r\n\r\n")

    backend.routes["/t"] = h
    r = ask("/t")
    assert r.trailers == [("X-End", "1")] and (r.get("trailer") == "X-End") == announce


def test_reply_until_close_becomes_chunked(proxy, backend):
    backend.routes["/c"] = lambda c, r: (c.send("HTTP/1.1 200 OK\r\n\r\nuntil close"), False)[1]
    r = ask("/c")
    assert r.framing == "chunked" and r.body == b"until close" and r.clean


def test_http10_user_container(proxy, backend):
    backend.routes["/c"] = lambda c, r: (c.send("HTTP/1.0 200 OK\r\n\r\nold"), False)[1]
    r = ask("/c")
    assert (r.version, r.status, r.body) == ("HTTP/1.1", 200, b"old")


def test_http10_client_is_served_and_closed(proxy, backend):
    with Raw() as c:
        c.send("GET /inspect HTTP/1.0\r\n\r\n")
        r = c.response()
        assert r.status == 200 and c.eof()
    assert backend.requests[-1].get("host") == "127.0.0.1:8080"  # Go fills in the upstream address


def test_connection_is_reused_by_the_client(proxy, backend):
    with Raw() as c:
        for i in range(50):
            c.send(request("/echo", "POST", body=b"x%d" % i))
            assert c.response().body == b"x%d" % i


def test_connections_to_the_user_container_are_reused(proxy, backend):
    first = inspect()["conn"] if False else json.loads(ask("/inspect").body)["conn"]
    assert {json.loads(ask("/inspect").body)["conn"] for _ in range(10)} == {first}


def test_connection_close_from_the_client(proxy, backend):
    with Raw() as c:
        c.send(request("/inspect", headers=[("Connection", "close")]))
        r = c.response()
        assert r.get("connection") == "close" and c.eof()
    assert "connection" not in {k.lower() for k, _ in backend.requests[-1].headers}


def test_pipelined_requests_are_answered_in_order(proxy, backend):
    with Raw() as c:
        c.send(b"".join(request("/echo", "POST", body=b"n%d" % i) for i in range(10)))
        assert [c.response().body for _ in range(10)] == [b"n%d" % i for i in range(10)]


@pytest.mark.accidental
def test_pipelined_requests_run_one_after_another(proxy, backend):
    with Raw() as c:
        c.send(request("/hold") * 3)
        for i in range(3):
            backend.until(lambda: backend.holding == 1)
            time.sleep(0.1)
            assert backend.holding == 1
            backend.release()
            assert c.response().body == b"held"


def test_100_concurrent_requests_without_limit(proxy, backend):
    cs = [Raw() for _ in range(100)]
    for c in cs:
        c.send(request("/hold"))
    backend.until(lambda: backend.holding == 100)
    backend.release(100)
    assert all(c.response().status == 200 for c in cs)
    for c in cs:
        c.s.close()


@pytest.mark.parametrize("framing", ["length", "chunked"])
def test_256_mib_up_is_streamed_with_bounded_memory(proxy, backend, framing):
    n, size = 4096, len(BLOCK)
    sha = hashlib.sha256()
    proxy.reset_peak()
    before = proxy.rss()
    with Raw(timeout=60) as c:
        if framing == "length":
            c.send(f"POST /sink HTTP/1.1\r\nHost: a\r\nContent-Length: {n * size}\r\n\r\n")
        else:
            c.send("POST /sink HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n")
        for _ in range(n):
            sha.update(BLOCK)
            c.send(BLOCK if framing == "length" else b"%x\r\n%s\r\n" % (size, BLOCK))
        if framing == "chunked":
            c.send("0\r\n\r\n")
        d = json.loads(c.response().body)
    assert d == {"length": n * size, "sha": sha.hexdigest()}
    assert proxy.peak_rss() - before < 32 << 20


@pytest.mark.parametrize("path", ["/bytes?n=268435456", "/stream?n=4096&size=65536"])
def test_256_mib_down_is_streamed_with_bounded_memory(proxy, backend, path):
    proxy.reset_peak()
    before = proxy.rss()
    sha, total = hashlib.sha256(), 0
    with Raw(timeout=60) as c:
        c.send(request(path))
        r = c.head()
        left = int(r.get("content-length") or 0)
        while left:
            if not c.buf:
                c.fill()
            d = bytes(c.buf[:left])
            c.buf.clear()
            sha.update(d)
            total += len(d)
            left -= len(d)
        if r.get("transfer-encoding"):
            while n := int(c.line(), 16):
                d = c.exactly(n)
                sha.update(d)
                total += n
                c.line()
    want = hashlib.sha256()
    for _ in range(4096):
        want.update(BLOCK)
    assert total == 256 << 20 and sha.hexdigest() == want.hexdigest()
    assert proxy.peak_rss() - before < 32 << 20


def test_slow_reader_stops_the_user_container(proxy, backend):
    """Back-pressure: with a client that does not read, only socket buffers fill."""
    sent = [0]

    def h(c, r):
        c.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        while sent[0] < 512 << 20:
            c.chunk(BLOCK)
            sent[0] += len(BLOCK)

    backend.routes["/flood"] = h
    proxy.reset_peak()
    before = proxy.rss()
    with Raw() as c:
        c.send(request("/flood"))
        last = -1
        while last != sent[0]:
            last = sent[0]
            time.sleep(0.5)
        assert 0 < last < 64 << 20
        assert proxy.peak_rss() - before < 32 << 20
    backend.until(lambda: "/flood" in backend.aborted)


def test_client_that_goes_away_cancels_the_request(proxy, backend):
    with Raw() as c:
        c.send(request("/hold"))
        backend.until(lambda: backend.holding == 1)
        n = backend.closed_conns
    # the connection to the user container is closed by the proxy: seen when the handler next touches it
    def gone(c, r):
        c.fill()
    backend.routes["/wait"] = gone
    with Raw() as c:
        c.send(request("/wait"))
        backend.seen("/wait")
    backend.until(lambda: "/wait" in backend.aborted)


# -- Expect: 100-continue -------------------------------------------------------------------

def post_expect(c, path, n=3):
    c.send(f"POST {path} HTTP/1.1\r\nHost: a\r\nContent-Length: {n}\r\nExpect: 100-continue\r\n\r\n")


def test_100_continue_is_passed_from_the_user_container(proxy, backend):
    def h(c, r):
        c.send("HTTP/1.1 100 Continue\r\n\r\n")
        c.reply(200, c.body(r))

    backend.routes["/e"] = h
    with Raw() as c:
        post_expect(c, "/e")
        assert c.line() == b"HTTP/1.1 100 Continue" and c.line() == b""
        c.send("abc")
        r = c.response()
        assert (r.status, r.body, r.info) == (200, b"abc", [])
    assert backend.requests[-1].get("expect") == "100-continue"


@pytest.mark.accidental
def test_100_continue_is_made_up_after_one_second(proxy, backend):
    with Raw() as c:
        post_expect(c, "/echo")
        _, t = timed(c.line)
        assert 0.8 < t < 2.5
        c.line()
        c.send("abc")
        assert c.response().body == b"abc"


@pytest.mark.bug
def test_refusal_instead_of_100_continue_is_a_race(proxy, backend):
    """A 413 without a 100 either comes back at once with `Connection: close`, or is withheld until the
    client sends its body anyway. Both are seen within a few tries."""
    backend.routes["/e"] = lambda c, r: c.reply(413, b"too big")
    out = set()
    for _ in range(40):
        with Raw(timeout=0.5) as c:
            post_expect(c, "/e", 1000)
            try:
                r = c.response()
                assert (r.status, r.body, r.info) == (413, b"too big", []) and r.get("connection") == "close"
                out.add("refused")
            except TimeoutError:
                out.add("withheld")
        if len(out) == 2:
            break
    assert "refused" in out


@pytest.mark.bug
@pytest.mark.differs("After `100 Continue` or `103 Early Hints`")
def test_status_after_100_continue_is_lost(proxy, backend):
    """The user metrics recorder takes the 100 for the status: a 404 after it reaches the client as 200."""
    def h(c, r):
        c.send("HTTP/1.1 100 Continue\r\n\r\n")
        c.body(r)
        c.reply(404, b"nope")

    backend.routes["/e"] = h
    with Raw() as c:
        post_expect(c, "/e")
        c.line(), c.line()
        c.send("abc")
        r = c.response()
        assert (r.status, r.body) == (200, b"nope")


@pytest.mark.bug
@pytest.mark.differs("After `100 Continue` or `103 Early Hints`")
def test_status_after_early_hints_is_lost(proxy, backend):
    def h(c, r):
        c.send("HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n")
        c.reply(404, b"nope")

    backend.routes["/e"] = h
    r = ask("/e")
    assert [i.status for i in r.info] == [103] and r.info[0].get("link") == "</a>"
    assert (r.status, r.body) == (200, b"nope")


def test_unknown_expectation_is_417(proxy, backend):
    r = ask("/x", "POST", [("Expect", "banana")], b"abc")
    assert (r.status, r.body) == (417, b"") and r.get("connection") == "close" and not backend.requests


# -- replying before the request body was read ------------------------------------------------

def early(c, r):
    c.reply(413, b"too big", [("Connection", "close")])
    return False


def push(c, n):
    c.send(f"POST /early HTTP/1.1\r\nHost: a\r\nContent-Length: {n}\r\n\r\n")
    sent = 0
    with pytest.raises(OSError):
        while sent < n:
            c.send(BLOCK)
            sent += len(BLOCK)
    return sent


def test_early_reply_to_a_pushing_client(proxy, backend):
    """The client gets the early reply; its connection is closed before all was taken."""
    backend.routes["/early"] = lambda c, r: (c.reply(413, b"too big"), c.body(r, keep=False))[0]
    with Raw() as c:
        assert push(c, 1_000_000_000) < 400_000_000
        r = c.response()
        assert (r.status, r.body) == (413, b"too big") and r.get("connection") == "close"


@pytest.mark.accidental
def test_early_reply_and_close_to_a_pushing_client(proxy, backend):
    """If the user container also closes, the write error may win over the reply: 413 or 502."""
    backend.routes["/early"] = early
    with Raw() as c:
        push(c, 100_000_000)
        assert c.response().status in (413, 502)


@pytest.mark.accidental
@pytest.mark.differs("Without full duplex, nothing of a response is sent")
def test_early_reply_waits_for_a_client_that_pauses(proxy, backend):
    """Without full duplex nothing is sent down while the body is open and under 256 KiB."""
    backend.routes["/early"] = lambda c, r: (c.reply(413, b"too big"), c.body(r))[1] and None
    with Raw() as c:
        c.send("POST /early HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nab")
        assert c.silent(1.0)
        c.send("cde")
        assert c.response().status == 413


def duplex(c, r):
    c.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
    c.body(r, each=c.chunk)
    c.send(b"0\r\n\r\n")


@pytest.mark.accidental
@pytest.mark.differs("Without full duplex, nothing of a response is sent")
def test_half_duplex_by_default(proxy, backend):
    backend.routes["/duplex"] = duplex
    with Raw() as c:
        c.send("POST /duplex HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n")
        assert c.silent(1.0)
        c.send("5\r\nworld\r\n0\r\n\r\n")
        assert c.response().body == b"helloworld"


def test_full_duplex_when_annotated(start, backend):
    start(ENABLE_HTTP_FULL_DUPLEX=True)
    backend.routes["/duplex"] = duplex
    with Raw() as c:
        c.send("POST /duplex HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n")
        assert c.head().status == 200
        for w in (b"hello", b"again", b"world"):
            assert (c.line(), c.exactly(5), c.line()) == (b"5", w, b"")
            c.send({b"hello": "5\r\nagain\r\n", b"again": "5\r\nworld\r\n", b"world": "0\r\n\r\n"}[w])
        assert c.line() == b"0"


@pytest.mark.accidental
@pytest.mark.differs("With full duplex, a response that fits")
def test_full_duplex_still_withholds_a_short_early_reply(start, backend):
    """A reply that fits the write buffer waits for the body even then (a chunked one does not, see above)."""
    start(ENABLE_HTTP_FULL_DUPLEX=True)
    backend.routes["/early"] = lambda c, r: (c.reply(413, b"too big"), c.body(r))[0]
    with Raw() as c:
        c.send("POST /early HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nab")
        assert c.silent(1.0)
        c.send("cde")
        assert c.response().status == 413


def test_no_content_reply_drops_a_body(proxy, backend):
    backend.routes["/n"] = lambda c, r: (c.send("HTTP/1.1 204 No\r\nContent-Length: 3\r\n\r\nabc"), False)[1]
    with Raw() as c:
        c.send(request("/n") + request("/inspect"))
        assert c.response().status == 204 and c.response().status == 200


def test_reply_longer_than_its_length_is_cut(proxy, backend):
    backend.routes["/n"] = lambda c, r: (c.send("HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nabcdef"), False)[1]
    with Raw() as c:
        c.send(request("/n") + request("/inspect"))
        assert c.response().body == b"abc" and c.response().status == 200


# -- what Zipline's does otherwise -------------------------------------------------------------


@pytest.mark.ours
def test_first_bytes_of_a_small_reply_with_a_length_leave_at_once(proxy, backend):
    gate = threading.Event()

    def h(c, r):
        c.send("HTTP/1.1 200 OK\r\nContent-Length: 20\r\n\r\n0123456789")
        gate.wait(10)
        c.send(b"0123456789")

    backend.routes["/p"] = h
    with Raw() as c:
        c.send(request("/p"))
        assert c.head().status == 200 and c.exactly(10) == b"0123456789"
        gate.set()
        assert c.exactly(10) == b"0123456789"


@pytest.mark.ours
@pytest.mark.parametrize("announce", [True, False])
def test_request_trailers_pass(proxy, backend, announce):
    head = [("Transfer-Encoding", "chunked")] + ([("Trailer", "X-T")] if announce else [])
    d = inspect("/inspect", "POST", head, chunked(b"ab", trailers=[("X-T", "v"), ("X-U", "u")]))
    assert d["trailers"] == [["X-T", "v"], ["X-U", "u"]] and ("trailer" in d["h"]) == announce


@pytest.mark.ours
def test_status_after_100_continue_is_kept(proxy, backend):
    def h(c, r):
        c.send("HTTP/1.1 100 Continue\r\n\r\n")
        c.body(r)
        c.reply(404, b"nope")

    backend.routes["/e"] = h
    with Raw() as c:
        post_expect(c, "/e")
        assert c.line() == b"HTTP/1.1 100 Continue" and c.line() == b""
        c.send("abc")
        r = c.response()
        assert (r.status, r.body) == (404, b"nope")


@pytest.mark.ours
def test_early_hints_pass_and_the_status_after_them_is_kept(proxy, backend):
    def h(c, r):
        c.send("HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n")
        c.reply(404, b"nope")

    backend.routes["/e"] = h
    r = ask("/e")
    assert [i.status for i in r.info] == [103] and r.info[0].get("link") == "</a>"
    assert (r.status, r.body) == (404, b"nope")


@pytest.mark.ours
def test_refusal_instead_of_100_continue_comes_at_once_every_time(proxy, backend):
    backend.routes["/e"] = lambda c, r: c.reply(413, b"too big")
    for _ in range(20):
        with Raw(timeout=5) as c:
            post_expect(c, "/e", 1000)
            r = c.response()
            assert (r.status, r.body, r.info) == (413, b"too big", []) and r.get("connection") == "close"


@pytest.mark.ours
def test_early_reply_does_not_wait_for_a_client_that_pauses(proxy, backend):
    """Little of the body is owed: the connection goes on once it has come."""
    backend.routes["/early"] = lambda c, r: (c.reply(413, b"too big"), c.body(r))[1] and None
    with Raw() as c:
        c.send("POST /early HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nab")
        r = c.response()
        assert r.status == 413 and r.get("connection") is None
        c.send(b"cde" + request("/inspect"))
        assert c.response().status == 200


@pytest.mark.ours
def test_a_response_may_begin_before_the_request_has_ended(proxy, backend):
    """Nobody knows how much is still to come, so the client is told that the connection will end."""
    backend.routes["/duplex"] = duplex
    with Raw() as c:
        c.send("POST /duplex HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n")
        r = c.head()
        assert r.status == 200 and r.get("connection") == "close"
        assert (c.line(), c.exactly(5), c.line()) == (b"5", b"hello", b"")
        c.send("5\r\nworld\r\n0\r\n\r\n")
        assert (c.line(), c.exactly(5), c.line()) == (b"5", b"world", b"")
        assert c.line() == b"0"
