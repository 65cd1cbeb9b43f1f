"""Headers: what is passed, added, removed, in both directions."""
import json

import pytest

from client import ask


def up(headers=(), target="/inspect", **k):
    d = json.loads(ask(target, headers=headers, **k).body)
    h = {}
    for n, v in d["headers"]:
        h.setdefault(n.lower(), []).append(v)
    return h


def test_only_host_and_xff_reach_the_user_container(proxy, backend):
    assert up() == {"host": ["shop.default.example.com"], "x-forwarded-for": ["127.0.0.1"]}


def test_end_to_end_headers_pass(proxy, backend):
    hs = [("Accept", "*/*"), ("Accept-Encoding", "br, gzip"), ("Authorization", "Bearer x"), ("Cookie", "a=1; b=2"),
          ("User-Agent", "me/1"), ("X-Request-Id", "7"), ("Ce-Id", "1"), ("Prefer", "reply")]
    h = up(hs)
    for k, v in hs:
        assert h[k.lower()] == [v]


def test_repeated_headers_keep_their_order(proxy, backend):
    assert up([("X-A", "1"), ("X-B", "x"), ("X-A", "2"), ("x-a", "3")])["x-a"] == ["1", "2", "3"]


@pytest.mark.accidental
@pytest.mark.differs("Header names are sorted")
def test_names_are_canonicalised_and_sorted(proxy, backend):
    ask("/x", headers=[("x-zz", "1"), ("x-lower", "1"), ("X-UPPER-case", "2")])
    names = [k for k, _ in backend.requests[-1].headers]
    assert [n for n in names if n[:2] == "X-"] == ["X-Forwarded-For", "X-Lower", "X-Upper-Case", "X-Zz"]


def test_no_user_agent_is_invented(proxy, backend):
    assert "user-agent" not in up() and "accept-encoding" not in up()


def test_hop_by_hop_headers_are_removed_upstream(proxy, backend):
    h = up([("Connection", "keep-alive, X-Hop"), ("X-Hop", "1"), ("Keep-Alive", "5"), ("Proxy-Authorization", "x"),
            ("Proxy-Connection", "x"), ("TE", "gzip")])
    assert not {"connection", "x-hop", "keep-alive", "proxy-authorization", "proxy-connection", "te"} & set(h)


def test_te_trailers_passes(proxy, backend):
    assert up([("TE", "trailers")])["te"] == ["trailers"]


def test_hop_by_hop_headers_are_removed_downstream(proxy, backend):
    backend.routes["/h"] = lambda c, r: c.reply(200, b"x", [
        ("Connection", "keep-alive, X-Hop"), ("X-Hop", "1"), ("Keep-Alive", "timeout=5"), ("Upgrade", "foo"),
        ("Proxy-Authenticate", "Basic"), ("Server", "me"), ("Set-Cookie", "a=1"), ("Set-Cookie", "b=2"),
        ("Date", "Mon, 01 Jan 2024 00:00:00 GMT"), ("Content-Type", "a/b")])
    r = ask("/h")
    assert {k.lower() for k, _ in r.headers} == {"content-length", "date", "server", "set-cookie", "content-type"}
    assert r.all("set-cookie") == ["a=1", "b=2"] and r.get("date") == "Mon, 01 Jan 2024 00:00:00 GMT"
    assert r.get("server") == "me"


@pytest.mark.accidental
def test_date_is_added_when_missing(proxy, backend):
    assert ask("/x").get("date").endswith("GMT")


@pytest.mark.accidental
@pytest.mark.parametrize("body,ct", [(b"<html>x</html>", "text/html; charset=utf-8"), (b"plain", "text/plain; charset=utf-8"),
                                     (b"\x00\x01\x02", "application/octet-stream"), (b'{"a":1}', "text/plain; charset=utf-8")])
@pytest.mark.differs("A `Content-Type` is guessed")
def test_content_type_is_guessed_when_missing(proxy, backend, body, ct):
    backend.routes["/c"] = lambda c, r: c.reply(200, body)
    assert ask("/c").get("content-type") == ct


