"""Each step of a connection fails once: what the client sees, what is logged, and that nothing is left behind.

``steps.py`` names the steps. A scenario runs without a fault to learn its steps, and then once for each call of a step
and each error that it may raise; ``TABLE`` has the expected results. Afterwards the same request succeeds.
"""

import re
from collections.abc import Callable, Iterator
from typing import NamedTuple

import pytest
import scenarios
from faultlab import Client, Faulty, run

ERRORS = {  # the errors of each call, as far as they are handled differently; EIO for all others
    "wait tunnel._together": "",  # has no deadline
    "wait": "timeout",
    "accept": "EMFILE ECONNABORTED",
    "socket": "EMFILE memory",
    "connect": "ECONNREFUSED EHOSTUNREACH ETIMEDOUT timeout EADDRNOTAVAIL EACCES",
    "recv": "ECONNRESET timeout eof",
    "readv": "ECONNRESET EAGAIN eof",
    "send": "EPIPE EAGAIN",
    "sendall": "EPIPE timeout",
    "setsockopt": "EINVAL",
    "shutdown": "ENOTCONN",
    "getpeername": "ENOTCONN",
    "getsockname": "ENOBUFS",
    "getaddrinfo": "gai:EAI_NONAME gai:EAI_AGAIN EMFILE",
    "open": "EMFILE",
    "mkdir": "ENOSPC",
    "write": "ENOSPC",
    "memfd_create": "EMFILE",
    "thread": "thread memory",
    **dict.fromkeys(("spawn", "MemoryBIO"), "memory"),
    **dict.fromkeys(("do_handshake", "tls read", "tls write", "unwrap", "set_alpn_protocols", "wrap_bio"), "ssl"),
    **dict.fromkeys(("set_ciphers", "load_cert_chain"), "ssl"),
    **dict.fromkeys(("generate_private_key", "sign", "sign request", "sign CRL"), "internal"),
    "load_pem_x509_certificate": "internal",
    "load_pem_private_key": "internal memory",
}


class Scenario(NamedTuple):
    client: Client
    sees: str = "200"  # without a fault
    logs: str | None = "closed"
    steps: str = ""  # pattern of the steps to fail; other scenarios cover the rest
    before: Callable[[Faulty, str], None] | None = None


