"""TLS settings: one context for all origins, and one per name for clients."""

import os
import ssl
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import reading
from errors import NotServable, RetrievalError, UsageError
from keylog import KeyLog

# For clients: only those suites of TLS 1.2 that are forward secret and authenticated, as all of TLS 1.3 are.
_CLIENTS = "@SECLEVEL=2:ECDHE+AESGCM:ECDHE+CHACHA20"
# Origins may be older: forward secret CBC suites with SHA-2 come last. No finite-field Diffie-Hellman, which browsers
# lack, too (draft-ietf-tls-deprecate-obsolete-kex): an origin chooses the group, and one of 10,000 bits takes a second
# of CPU. Level 2 refuses RSA keys under 1962 bits (``strength.py`` does the rest) and signatures with SHA-1 or MD5.
# Set explicitly, as defaults differ between distributions, their openssl.cnf and versions of Python.
_ORIGINS = "@SECLEVEL=2:ECDHE+AESGCM:ECDHE+CHACHA20:ECDHE+AES:!aNULL:!SHA1:!AESCCM"
# SSL_OP_LEGACY_SERVER_CONNECT and SSL_OP_ALLOW_UNSAFE_LEGACY_RENEGOTIATION, for which Python has no names.
_WITHOUT_RFC_5746 = 0x4 | 0x40000
# SSL_OP_NO_RX_CERTIFICATE_COMPRESSION (RFC 8879), unknown to OpenSSL before 3.2: a few octets may expand to 100 KB of
# certificates, which would be parsed on the hub, see ``flight.py``.
_NO_COMPRESSED_CERTIFICATES = 1 << 33
_DESCRIPTORS = "/proc/self/fd"  # where files in memory have their only path
_OUT_OF_ORDER = ("MALLOC_FAILURE", "INTERNAL_ERROR")  # reasons that say nothing about the certificate


def check_descriptors() -> None:
    """Raise ``UsageError`` if there are no files in memory, or none with a path, by which OpenSSL gets certificates."""
    if not hasattr(os, "memfd_create"):
        return
    try:
        reading.close(os.memfd_create("check", os.MFD_CLOEXEC))
    except OSError as error:  # a filter of system calls may forbid it
        raise UsageError(
            f"OpenSSL can't be given certificates, as there can be no files in memory: memfd_create: {error.strerror}"
        ) from error
    if not os.path.exists(_DESCRIPTORS):
        raise UsageError(
            "there is no /proc, through which OpenSSL gets certificates: mount it (mount -t proc proc /proc)"
        )


def client_context(extra_roots: str | None, verify: bool, keylog: KeyLog | None) -> ssl.SSLContext:
    """The context for all origins. Raises ``UsageError`` if the PEM file of further roots can't be used."""
    # Not create_default_context, which opens SSLKEYLOGFILE itself, whatever kind of file that is.
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_default_certs()  # 31 ms: once, not per connection
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers(_ORIGINS)
    context.hostname_checks_common_name = False  # RFC 9525 §2, as in browsers, Go and Apple
    context.options |= ssl.OP_NO_RENEGOTIATION | ssl.OP_NO_COMPRESSION
    context.options |= _NO_COMPRESSED_CERTIFICATES
    context.options &= ~_WITHOUT_RFC_5746
    # RFC 5280 to the letter: the default from Python 3.13 on, here on every version.
    context.verify_flags |= ssl.VERIFY_X509_STRICT | ssl.VERIFY_X509_PARTIAL_CHAIN
    if keylog is not None:
        keylog.follow(context)
    if extra_roots is not None:
        content = b""
        try:
            content = reading.whole(Path(extra_roots))  # OpenSSL would wait for a FIFO's writer
            with _as_file(content) as path:
                context.load_verify_locations(path)
        except ssl.SSLError as error:
            hint = ""
            if content and b"-----BEGIN " not in content:
                hint = f"; OpenSSL converts DER: openssl x509 -inform der -in {extra_roots} -out roots.pem"
            raise UsageError(f"--upstream-ca={extra_roots}: holds no PEM certificate{hint}") from error
        except OSError as error:
            raise UsageError(f"--upstream-ca={extra_roots}: can't read it: {error.strerror}") from error
    if not verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context


def system_has_roots() -> bool:
    """Whether the system has roots to verify origins with: small containers have none."""
    found = ssl.get_default_verify_paths()  # None for paths that do not exist
    with suppress(OSError):
        return found.cafile is not None or bool(found.capath and os.listdir(found.capath))
    return False


def server_context(pem: bytes, keylog: KeyLog | None = None) -> ssl.SSLContext:
    """The context that serves one certificate; TLS 1.2 and 1.3.

    Raises ``NotServable`` if OpenSSL refuses it, ``RetrievalError`` if that could not be tried.
    """
    try:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.set_ciphers(_CLIENTS)
        context.options |= ssl.OP_NO_RENEGOTIATION | ssl.OP_NO_COMPRESSION
        context.num_tickets = 1  # OpenSSL makes two by default: saves 0.03 ms per connection
        if keylog is not None:
            keylog.follow(context)
        with _as_file(pem) as path:
            context.load_cert_chain(path, password="")  # else OpenSSL asks for one on the terminal
    except ssl.SSLError as error:
        reason = (error.reason or "its file can't be read").lower().replace("_", " ")
        if error.reason in _OUT_OF_ORDER:
            raise RetrievalError(f"OpenSSL can't take a certificate for now: {reason}") from error
        raise NotServable(f"OpenSSL refuses the certificate: {reason}") from error
    except OSError as error:
        raise RetrievalError(f"a certificate can't be given to OpenSSL: {error.strerror}") from error
    return context


@contextmanager
def _as_file(pem: bytes) -> Iterator[str]:
    """A path to exactly the bytes that were checked, as OpenSSL loads a chain only from a path."""
    if hasattr(os, "memfd_create"):
        fd = os.memfd_create("certificate", os.MFD_CLOEXEC)
        try:
            os.write(fd, pem)
            yield f"{_DESCRIPTORS}/{fd}"
        finally:
            reading.close(fd)
    else:  # macOS; a NamedTemporaryFile has mode 0600
        with tempfile.NamedTemporaryFile(buffering=0) as temporary:
            temporary.write(pem)
            yield temporary.name