@pytest.mark.accidental
def test_no_guess_for_encoded_or_empty_bodies(proxy, backend):
    backend.routes["/c"] = lambda c, r: c.reply(200, b"\x1f\x8b1", [("Content-Encoding", "gzip")])
    backend.routes["/d"] = lambda c, r: c.reply(200, b"")
    assert ask("/c").get("content-type") is None and ask("/d").get("content-type") is None


def test_compressed_bodies_are_not_touched(proxy, backend):
    backend.routes["/c"] = lambda c, r: c.reply(200, b"\x1f\x8bnot really", [("Content-Encoding", "gzip")])
    for hs in ([], [("Accept-Encoding", "gzip")]):
        r = ask("/c", headers=hs)
        assert r.body == b"\x1f\x8bnot really" and r.get("content-encoding") == "gzip"


def test_activator_headers_are_removed(proxy, backend):
    h = up([("Knative-Serving-Revision", "shop-00001"), ("Knative-Serving-Namespace", "default")])
    assert not any(k.startswith("knative-serving") for k in h)


@pytest.mark.parametrize("name", ["K-Proxy-Request", "K-Passthrough-Lb", "K-Network-Hash", "Knative-Serving-Tag",
                                  "Knative-Serving-Default-Route"])
def test_other_knative_headers_are_not_removed(proxy, backend, name):
    assert up([(name, "v")])[name.lower()] == ["v"]


def test_original_host_is_restored(proxy, backend):
    h = up([("K-Original-Host", "shop.example.com")])
    assert h["host"] == ["shop.example.com"] and "k-original-host" not in h


def test_original_host_is_restored_with_a_breaker(start, backend):
    start(CONTAINER_CONCURRENCY=1)
    assert up([("K-Original-Host", "shop.example.com"), ("K-Proxy-Request", "activator")])["host"] == ["shop.example.com"]


def test_xff_is_appended(proxy, backend):
    assert up([("X-Forwarded-For", "1.2.3.4"), ("X-Forwarded-For", "5.6.7.8")])["x-forwarded-for"] == \
        ["1.2.3.4, 5.6.7.8, 127.0.0.1"]


def test_xfp_and_xfh_pass_and_are_not_made(proxy, backend):
    h = up([("X-Forwarded-Proto", "https"), ("X-Forwarded-Host", "h")])
    assert h["x-forwarded-proto"] == ["https"] and h["x-forwarded-host"] == ["h"]
    assert not {"x-forwarded-proto", "x-forwarded-host", "forwarded"} & set(up())


@pytest.mark.parametrize("xff,xfp,xfh,want", [
    ("1.2.3.4", None, None, "for=1.2.3.4"),
    ("1.2.3.4", "https", "h.example", "for=1.2.3.4;host=h.example;proto=https"),
    ("1.2.3.4, 5.6.7.8", "https", None, "for=1.2.3.4;proto=https, for=5.6.7.8"),
    (None, "https", "h", "host=h;proto=https"),
    (None, "http", None, "proto=http"),
    ("2001:db8::1", None, None, 'for="[2001:db8::1]"'),
    ("1.2.3.4:80", None, None, 'for="[1.2.3.4:80]"'),
    ("unknown,,x", None, None, "for=unknown, for=, for=x"),
])
def test_forwarded_is_made_from_x_forwarded(proxy, backend, xff, xfp, xfh, want):
    hs = [(k, v) for k, v in (("X-Forwarded-For", xff), ("X-Forwarded-Proto", xfp), ("X-Forwarded-Host", xfh)) if v]
    assert up(hs)["forwarded"] == [want]


def test_forwarded_is_kept_when_present(proxy, backend):
    assert up([("Forwarded", "for=9.9.9.9"), ("X-Forwarded-For", "1.2.3.4")])["forwarded"] == ["for=9.9.9.9"]


@pytest.mark.accidental
def test_forwarded_uses_only_the_first_xff_line(proxy, backend):
    assert up([("X-Forwarded-For", "1.2.3.4"), ("X-Forwarded-For", "5.6.7.8")])["forwarded"] == ["for=1.2.3.4"]


def test_trace_context_passes_unchanged_without_tracing(proxy, backend):
    tp = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    h = up([("traceparent", tp), ("tracestate", "a=b"), ("baggage", "k=v"), ("b3", "x"), ("X-B3-TraceId", "1")])
    assert (h["traceparent"], h["tracestate"], h["baggage"], h["b3"]) == ([tp], ["a=b"], ["k=v"], ["x"])


