"""Chains that no client may accept, and good ones that differ from them in a single point."""

from collections.abc import Callable

from chains import CLIENT, CODE, DAY, PRIVATE, SERVER, Made, make, rsa_key, version_1
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from pki import key_usage, new_key


class Roots:
    """The roots that the clients of these tests trust: a good one, and some that they should not rely on."""

    def __init__(self) -> None:
        self.good = make("A good root", key=new_key(2048))
        self.expired = make("An expired root", begins=-9 * DAY, ends=-DAY)
        self.old = version_1("A v1 root")
        self.small = make("A small root", bits=1024)
        self.narrow = make("A root of almost 2048 bits", bits=2047)
        self.flat = make("A root without intermediates", path_length=0)
        self.unable = make("A root that may not sign", usage=key_usage(ca=False))
        self.code = make("A root for code", eku=CODE)
        self.old_digest = make("A root that signed itself with SHA-1", key=new_key(2048), digest="sha1")

    @property
    def pem(self) -> bytes:
        return b"".join(root.pem for root in vars(self).values())


Chain = Callable[[Roots], list[Made]]


def _leaf(*names: str, **what: object) -> Chain:
    """A leaf issued by the good root."""
    return lambda roots: [make("leaf", roots.good, *(names or ("localhost",)), **what)]  # type: ignore[arg-type]


def _below(**what: object) -> Chain:
    """A good leaf below an intermediate."""

    def chain(roots: Roots) -> list[Made]:
        middle = make("intermediate", roots.good, **what)  # type: ignore[arg-type]
        return [make("leaf", middle, "localhost"), middle]

    return chain


def _by(root: str) -> Chain:
    """A good leaf issued by one of the roots."""
    return lambda roots: [make("leaf", getattr(roots, root), "localhost")]


def _alone(roots: Roots) -> list[Made]:
    return [make("localhost", None, "localhost")]


def _stranger(roots: Roots) -> list[Made]:
    root = make("A root that nobody knows")
    return [make("leaf", root, "localhost"), root]


def _namesake(roots: Roots) -> list[Made]:
    """A root with the good root's name, but another key."""
    root = make("A good root")
    return [make("leaf", root, "localhost"), root]


def _forged(roots: Roots) -> list[Made]:
    return [make("leaf", roots.good, "localhost", parent_key=rsa_key(2048))]


def _incomplete(roots: Roots) -> list[Made]:
    return [make("leaf", make("intermediate", roots.good), "localhost")]


def _by_a_leaf(roots: Roots) -> list[Made]:
    site = make("site.example", roots.good, "site.example")
    return [make("leaf", site, "localhost"), site]


def _below_version_1(roots: Roots) -> list[Made]:
    middle = version_1("intermediate", roots.good)
    return [make("leaf", middle, "localhost"), middle]


def _below_flat(root: str, depth: int) -> Chain:
    def chain(roots: Roots) -> list[Made]:
        made = [getattr(roots, root)]
        for number in range(depth):
            made.insert(0, make(f"intermediate {number}", made[0]))
        return [make("leaf", made[0], "localhost"), *made[:-1]]

    return chain


def _small_path(length: int) -> Chain:
    """Two intermediates, of which the upper one allows ``length`` below it."""

    def chain(roots: Roots) -> list[Made]:
        upper = make("upper", roots.good, path_length=length)
        lower = make("lower", upper)
        return [make("leaf", lower, "localhost"), lower, upper]

    return chain


def _constraints(*, permitted: list[str] | None = None, excluded: list[str] | None = None) -> Chain:
    def trees(names: list[str] | None) -> list[x509.GeneralName] | None:
        return [x509.DNSName(name) for name in names] if names else None

    return _below(more=[(x509.NameConstraints(trees(permitted), trees(excluded)), True)])


def _unknown(critical: bool) -> list[tuple[x509.ExtensionType, bool]]:
    return [(x509.UnrecognizedExtension(PRIVATE, b"\x05\x00"), critical)]


_GARBLED: list[tuple[x509.ExtensionType, bool]] = [
    (x509.UnrecognizedExtension(x509.NameConstraints.oid, b"\x30\x7f\xa0"), True)
]
_WRONG = "certificate is not valid for|[Mm]ismatch"
_UNKNOWN = "unable to get local issuer|unable to get issuer|unable to verify the first"
_NO_CA = "invalid CA|not a CA"
_MARKUP = '<script>alert("1")</script>\r\nSet-Cookie: a=b\x1b[31m'
_NUL = "localhost\x00.example.com"

