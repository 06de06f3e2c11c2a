import base64
import gzip
import json
from pathlib import Path

import jsonschema
import pytest
from hypothesis import given
from hypothesis import strategies as st
from watching import Seen

from exchange import MAX_FIELDS, Connection, Exchange, Fields
from harentry import MAX_PARAMETERS, RARE, Value, entry
from recorder import Recorder

SCHEMA = jsonschema.Draft202012Validator(json.loads((Path(__file__).parent / "har-1.2.schema.json").read_text()))

TEXT = (b"Content-Type", b"text/plain")


def valid(told: object) -> dict:  # type: ignore[type-arg]
    """An entry as a reader parses it, checked against the schema of HAR 1.2."""
    read = json.loads(json.dumps(told))
    program = {"name": "x", "version": "1"}
    SCHEMA.validate({"log": {"version": "1.2", "creator": program, "entries": [read]}})
    assert isinstance(read, dict)
    return read


def exchange(
    sent: bytes = b"", received: bytes = b"", ask: Fields | None = None, answer: Fields | None = None,
    target: str = "/x", method: str = "GET", limit: int = 1000,
) -> Exchange:  # fmt: skip
    recorder = Seen().recorder(limit)
    made = recorder.request(method, "a.example", target, "1.1", ask or [])
    recorder.upload(made, sent, 0, len(sent))
    recorder.response(made, 200, "OK", answer or [], made.began + 0.020)
    recorder.download(made, received, 0, len(received))
    made.started, made.request_ended, made.ended = 1795497163.953, made.began + 0.005, made.began + 0.0505
    return made


def test_an_entry() -> None:
    made = exchange(
        b"a=b", b"hello",
        [(b"Content-Type", b"application/x-www-form-urlencoded"), (b"Cookie", b"a=b ; c=d=e;x"), (b"cookie", b"f=g")],
        [
            TEXT, (b"Location", b"/y"), (b"Cache-Control", b"max-age=0"), (b"Set-Cookie", b"none"),
            (b"Set-Cookie", b"s=1; Path=/; Secure; HttpOnly; Domain=a"), (b"set-cookie", b"t = 2 ; path = /p ; a=1"),
        ],
        "/x?q=1&r=%C3%A9+z&s", "POST",
    )  # fmt: skip
    told = valid(entry(made, 1000))
    assert told["startedDateTime"] == "2026-11-24T05:12:43.953+00:00"
    assert told["timings"] == {"send": 5.0, "wait": 15.0, "receive": 30.5}
    assert told["time"] == 50.5
    assert (told["serverIPAddress"], told["connection"]) == ("192.0.2.1", str(made.connection.id))
    assert told["_client"] == made.connection.client
    ask, answer = told["request"], told["response"]
    assert (ask["method"], ask["url"], ask["httpVersion"]) == (
        "POST", "https://a.example/x?q=1&r=%C3%A9+z&s", "HTTP/1.1",
    )  # fmt: skip
    assert [(c["name"], c["value"]) for c in ask["cookies"]] == [("a", "b"), ("c", "d=e"), ("f", "g")]
    assert [(q["name"], q["value"]) for q in ask["queryString"]] == [("q", "1"), ("r", "é z"), ("s", "")]
    assert ask["headers"][0] == {"name": "Content-Type", "value": "application/x-www-form-urlencoded"}
    assert (ask["bodySize"], ask["postData"]) == (
        3, {"mimeType": "application/x-www-form-urlencoded", "text": "a=b"},
    )  # fmt: skip
    assert (answer["status"], answer["statusText"], answer["redirectURL"]) == (200, "OK", "/y")
    assert answer["httpVersion"] == "HTTP/1.1"
    made.response_version = "1.0"
    assert entry(made, 1000)["response"] == {**answer, "httpVersion": "HTTP/1.0"}
    assert entry(made, 1000)["request"] == ask
    assert answer["cookies"] == [
        {"name": "s", "value": "1", "path": "/", "domain": "a", "httpOnly": True, "secure": True},
        {"name": "t", "value": "2", "path": "/p", "httpOnly": False, "secure": False},
    ]
    assert (answer["bodySize"], answer["content"]) == (5, {"mimeType": "text/plain", "text": "hello", "size": 5})
    assert "comment" not in told


def content(told: Value) -> dict:  # type: ignore[type-arg]
    found = valid(told)["response"]["content"]
    assert isinstance(found, dict)
    return found


