"""What clients do with a certifier whose calls fail; each returns what it sees, in a word or two."""

import re
import socket
import ssl
from contextlib import suppress

from faultlab import ORIGINS, Ended, Faulty
from lab import Reply, get, read_reply

from store import Store

DAY_SECONDS = 86_400.0
READS = ("wait tunnel._together", "recv client streams.fill")  # how certifier reads from a client inside TLS
USER = "Proxy-Authorization: Basic YWxpY2U6c2VzYW1l"  # alice:sesame


def told(reply: Reply) -> str:
    """A reply's status, and the error token of Proxy-Status if the reply is certifier's own."""
    token = re.search(r"error=(\w+)", reply.headers.get("proxy-status", ""))
    return f"{reply.status} {token[1]}" if token else str(reply.status)


def in_two(program: Faulty, sock: socket.socket, request: str, host: str) -> None:
    """Send a request head in two pieces, so that certifier has to read twice."""
    sock.sendall(f"{request} HTTP/1.1\r\n".encode())
    program.reached("recv client proxy._read_head")
    sock.sendall(f"Host: {host}\r\n{USER}\r\n\r\n".encode())


def connect(program: Faulty, sock: socket.socket, target: str) -> None:
    in_two(program, sock, f"CONNECT {target}", target)
    reply = read_reply(sock)
    if reply.status != 200:
        raise Ended(told(reply))


def secured(program: Faulty, sock: socket.socket, name: str, path: str = "/") -> str:
    """TLS on a tunnel, a request in it, and an orderly close."""
    context = ssl.create_default_context(cadata=program.trusted.decode())
    context.verify_flags |= ssl.VERIFY_X509_STRICT
    with context.wrap_socket(
        sock, server_hostname=name, suppress_ragged_eofs=False, do_handshake_on_connect=False
    ) as secure:
        secure.do_handshake()
        program.reached(*READS)  # else it is chance whether the request comes with the Finished
        text = told(get(secure, path))
        certificate = secure.getpeercert()
        assert certificate
        text += " untouched" if ORIGINS in str(certificate["issuer"]) else ""
        try:
            secure.unwrap()
        except OSError:
            text += ", cut"
        return text


def tunnel(program: Faulty, name: str, host: str = "", port: int = 0, path: str = "/") -> str:
    with program.client() as sock:
        connect(program, sock, f"{host or name}:{port or program.lab.origin.port}")
        return secured(program, sock, name, path)


def tapped(program: Faulty, name: str) -> str:
    """A request that a tap answers."""
    return tunnel(program, name, path="/tap")


def known(program: Faulty, name: str) -> str:
    """A name covered by an operator's wildcard certificate."""
    return tunnel(program, name.replace(".", ".known.", 1))


def again(program: Faulty, _: str) -> str:
    """A name whose context is in memory; CONNECT to an address, without a DNS lookup."""
    return tunnel(program, "warm.example.com", "127.0.0.1")


def two_addresses(program: Faulty, name: str) -> str:
    return tunnel(program, f"two-{name}")


def crowded(program: Faulty, name: str) -> str:
    """Non-blocking sends that all fail with EAGAIN: each direction of the tunnel gets its own greenlet."""
    program.order("crowd", True)
    try:
        return tunnel(program, name)
    finally:
        program.order("crowd", False)


def crowded_page(program: Faulty, name: str) -> str:
    program.order("crowd", True)
    try:
        return own_page(program, name)
    finally:
        program.order("crowd", False)


def direct(program: Faulty, name: str) -> str:
    """TLS without a CONNECT."""
    with program.client() as sock:
        return secured(program, sock, name)


def bypassed(program: Faulty, _: str) -> str:
    return tunnel(program, "bypassed.example.com")


def untrusted(program: Faulty, name: str) -> str:
    """An origin whose certificate does not verify."""
    return tunnel(program, name, port=program.lab.untrusted.port)


def gone(program: Faulty, name: str) -> str:
    """An origin that closes before the client has sent anything."""
    with program.client() as sock:
        connect(program, sock, f"{name}:{program.lab.closing.port}")
        program.reached("recv origin sockets.has_ended")
        return secured(program, sock, name)


def refused(program: Faulty, name: str) -> str:
    return tunnel(program, name, port=program.lab.closed)


def malformed(program: Faulty, _: str) -> str:
    with program.client() as sock:
        sock.sendall(b"CONNECT / HTTP/1.1\r\nHost: /\r\n\r\n")
        return told(read_reply(sock))


def not_tls(program: Faulty, name: str) -> str:
    """A tunnel without TLS; the client ends its direction first."""
    with program.client() as sock:
        connect(program, sock, f"{name}:{program.lab.plain.port}")
        sock.sendall(b"GET / HTTP/1.1\r\n\r\n")
        text = told(read_reply(sock))
        with suppress(OSError):
            sock.shutdown(socket.SHUT_WR)
            assert sock.recv(1) == b""
        return text


def plain_get(program: Faulty, name: str) -> str:
    with program.client() as sock:
        in_two(program, sock, f"GET http://{name}:{program.lab.plain.port}/", name)
        text = told(read_reply(sock))
        program.reached("recv client proxy._next_request")
        return text


def tapped_get(program: Faulty, name: str) -> str:
    with program.client() as sock:
        sock.sendall(f"GET http://{name}:{program.lab.plain.port}/tap HTTP/1.1\r\nHost: {name}\r\n\r\n".encode())
        return told(read_reply(sock))


def plain_post(program: Faulty, name: str) -> str:
    """With a body in two pieces."""
    with program.client() as sock:
        head = f"POST http://{name}:{program.lab.plain.port}/ HTTP/1.1\r\nHost: {name}\r\nContent-Length: 10\r\n\r\n"
        sock.sendall(head.encode() + b"12345")
        program.reached("recv client upload.receive")
        sock.sendall(b"67890")
        text = told(read_reply(sock))
        program.reached("recv client proxy._next_request")
        return text


def own_page(program: Faulty, name: str, path: str = "/") -> str:
    with program.client() as sock:
        sock.sendall(f"GET {path} HTTP/1.1\r\nHost: {name}\r\n\r\n".encode())
        return told(read_reply(sock))


def called_otherwise(program: Faulty, _: str) -> str:
    """certifier at another address of this machine: it has to find out that the address is local."""
    with program.client() as sock:
        sock.sendall(b"GET http://127.0.0.2:%d/ HTTP/1.1\r\nHost: a\r\n\r\n" % program.address[1])
        return told(read_reply(sock))


def health(program: Faulty, name: str) -> str:
    return own_page(program, name, "/healthz")


def crl(program: Faulty, name: str) -> str:
    return own_page(program, name, "/ca.crl")


# Preparations for scenarios


def an_hour_later(program: Faulty, _: str) -> None:
    program.pass_time(3601)


def seconds_later(program: Faulty, _: str) -> None:
    program.pass_time(6)


def on_disk(program: Faulty, name: str) -> None:
    assert tunnel(program, name) == "200"
    program.order("forget")


def near_its_end(program: Faulty, name: str) -> None:
    """A context in memory whose leaf is due for renewal."""
    program.pass_time(-31 * DAY_SECONDS)
    assert tunnel(program, name) == "200"
    program.pass_time(31 * DAY_SECONDS)


def rubbish(program: Faulty, name: str) -> None:
    """An unusable operator's file, written some time ago."""
    path = Store(program.folder / "certs").path(name)
    assert path
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(b"rubbish")
    program.pass_time(2)