ISSUING = (
    "thread retrieval|store|certificates|serials|ledger|keys|signer|lea(f|ves)|tlsconfig|spawn (contexts|renewals)"
)
PROGRAMS = {
    "--ca=ca --bypass=bypassed.example.com": {
        "tunnel": Scenario(scenarios.tunnel),
        "again": Scenario(scenarios.again),
        "refreshed": Scenario(scenarios.again, steps=ISSUING, before=scenarios.seconds_later),
        "renewed": Scenario(
            scenarios.tunnel,
            steps="thread|serials.take|signer|keys|tlsconfig|save|spawn (contexts|renewals)",
            before=scenarios.near_its_end,
        ),
        "from disk": Scenario(scenarios.tunnel, steps=ISSUING, before=scenarios.on_disk),
        "rubbish": Scenario(scenarios.tunnel, steps="reject|_free|_refuse_link|_load|age", before=scenarios.rubbish),
        "two addresses": Scenario(scenarios.two_addresses, steps="upstream|sockets.connect"),
        "crowded": Scenario(scenarios.crowded, steps="sendall|streams.fill$|tls.(read|write|unwrap|shut)|spawn tunnel"),
        "direct": Scenario(scenarios.direct, steps="proxy|greeting|resolver|_on_thread|connect|tls.__init__"),
        "bypassed": Scenario(scenarios.bypassed, "200 untouched", steps="proxy|upstream|interception|relaying"),
        "not TLS": Scenario(scenarios.not_tls),
        "untrusted": Scenario(
            scenarios.untrusted,
            "502 tls_certificate_error",
            "tls_certificate_error",
            "client (streams|tls.[^h]|sockets.last)",
        ),
        "gone": Scenario(scenarios.gone, "502 tls_protocol_error", "tls_protocol_error", "has_ended|getpeername"),
        "refused": Scenario(scenarios.refused, "502 connection_refused", "connection_refused"),
        "malformed": Scenario(scenarios.malformed, "400 http_request_error", "http_request_error"),
        "GET": Scenario(scenarios.plain_get),
        "POST": Scenario(scenarios.plain_post),
        "page": Scenario(scenarios.own_page),
        "crowded page": Scenario(scenarios.crowded_page, steps="sendall"),
        "health": Scenario(scenarios.health),
    },
    # Redirected in plain text, one certificate kept in the store: each new one evicts the old one.
    "--ca=ca --store-max=1 --redirect=127.0.0.1:{plain} --proxy-protocol": {
        "redirected": Scenario(scenarios.tunnel, steps="origin|set_alpn|preamble"),
        "redirected, not TLS": Scenario(scenarios.not_tls, steps="relaying|preamble"),
        "pruned": Scenario(
            scenarios.tunnel,
            steps="retrieval.tidy|store.(entries|paths|_folders|remove)|pruning|certificates|keys.fill",
        ),
        "CRL": Scenario(scenarios.crl, steps="thread|website|signer", before=scenarios.an_hour_later),
    },
    # Redirected over TLS, for users with a password.
    "--ca=ca --auth=users --redirect=tls://origin.example.com:{tls}": {
        "authenticated": Scenario(scenarios.tunnel, steps="access|upstream|interception|relaying"),
    },
    # All traffic is observed. (/dev/stderr is a log file like any other: lines that it loses are counted.)
    "--ca=ca --log-file=/dev/stderr --har=har --pcap=pcap": {
        "seen": Scenario(scenarios.tunnel, steps="getpeername|linefile|har|pcap|tunnel|streams"),
        "seen GET": Scenario(scenarios.plain_get, steps="getpeername|linefile|har|forward|upload"),
    },
    "--ca=ca --tap=tap.py": {
        "tapped": Scenario(scenarios.tapped, steps="tunnel|streams|tls.(encrypt|close)|sockets"),
        "tapped GET": Scenario(scenarios.tapped_get, steps="sockets|connect"),
    },
    # Apart from the other one: a tap that fails is taken out.
    "--ca=ca --tap=./tap.py": {
        "tap": Scenario(scenarios.tapped, steps="open taps"),
    },
    "--open --listen=0.0.0.0:0": {
        "called otherwise": Scenario(scenarios.called_otherwise, steps="socket"),
    },
    # No CA; an operator's certificate for some names.
    "": {
        "operator's": Scenario(scenarios.known, steps=f"^(?!load_pem_private_key).*({ISSUING})"),
        "untouched": Scenario(scenarios.tunnel, "200 untouched", steps="thread retrieval|store|leaves"),
    },
}


OURS = "proxy_internal_error"


class Row(NamedTuple):
    """The result of the faults that match the pattern, written as ``scenario: step #number error``."""

    fault: str
    sees: str | None = None  # None: as without a fault
    logs: str | None = "same"  # the outcome in the connection's log line; None: no line
    bug: bool = False  # an error that should never happen: also logged with a traceback