def test_bodies() -> None:
    plain = b"some text " * 20
    packed = gzip.compress(plain)
    gzipped = exchange(received=packed, answer=[TEXT, (b"Content-Encoding", b"gzip")])
    assert content(entry(gzipped, 1000)) == {
        "mimeType": "text/plain", "text": plain.decode(), "size": 200, "compression": 200 - len(packed),
    }  # fmt: skip
    assert content(entry(gzipped, 50)) == {
        "mimeType": "text/plain", "text": plain[:50].decode(), "size": 50,
        "comment": f"cut at 50 octets; {len(packed)} were transferred",
    }  # fmt: skip
    grown = gzip.compress(b"a")
    assert content(entry(exchange(received=grown, answer=[TEXT, (b"Content-Encoding", b"gzip")]), 1000)) == {
        "mimeType": "text/plain", "text": "a", "size": 1, "compression": 1 - len(grown),
    }  # fmt: skip
    binary = exchange(received=b"\x89PNG", answer=[(b"Content-Type", b"image/png")])
    assert content(entry(binary, 1000)) == {
        "mimeType": "image/png", "text": "iVBORw==", "encoding": "base64", "size": 4
    }  # fmt: skip
    unknown = exchange(received=b"abc", answer=[TEXT, (b"Content-Encoding", b"br")])
    assert content(entry(unknown, 1000)) == {
        "mimeType": "text/plain", "text": "YWJj", "encoding": "base64", "size": 3,
        "comment": "the content coding br is still on it",
    }  # fmt: skip
    cut = exchange(received="aé".encode() * 10, answer=[TEXT], limit=2)
    assert content(entry(cut, 1000)) == {
        "mimeType": "text/plain", "text": "a", "size": 30, "comment": "cut at 2 octets; 30 were transferred"
    }  # fmt: skip
    assert content(entry(exchange(), 1000)) == {"mimeType": "x-unknown", "size": 0}


TERMINAL = "\x1b[32mok\x1b[0m  tests/test_har.py\n" * 20


@pytest.mark.parametrize(
    ("body", "kind", "stays"),
    [
        (b"\0" + b"a" * (RARE - 1), b"text/plain", True),
        (b"\0" + b"a" * (RARE - 2), b"text/plain", False),
        (bytes(900), b"application/json", False),
        (b"\r\n\t\b\f" * 100, b"text/plain", True),
        (b'{"a":"b"}' * 100, b"application/json", True),
        (TERMINAL.encode(), b"text/plain", True),
        (TERMINAL.encode("utf-16-le"), b"text/plain; charset=utf-16le", True),
        (bytes(900), b"text/plain; charset=utf-16le", False),
    ],
)
def test_a_text_of_control_characters_is_told_in_base64(body: bytes, kind: bytes, stays: bool) -> None:
    answer = [(b"Content-Type", kind), (b"Content-Encoding", b"gzip")]
    told = valid(entry(exchange(body, gzip.compress(body), answer[:1], answer), 1000))
    asked, answered = told["request"]["postData"], told["response"]["content"]
    assert asked["text"] == answered["text"]
    assert asked.get("_encoding") == answered.get("encoding") == (None if stays else "base64")
    assert stays or base64.b64decode(asked["text"]) == body
    assert len(json.dumps(asked["text"], ensure_ascii=False)) < 2 * len(body) + 3


def test_a_request_body_that_is_not_text() -> None:
    told = valid(entry(exchange(b"\xff\xfe", ask=[(b"Content-Type", b"image/png")]), 1000))
    assert told["request"]["postData"] == {"mimeType": "image/png", "text": "//4=", "_encoding": "base64"}


@pytest.mark.parametrize(("upload", "stays"), [(b"some text", True), (b"\x89PNG\r\n\x1a\n", False)])
def test_a_form_of_texts_is_text(upload: bytes, stays: bool) -> None:
    body = b'--x\r\nContent-Disposition: form-data; name="f"; filename="f"\r\n\r\n' + upload + b"\r\n--x--\r\n"
    told = valid(entry(exchange(body, ask=[(b"Content-Type", b"multipart/form-data; boundary=x")]), 1000))
    asked = told["request"]["postData"]
    assert asked.get("_encoding") == (None if stays else "base64")
    assert (asked["text"].encode() if stays else base64.b64decode(asked["text"])) == body


def test_a_request_body_that_was_packed() -> None:
    packed = gzip.compress(b"some text " * 20)
    told = valid(entry(exchange(packed, ask=[TEXT, (b"Content-Encoding", b"gzip")]), 1000))
    assert told["request"]["postData"] == {
        "mimeType": "text/plain", "text": "some text " * 20, "_compression": 200 - len(packed)
    }  # fmt: skip


@pytest.mark.parametrize("target", ["://", "1://x", "a b://x"])
def test_a_target_that_is_no_url_is_told_behind_one(target: str) -> None:
    url = valid(entry(exchange(target=target), 0))["request"]["url"]
    assert url.startswith("https://")
    assert valid(entry(exchange(target="ftp://x"), 0))["request"]["url"] == "ftp://x"


def test_bodies_that_were_not_captured() -> None:
    made = exchange(b"abc", b"abc", limit=0)
    made.request_body = made.response_body = None
    told = valid(entry(made, 1000))
    assert told["request"]["postData"] == {
        "mimeType": "", "text": "", "comment": "cut at 0 octets; 3 were transferred"
    }  # fmt: skip
    assert told["response"]["content"]["size"] == 3
    assert "text" not in told["response"]["content"]


