"""``Guard``: checks that the Host of a tunnel's requests is the name connected to, and notes what can't be decoded."""

import names
from errors import CertifierError, ClientError, Refused
from exchange import Connection, Exchange
from policy import Policy
from record import Record
from recorder import Malformed, Observer


class Guard(Observer):
    """Notes in a tunnel's record where its watcher gives up, and a Host that is not the name connected to."""

    def __init__(self, policy: Policy, name: str, record: Record) -> None:
        self.refusal: CertifierError | None = None
        self._awaited: set[Exchange] = set()  # requests whose responses have not ended
        self._spoilt = False  # where responses begin and end is no longer known
        self._policy = policy
        self._name = name
        self._record = record
        self._told = False

    @property
    def answerable(self) -> bool:
        """Whether at most one response is awaited, and has not begun: then an error can be sent in its place."""
        return (
            not self._spoilt and len(self._awaited) <= 1 and all(exchange.status is None for exchange in self._awaited)
        )

    @property
    def head_only(self) -> bool:
        """Whether the response that is awaited is one to HEAD, which has no content (RFC 9110 §9.3.2)."""
        return any(exchange.method == "HEAD" for exchange in self._awaited)

    def answered(self, status: int) -> None:
        """The client gets a reply with this status in place of the response that is awaited, if one is."""
        for exchange in self._awaited:
            exchange.status = status

    def check(self) -> None:
        """Raise the refusal, if there is one: nothing more may pass."""
        if self.refusal is not None:
            raise self.refusal.again()

    def request(self, exchange: Exchange) -> None:
        """Check its Host."""
        self._awaited.add(exchange)
        if not self._policy.minds_mismatch or self.refusal is not None:
            return
        try:
            host = names.target(exchange.authority, default_port=443).host
        except ClientError:
            host = exchange.authority
        if host == self._name:
            return
        try:
            remark = self._policy.check_mismatch("Host", host, self._name)
        except Refused as refusal:
            self.refusal = refusal.again()
            return
        if not self._told:  # once per tunnel
            self._told = True
            self._record.note(remark)

    def ended(self, exchange: Exchange) -> None:
        """Its response is no longer awaited."""
        self._awaited.discard(exchange)

    def noted(self, connection: Connection, what: str, malformed: Malformed | None) -> None:  # noqa: ARG002
        """Note in the tunnel's line what is not decoded. If mismatches are denied, so is HTTP whose Host is unknown."""
        self._record.note(f"not decoded: {what}")
        if malformed is None:
            return
        self._spoilt = self._spoilt or bool(self._awaited) or malformed is Malformed.ORIGIN
        if self._policy.denies_mismatch:
            self.refusal = Refused(f"can't tell the Host: {what}")