# Each with the chain, and a pattern for OpenSSL's error.
BAD: dict[str, tuple[Chain, str]] = {
    "expired": (_leaf(begins=-9 * DAY, ends=-DAY), "has expired"),
    "not yet valid": (_leaf(begins=DAY), "not yet valid"),
    "expired intermediate": (_below(begins=-9 * DAY, ends=-DAY), "has expired"),
    "intermediate not yet valid": (_below(begins=DAY), "not yet valid"),
    "expired root": (_by("expired"), "has expired"),
    "wrong name": (_leaf("other.example"), _WRONG),
    "a name with a NUL": (_leaf(_NUL), _WRONG),
    "name only in the CN": (lambda roots: [make("localhost", roots.good, ca=False, eku=SERVER)], _WRONG),
    "wrong name, right CN": (lambda roots: [make("localhost", roots.good, "other.example")], _WRONG),
    "wrong name with markup": (lambda roots: [make(_MARKUP, roots.good, "other.example")], _WRONG),
    "self-signed": (_alone, "self.signed certificate"),
    "untrusted root": (_stranger, "self.signed certificate in"),
    "untrusted root of a trusted one's name": (_namesake, "signature failure|self.signed|" + _UNKNOWN),
    "forged signature": (_forged, "signature failure"),
    "missing intermediate": (_incomplete, _UNKNOWN),
    "issued by a site's certificate": (_by_a_leaf, _NO_CA),
    "intermediate with CA:FALSE": (_below(ca=False, usage=key_usage(ca=True)), _NO_CA + "|not in the CA"),
    "v1 intermediate": (_below_version_1, _NO_CA),
    "v1 root": (_by("old"), _NO_CA),
    "intermediate that may not sign": (_below(usage=key_usage(ca=False)), _NO_CA + "|keyCertSign|key usage"),
    "root that may not sign": (_by("unable"), _NO_CA + "|keyCertSign|key usage"),
    "too many below the root": (_below_flat("flat", 1), "path length"),
    "too many below an intermediate": (_small_path(0), "path length"),
    "name not permitted by an intermediate": (_constraints(permitted=["example.com"]), "permitted subtree"),
    "name excluded by an intermediate": (_constraints(excluded=["localhost"]), "excluded subtree"),
    "for clients": (_leaf(eku=CLIENT), "purpose"),
    "for code": (_leaf(eku=CODE), "purpose"),
    "intermediate for clients": (_below(eku=CLIENT), "purpose"),
    "root for code": (_by("code"), "purpose"),
    "unknown critical extension": (_leaf(more=_unknown(True)), "critical extension"),
    "unknown critical extension of an intermediate": (_below(more=_unknown(True)), "critical extension"),
    "malformed extension of an intermediate": (_below(more=_GARBLED), _UNKNOWN),
    "SHA-1": (_leaf(digest="sha1"), "too weak"),
    "MD5": (_leaf(digest="md5"), "too weak"),
    "intermediate with SHA-1": (_below(digest="sha1"), "too weak"),
    "intermediate with MD5": (_below(digest="md5"), "too weak"),
    "RSA 1024": (_leaf(bits=1024), "too weak|too small"),
    "RSA 1536": (_leaf(bits=1536), "too weak|too small"),
    "intermediate with RSA 1024": (_below(bits=1024), "too weak|too small"),
    "root with RSA 1024": (_by("small"), "too weak|too small"),
}  # fmt: skip
# RSA keys below 2048 bits that OpenSSL's security level 2 still accepts.
NARROW: dict[str, Chain] = {
    "RSA 1968": _leaf(bits=1968),
    "RSA 2047": _leaf(bits=2047),
    "intermediate with RSA 2047": _below(bits=2047),
    "root with RSA 2047": _by("narrow"),
}
GOOD: dict[str, Chain] = {
    "as it should be": _leaf(),
    "one of many names": _leaf("example.com", "localhost", "*.example.com"),
    "with an intermediate": _below(),
    "as many below an intermediate as it allows": _small_path(1),
    "as many below the root as it allows": _below_flat("flat", 0),
    "a name permitted by an intermediate": _constraints(permitted=["example.com", "localhost"]),
    "a name not excluded by an intermediate": _constraints(excluded=["example.com"]),
    "intermediate for servers": _below(eku=SERVER),
    "unknown extension": _leaf(more=_unknown(False)),
    "unknown extension of an intermediate": _below(more=_unknown(False)),
    "RSA 2048": _leaf(bits=2048),
    "root that signed itself with SHA-1": _by("old_digest"),  # nobody relies on that signature
    "P-384": _leaf(key=ec.generate_private_key(ec.SECP384R1())),
}

# A certificate's names, and the name to verify.
BAD_NAMES = [
    (["*.example.com"], "example.com"),
    (["*.example.com"], "a.b.example.com"),
    (["w*.example.com"], "www.example.com"),
    (["*.*.example.com"], "a.b.example.com"),
    (["*.com"], "example.com"),
    (["*"], "localhost"),
    (["example.com"], "www.example.com"),
    (["www.example.com."], "www.example.com"),
    (["xn--mnchen-3ya.example"], "munchen.example"),
    (["127.0.0.2"], "127.0.0.1"),
    (["localhost"], "127.0.0.1"),
    (["dns:127.0.0.1"], "127.0.0.1"),
    (["dns:*.0.0.1"], "127.0.0.1"),
    (["::2"], "::1"),
    (["127.0.0.1"], "::1"),
    (["dns:::1"], "::1"),
]
GOOD_NAMES = [
    (["*.example.com"], "www.example.com"),
    (["WWW.Example.COM"], "www.example.com"),
    (["xn--mnchen-3ya.example"], "xn--mnchen-3ya.example"),
    (["127.0.0.2", "127.0.0.1"], "127.0.0.1"),
    (["localhost", "::1"], "::1"),
]
