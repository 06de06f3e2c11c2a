"""All proxies, in the order of the table."""

from bench.peers import Peer
from bench.peers.certifier import Certifier
from bench.peers.mitmproxy import Mitmproxy
from bench.peers.proxypy import ProxyPy
from bench.peers.relay import BareRelay, GeventRelay
from bench.peers.squid import Squid
from bench.peers.sslsplit import Sslsplit
from bench.peers.trafficserver import TrafficServer


def every(certifier: Certifier) -> list[Peer]:
    """All of them, installed or not."""
    references = [BareRelay(), GeventRelay()]
    others = [TrafficServer(), TrafficServer(reuse=False), Sslsplit(), Squid(), ProxyPy(), Mitmproxy()]
    return [certifier, *references, *others]