def test_what_did_not_come() -> None:
    recorder = Seen().recorder(10)
    made = recorder.request("CONNECT", "b.example:1", "b.example:1", "2", [])
    recorder.end(made, "no response")
    told = valid(entry(made, 1000))
    assert (told["response"]["status"], told["comment"]) == (0, "no response")
    assert told["request"]["url"] == "https://b.example:1"
    assert told["timings"]["wait"] == 0
    assert told["timings"]["receive"] == 0
    assert "postData" not in told["request"]
    assert "_trailers" not in told["response"]


@pytest.mark.parametrize(
    ("request_ended", "first_byte", "ended", "expected"),
    [
        (1.0, 2.0, 4.0, (1000, 1000, 2000)),
        (3.0, 2.0, 4.0, (2000, 0, 2000)),  # the response began before the request was complete
        (None, 2.0, 4.0, (2000, 0, 2000)),
        (1.0, None, 4.0, (1000, 3000, 0)),
        (None, None, 4.0, (4000, 0, 0)),
        (None, None, None, (0, 0, 0)),
    ],
)
def test_times_are_never_negative_and_add_up(
    request_ended: float | None, first_byte: float | None, ended: float | None, expected: tuple[float, ...]
) -> None:
    made = exchange()
    made.began, made.request_ended, made.first_byte, made.ended = 0.0, request_ended, first_byte, ended
    told = valid(entry(made, 0))
    assert tuple(told["timings"].values()) == expected
    assert told["time"] == sum(expected)


def test_trailers_upgrades_and_pushes() -> None:
    made = exchange()
    made.trailers, made.upgrade, made.pushed, made.error = [(b"grpc-status", b"0")], "websocket", True, "cut"
    told = valid(entry(made, 0))
    assert told["response"]["_trailers"] == [{"name": "grpc-status", "value": "0"}]
    assert told["comment"] == "cut; goes on as websocket, which is not recorded; pushed by the origin"


@pytest.mark.parametrize(("asked", "answered", "told"), [(0, 0, None), (1, 0, 1), (3, 2, 5)])
def test_fields_that_are_not_kept_are_told_of(asked: int, answered: int, told: int | None) -> None:
    ask, answer = ([(b"a", b"b")] * (MAX_FIELDS + more) for more in (asked, answered))
    comment = valid(entry(exchange(ask=ask, answer=answer), 0)).get("comment")
    assert comment == (told and f"fields left out of the heads: {told}")


@pytest.mark.parametrize(("origin", "address"), [("[2001:db8::1]:443", "2001:db8::1"), ("a.example:443", None)])
def test_the_address_of_the_server(origin: str, address: str | None) -> None:
    made = Recorder(Connection("127.0.0.1:1", origin, "https", "a"), Seen()).request("GET", "a", "/", "1.1", [])
    assert valid(entry(made, 0)).get("serverIPAddress") == address


@pytest.mark.parametrize(
    ("target", "url"),
    [("/a%20b%2", "/a%20b%252"), ("/%", "/%25"), ('/ é"<', "/%20%E9%22%3C"), ("/%zz%41", "/%25zz%41")],
)
def test_what_a_uri_cannot_hold_is_escaped(target: str, url: str) -> None:
    assert valid(entry(exchange(target=target), 0))["request"]["url"] == "https://a.example" + url


def test_a_query_of_too_many_parameters_is_not_told_one_by_one() -> None:
    assert (
        len(valid(entry(exchange(target="/?" + "a&" * (MAX_PARAMETERS - 1) + "a"), 0))["request"]["queryString"])
        == 1000
    )
    assert valid(entry(exchange(target="/?" + "a&" * MAX_PARAMETERS + "a"), 0))["request"]["queryString"] == []


@pytest.mark.parametrize(("count", "told"), [(MAX_PARAMETERS, MAX_PARAMETERS), (MAX_PARAMETERS + 1, 0)])
@pytest.mark.parametrize("lines", [1, 2])
def test_too_many_cookies_are_not_told_one_by_one(count: int, told: int, lines: int) -> None:
    """However many field lines hold them: HTTP/2 may use one for each (RFC 9113 §8.2.3). The field is recorded."""
    first = count // lines
    fields = [(b"Cookie", b";".join([b"="] * n)) for n in (first, count - first)][:lines]
    ask = valid(entry(exchange(ask=fields), 0))["request"]
    assert len(ask["cookies"]) == told
    assert len(ask["headers"]) == lines


PEERS = st.text(st.characters(max_codepoint=255), max_size=40)


@given(PEERS, PEERS, PEERS, st.binary(max_size=40))
def test_whatever_a_peer_says_the_entry_is_valid(method: str, authority: str, target: str, value: bytes) -> None:
    names = (b"Content-Type", b"Cookie", b"Set-Cookie", b"Location", b"Content-Encoding")
    fields = [(name, value) for name in names]
    for path in ("/" + target, target, "//[" + target, "http://[" + target):
        made = exchange(value, value, fields, fields, path, method)
        made.authority = authority
        valid(entry(made, 30))