TABLE = [
    # Work in the background, which does not affect connections.
    Row(r"spawn (contexts\.find|renewals\.soon)", "cut", "failed", bug=True),
    Row("(renewed|refreshed|pruned): .* (internal|memory)$", bug=True),
    Row("renewed|refreshed|pruned"),
    # Before a request, there is nothing to report.
    Row("accept|setsockopt"),
    # If a socket can't send or receive at once, certifier waits.
    Row("EAGAIN$"),
    Row("recv client proxy.handle", "cut", None),
    Row("recv client proxy._read_head #. timeout", "408 http_request_error", "http_request_error"),
    Row("recv client proxy._read_head", "cut", "cut-off"),
    # Access: see test_rules.py for the refusals themselves.
    Row("thread (access|downloads|health).* memory", "cut", "failed", bug=True),
    Row("thread access._verify", "503 proxy_internal_error", OURS),
    # DNS lookup and dial.
    Row("socket localaddress._is_local .* EMFILE", "503 proxy_internal_error", OURS),
    Row("direct: thread resolver.* memory", "alert internal_error", OURS, bug=True),
    Row("thread resolver.* memory", "503 proxy_internal_error", OURS, bug=True),
    # Without a CONNECT, there is no HTTP reply, but a page inside TLS is possible.
    Row("direct: .*(resolver|upstream|sockets)[.]\\S* #. (thread|EMFILE|EADDRNOTAVAIL)", "alert internal_error", OURS),
    Row("thread resolver|getaddrinfo .*EMFILE", "503 proxy_internal_error", OURS),
    Row("getaddrinfo", "502 dns_error", "dns_error"),
    Row("two addresses: .* (upstream._|sockets.)connect #1 (E|timeout)"),  # the other address answers
    Row(
        "two addresses: (connect|wait) .*#2 (EHOST|ETIMED|timeout|EACCES)",
        "502 connection_refused",
        "connection_refused",
    ),
    Row("send client proxy._connect #. EPIPE|sendall client proxy._connect", "cut", "cut-off"),
    Row("connect .* ECONNREFUSED", "502 connection_refused", "connection_refused"),
    Row("connect .* (EHOSTUNREACH|EACCES)", "502 destination_ip_unroutable", "destination_ip_unroutable"),
    Row("(connect|wait) .*connect .* (ETIMEDOUT|timeout)", "504 connection_timeout", "connection_timeout"),
    Row(
        "two addresses: connect origin sockets.connect #. EADDRNOTAVAIL", "502 connection_refused", "connection_refused"
    ),
    Row("(upstream._|sockets.)connect #. (EMFILE|EADDRNOTAVAIL)", "503 proxy_internal_error", OURS),
    # The hello. That an origin is gone is reported to the client where possible.
    Row("(not TLS|bypassed): getpeername origin", "cut", "origin-reset"),
    Row("(seen|tapped): getpeername origin", "cut", "origin-.*"),  # after the handshake with it
    Row("(GET|POST): getpeername origin", "502 connection_terminated", "connection_terminated"),
    Row("getpeername origin", "502 tls_protocol_error", "tls_protocol_error"),
    Row("(recv client|wait) greeting._read #. timeout", "cut", "hello-timeout"),
    Row("recv client greeting._read #. ECONNRESET", "cut", "cut-off"),
    Row("not TLS: recv client greeting._read #. eof", "cut"),
    Row("recv client greeting._read #. eof", "alert decode_error", "closed"),  # the origin's, relayed
    Row(
        "health: (thread health|[^u]\\S* store.probe|\\S+ serials.(check|peek))", "503"
    ),  # what can't be removed is cleared up later
    # The certificate. Failures of the store don't matter if a certificate can be made.
    Row("operator's: (open|l?stat) stored._content #1"),  # the exact name's; the wildcard's is served
    Row("(untouched|operator's): .* stored._content", "alert internal_error", OURS),
    Row("thread retrieval.attempt .* memory", "alert internal_error", OURS, bug=True),
    Row(" (serials[.]|files[.]|thread retrieval.attempt|.* tlsconfig)", "alert internal_error", OURS),
    Row(" (store|ledger|thread retrieval.(tidy|look))"),
    Row("CRL: .* internal$", "cut", "failed", bug=True),
    Row("load_pem_private_key .* memory", "alert internal_error", OURS, bug=True),
    Row("from disk: load_pem_private_key .* internal"),  # a key of an odd length raises such an error, too
    Row(" internal$", "alert internal_error", OURS, bug=True),
    # A redirect with a PROXY protocol header
    Row("client preamble", "cut", "cut-off"),
    Row("redirected: .* relaying.introduce", "502 connection_terminated", "connection_terminated"),
    Row("relaying.introduce", "cut", "connection_terminated"),
    # What is relayed without TLS
    Row("(not TLS|redirected): send origin streams.flush_now", "cut", "origin-reset"),
    Row("not TLS: send client streams.flush_now", "cut", "client-reset"),
    Row("redirected: readv origin .* #1 eof", "cut", "client-truncated"),  # a FIN without TLS looks like a proper end
    Row("not TLS: readv origin .* #1 eof", "cut"),
    Row("not TLS: readv client .* #1 eof"),
    Row("(not TLS|redirected): recv origin .* eof|shutdown (client|origin) streams.end"),
    Row("not TLS: readv client .* #1 ECONNRESET", None, "client-reset"),
    # TLS on both sides
    Row("MemoryBIO|wrap_bio|set_alpn_protocols tls.__init__", "alert internal_error", OURS),
    Row("set_alpn_protocols tls.handshake", "cut", "client-tls-failed"),
    Row("do_handshake origin", "502 tls_protocol_error", "tls_protocol_error"),
    Row("readv origin tls.handshake #. (ECONNRESET|eof)", "502 tls_protocol_error", "tls_protocol_error"),
    Row(
        "(send origin streams.flush_now|sendall origin streams.flush) #1 EPIPE",
        "502 tls_protocol_error",
        "tls_protocol_error",
    ),
    Row("wait tls.handshake #1|origin streams.flush #1 timeout", "504 connection_timeout", "connection_timeout"),
    Row(
        "do_handshake client|readv client tls.handshake|wait tls.handshake"
        "|(send client streams.flush_now|sendall client streams.flush) #1",
        "cut",
        "client-tls-failed",
    ),
    # The page inside TLS that explains what is wrong with the origin
    Row("untrusted: (recv client streams.fill #1 ECONNRESET|send client streams.flush #1|tls write client)", "cut"),
    # A false EOF: the client may be about to send its request, which nobody reads any more.
    Row("untrusted: recv client streams.fill #1 eof", "502 tls_certificate_error(, cut)?"),
    Row("untrusted|gone"),
    # The relay: how one side ends is passed on to the other; if an origin fails before it answers, the client is told.
    Row("crowded: send(all)? origin streams.flush #[23] EPIPE", "cut", "origin-reset"),
    Row("(crowded: sendall client streams.flush #2|tapped: send client streams.flush #1)", "cut", "client-reset"),
    Row("(crowded|tapped): recv origin streams.fill #1 eof", "cut", "origin-truncated"),
    Row("(crowded|tapped): recv origin streams.fill #1", "cut", "origin-reset"),
    Row("tapped: recv client streams.fill #1 eof", "cut", "client-truncated"),
    Row("crowded: recv client streams.fill #1 eof", "cut|200", "client-truncated"),  # before the request or after it
    Row("(crowded|tapped): recv client streams.fill #[12] eof", None, "client-truncated"),
    Row("tapped: recv client streams.fill #2", None, "client-reset"),
    # It may be the read after the request, which is then answered.
    Row("crowded: recv client streams.fill #1 timeout", "cut|200", "client-reset"),
    Row("(crowded|tapped): recv client streams.fill", "cut", "client-reset"),
    Row("send origin streams.flush_now #[23]", "cut", "origin-reset"),
    Row("sendall origin streams.flush #[23] timeout|tls write origin", "502 tls_alert_received", "tls_alert_received"),
    Row("tls read origin tls.decrypt #1", "502 tls_protocol_error", "tls_protocol_error"),
    Row("readv origin streams.fill_now #1 ECONNRESET", "cut", "origin-reset"),
    Row("readv origin streams.fill_now #1 eof", "cut", "origin-truncated"),
    Row("send client streams.flush_now #2|tls write client", "cut", "client-reset"),
    Row("readv client streams.fill_now #1 ECONNRESET", "cut", "client-reset"),
    Row("readv client streams.fill_now #1 eof", "cut", "client-truncated"),
    Row("tls read client tls.decrypt #1", "cut", "client-tls-error"),
    # The end of the relay, when the client has its whole response; crowded, it has not ended its side yet
    Row("crowded: recv origin streams.fill #2 (ECONNRESET|timeout)", "200, cut", "origin-reset"),
    Row("readv client streams.fill_now #2 eof", None, "client-truncated"),
    Row("readv client streams.fill_now #2 ECONNRESET", None, "client-reset"),
    Row("tls read client tls.decrypt #2", None, "client-tls-error"),
    Row("recv origin streams.fill #[12] (ECONNRESET|timeout)", None, "origin-reset"),
    Row("recv origin streams.fill #[12] eof", None, "origin-truncated"),
    Row(
        "(send origin streams.(flush #[1-4]|flush_now #4)|sendall origin streams.flush #4"
        "|tls read origin tls.decrypt #2|unwrap origin)",
        None,
        "origin-.*",
    ),
    Row("shutdown origin", None, "closed|origin-.*"),  # its close_notify may have come just before
    Row("send(all)? client streams.flush #[1-4]|(unwrap|shutdown) client"),
    # Plain HTTP, and certifier's own replies
    Row("sendall origin upload._pass_on #. timeout"),  # the origin answers what it has received
    Row("recv origin upload.receive #. timeout", "504 connection_read_timeout", "connection_read_timeout"),
    Row("origin (forward|upload)", "502 connection_terminated", "connection_terminated"),
    Row("sendall client forward", "cut", "cut-off"),
    Row("recv client upload.receive #. ECONNRESET", "cut", "http_request_error"),
    Row("recv client upload.receive #. timeout", "408 http_request_error", "http_request_error"),
    Row("recv client upload.receive", "400 http_request_error", "http_request_error"),
    Row("recv client proxy._next_request"),
    Row("send(all)? client plain._own_page", "cut", "cut-off"),
    Row("thread downloads", "503 proxy_internal_error", OURS),
    Row("send(all)? client sockets.last_word", "cut"),
    Row("(client|wait) sockets.last_word"),
    # Observers
    Row("seen GET: spawn harqueue", None, "failed", bug=True),  # the reply was sent; tunnels' watchers catch bugs
    Row("(spawn|thread) harqueue.* memory", bug=True),
    Row("harqueue|(pwritev|link|rename|f?stat) (har|pcap)"),
    Row("open taps", bug=True),  # in the user's tap
    Row("write linefile", None, None),  # the line is lost, and counted
    # Bugs
    Row("spawn", "cut", "failed", bug=True),
    Row("memory", "cut", "failed", bug=True),
]


