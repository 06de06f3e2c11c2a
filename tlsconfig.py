"""The TLS that certifier speaks: one context for all origins, one for each name towards clients."""

import os
import ssl
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import files
from errors import NotServable, RetrievalError, UsageError
from keylog import KeyLog

# TLS 1.2; the suites of 1.3 are all forward secret and authenticated. Towards clients nothing else.
_CLIENTS = "@SECLEVEL=2:ECDHE+AESGCM:ECDHE+CHACHA20"
# Origins may be older: forward secret CBC behind the others, with SHA-2. No Diffie-Hellman in finite fields, nor have
# browsers any (draft-ietf-tls-deprecate-obsolete-kex): an origin chooses the group, and one of 10,000 bits takes a
# second of CPU. Level 2 refuses RSA under 1962 bits (``strength.py`` has the rest) and signatures with SHA-1 or MD5.
# Said here, since distributions, their openssl.cnf and versions of Python differ in what they have by default.
_ORIGINS = "@SECLEVEL=2:ECDHE+AESGCM:ECDHE+CHACHA20:ECDHE+AES:!aNULL:!SHA1:!AESCCM"
# SSL_OP_LEGACY_SERVER_CONNECT and SSL_OP_ALLOW_UNSAFE_LEGACY_RENEGOTIATION, for which Python has no names.
_WITHOUT_RFC_5746 = 0x4 | 0x40000
# SSL_OP_NO_RX_CERTIFICATE_COMPRESSION (RFC 8879), of which OpenSSL before 3.2 knows nothing: in few octets there may be
# 100 KB of certificates, which would be read on the hub, see ``flight.py``.
_NO_COMPRESSED_CERTIFICATES = 1 << 33
_DESCRIPTORS = "/proc/self/fd"  # of a file in memory, the only path
_OUT_OF_ORDER = ("MALLOC_FAILURE", "INTERNAL_ERROR")  # reasons that say nothing about the certificate


def client_context(extra_roots: str | None, verify: bool, keylog: KeyLog | None) -> ssl.SSLContext:
    """The context for all origins. Raises ``UsageError`` if the PEM file of further roots can't be used.

    It is the first: where no file in memory can be given to OpenSSL, that is a ``UsageError``, too.
    """
    if hasattr(os, "memfd_create") and not os.path.exists(_DESCRIPTORS):
        raise UsageError(
            "there is no /proc, through which OpenSSL gets certificates: mount it (mount -t proc proc /proc)"
        )
    # Not create_default_context, which opens SSLKEYLOGFILE by itself, in whatever state it is.
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_default_certs()  # 31 ms: once, not a connection
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers(_ORIGINS)
    context.hostname_checks_common_name = False  # RFC 9525 §2: as browsers, Go and Apple
    context.options |= ssl.OP_NO_RENEGOTIATION | ssl.OP_NO_COMPRESSION
    context.options |= _NO_COMPRESSED_CERTIFICATES
    context.options &= ~_WITHOUT_RFC_5746
    # RFC 5280 to the letter, as Python 3.13 and newer do, and the same on every version.
    context.verify_flags |= ssl.VERIFY_X509_STRICT | ssl.VERIFY_X509_PARTIAL_CHAIN
    if keylog is not None:
        keylog.follow(context)
    if extra_roots is not None:
        try:
            with _as_file(files.whole(Path(extra_roots))) as path:  # OpenSSL would wait for who writes to a FIFO
                context.load_verify_locations(path)
        except ssl.SSLError as error:
            raise UsageError(f"--upstream-ca: {extra_roots} holds no PEM certificate") from error
        except OSError as error:
            raise UsageError(f"--upstream-ca: can't read {extra_roots}: {error.strerror}") from error
    if not verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context


def system_has_roots() -> bool:
    """Whether there are roots of the system's to verify origins with: small containers have none."""
    found = ssl.get_default_verify_paths()  # what does not exist is None
    with suppress(OSError):
        return found.cafile is not None or bool(found.capath and os.listdir(found.capath))
    return False


def server_context(pem: bytes, keylog: KeyLog | None = None) -> ssl.SSLContext:
    """The context that serves one certificate; TLS 1.2 and 1.3.

    Raises ``NotServable`` if OpenSSL refuses it, ``RetrievalError`` if it could not be asked.
    """
    try:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.set_ciphers(_CLIENTS)
        context.options |= ssl.OP_NO_RENEGOTIATION | ssl.OP_NO_COMPRESSION
        context.num_tickets = 1  # OpenSSL makes two: saves 0.03 ms a connection
        if keylog is not None:
            keylog.follow(context)
        with _as_file(pem) as path:
            context.load_cert_chain(path, password="")  # without a password, OpenSSL asks the terminal for one
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
    """A path, which is all that OpenSSL loads a chain from, to the very bytes that were checked."""
    if hasattr(os, "memfd_create"):
        with open(os.memfd_create("certificate", os.MFD_CLOEXEC), "wb", buffering=0) as file:
            file.write(pem)
            yield f"{_DESCRIPTORS}/{file.fileno()}"
    else:  # macOS; a NamedTemporaryFile has mode 0600
        with tempfile.NamedTemporaryFile(buffering=0) as temporary:
            temporary.write(pem)
            yield temporary.name