def test_no_trace_context_is_made_up(proxy, backend):
    assert not {"traceparent", "tracestate", "baggage"} & set(up())


@pytest.mark.accidental
def test_an_invalid_traceparent_passes(proxy, backend):
    assert up([("traceparent", "garbage")]).get("traceparent") == ["garbage"]


@pytest.mark.parametrize("n", [8_000, 64_000, 500_000, 1_040_000])
def test_large_request_headers_pass(proxy, backend, n):
    assert len(up([("X-Big", "a" * n)])["x-big"][0]) == n


@pytest.mark.accidental
def test_request_headers_over_1_mib_are_431(proxy, backend):
    r = ask("/x", headers=[("X-Big", "a" * 1_060_000)])
    assert (r.status, r.body) == (431, b"431 Request Header Fields Too Large") and r.get("connection") == "close"
    assert not backend.requests


def test_400_headers_pass(proxy, backend):
    h = up([(f"X-N{i}", str(i)) for i in range(400)])
    assert sum(k.startswith("x-n") for k in h) == 400


@pytest.mark.accidental
def test_more_than_500_headers_are_431(proxy, backend):
    """A limit of recent Go releases (seen with 1.27); older toolchains pass them."""
    r = ask("/x", headers=[(f"X-N{i}", str(i)) for i in range(600)])
    assert r.status == 431 and not backend.requests


def test_large_response_headers_pass(proxy, backend):
    backend.routes["/h"] = lambda c, r: c.send("HTTP/1.1 200 OK\r\nX: " + "a" * 2_000_000 + "\r\nContent-Length: 0\r\n\r\n")
    assert len(ask("/h").get("x")) == 2_000_000


@pytest.mark.accidental
def test_response_headers_over_10_mib_are_502(proxy, backend):
    backend.routes["/h"] = lambda c, r: (c.send("HTTP/1.1 200 OK\r\nX: " + "a" * 11_000_000 + "\r\n\r\n"), False)[1]
    r = ask("/h")
    assert r.status == 502 and b"server response headers exceeded 10485760 bytes" in r.body


@pytest.mark.accidental
@pytest.mark.differs("Folded header lines are joined")
def test_folded_header_lines_are_joined(proxy, backend):
    from client import Raw
    with Raw() as c:
        c.send("GET /x HTTP/1.1\r\nHost: a\r\nX-F: one\r\n two\r\n\r\n")
        assert c.response().status == 200
    assert backend.requests[-1].get("x-f") == "one two"


def test_non_ascii_header_values_pass_byte_for_byte(proxy, backend):
    assert up([("X-U", "caf\xc3\xa9")])["x-u"] == ["caf\xc3\xa9"]


# -- what Zipline's does otherwise -------------------------------------------------------------


@pytest.mark.ours
def test_names_are_canonicalised(proxy, backend):
    ask("/x", headers=[("x-zz", "1"), ("x-lower", "1"), ("X-UPPER-case", "2")])
    names = [k for k, _ in backend.requests[-1].headers]
    assert {n for n in names if n[:2] == "X-"} == {"X-Zz", "X-Lower", "X-Upper-Case", "X-Forwarded-For"}


@pytest.mark.ours
def test_a_missing_content_type_stays_missing(proxy, backend):
    backend.routes["/c"] = lambda c, r: c.reply(200, b"<html>x</html>")
    assert ask("/c").get("content-type") is None


@pytest.mark.ours
def test_folded_header_lines_are_refused(proxy, backend):
    from client import Raw
    with Raw() as c:
        c.send("GET /x HTTP/1.1\r\nHost: a\r\nX-F: one\r\n two\r\n\r\n")
        assert c.response().status == 400
    assert not backend.requests


@pytest.mark.ours
def test_capability_is_told_to_whoever_asks_and_control_headers_end_here(proxy, backend):
    r = ask("/x", headers=[("Zipline-Accept", "1"), ("Zipline-Anything", "x")])
    assert r.get("zipline-capable") == "1"
    assert not any(k.lower().startswith("zipline-") for k, _ in backend.requests[-1].headers)
    assert ask("/x").get("zipline-capable") is None