def prepared(program: Faulty, scenario: Scenario) -> str:
    """A new name, prepared for the scenario."""
    name = program.new_name()
    if scenario.before is not None:
        scenario.before(program, name)
        run(program, lambda *_: "", name)
    return name


def errors(step: str) -> list[str]:
    """The errors that a step may raise."""
    what = re.sub(r"( client| origin)? \S+$", "", step)
    return ERRORS.get(step, ERRORS.get(what, "EIO")).split()


def wrong(scenario: Scenario, program: Faulty, title: str) -> Iterator[str]:
    """All deviations from the table, over all faults of a scenario."""
    for _ in range(2):  # the first run may have something to set up
        plain = run(program, scenario.client, prepared(program, scenario))
    assert (plain.sees, plain.logs, plain.left) == (scenario.sees, [scenario.logs], {})
    for step, number in plain.steps.items():
        if re.search(scenario.steps, step):
            for error in errors(step):
                for nth in range(1, number + 1):
                    yield from wrong_with(scenario, program, title, step, nth, error)


def wrong_with(scenario: Scenario, program: Faulty, title: str, step: str, nth: int, error: str) -> Iterator[str]:
    name = prepared(program, scenario)
    had = run(program, scenario.client, name, step, nth, error)
    good = run(program, scenario.client, name)
    fault = f"{title}: {step} #{nth} {error}"
    row = next((row for row in TABLE if re.search(row.fault, fault)), None)
    if row is None:
        yield f"{fault}: {had.sees} {had.logs} {had.odd[-1:]} is not in the table"
        return
    met.add(row)
    sees = scenario.sees if row.sees is None else row.sees
    logs = [] if row.logs is None else [scenario.logs if row.logs == "same" else row.logs]
    if (
        not re.fullmatch(sees, had.sees)
        or len(logs) != len(had.logs)
        or not all(map(re.fullmatch, map(str, logs), had.logs))
    ):
        yield f"{fault}: {had.sees} {had.logs}, not {sees} {logs}"
    if bool(had.odd) != row.bug:
        yield f"{fault}: odd lines {had.odd}"
    if good.sees != scenario.sees:
        yield f"{fault}: a good request afterwards: {good.sees}"
    if not had.fired:
        yield f"{fault}: has not happened"
    left = {**had.left, **good.left}
    assert not left, f"{fault}: left {left}"  # stop here: it would be left after all later faults, too


met: set[Row] = set()
ran: set[str] = set()  # scenarios
ALL = [(options, title) for options, found in PROGRAMS.items() for title in found]


@pytest.mark.timeout(180)  # takes a few seconds, but machines may be busy
@pytest.mark.parametrize(("options", "title"), ALL, ids=[title for _, title in ALL])
def test_each_step_fails_once(faulty: Callable[[str], Faulty], options: str, title: str) -> None:
    ran.add(title)
    found = list(wrong(PROGRAMS[options][title], faulty(options), title))
    assert not found, "\n" + "\n".join(found)


def test_each_row_is_met() -> None:
    """Else a step was renamed, or no longer fails."""
    if len(ran) < len(ALL):
        pytest.skip("only some scenarios were run")
    assert [row.fault for row in TABLE if row not in met] == []
