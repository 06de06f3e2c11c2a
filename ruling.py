"""From the operator's words to the rules of the policy and the users: reads the files that they name.

Raises ``UsageError``. Called again to read the files anew.
"""

from collections.abc import Sequence

from options import RuleOptions
from patterns import Patterns, networks
from policy import Mismatch, Rules
from users import Users


def rules(chosen: RuleOptions) -> Rules:
    """The rules of the policy."""
    return Rules(
        clients=networks("--allow-from", chosen.allow_from),
        allow=_patterns("--allow", chosen.allow),
        deny=_patterns("--deny", chosen.deny),
        bypass=_patterns("--bypass", chosen.bypass),
        ports=chosen.ports,
        deny_private=chosen.deny_private,
        mismatch=Mismatch(chosen.mismatch),
        relays_non_tls=chosen.non_tls == "relay",
    )


def users(chosen: RuleOptions) -> Users | None:
    """Those who may use the proxy, where it has users."""
    return Users(chosen.auth) if chosen.auth is not None else None


def _patterns(option: str, texts: Sequence[str]) -> Patterns | None:
    """None where the option was not given: a list whose file is empty holds nothing, and does not stand for all."""
    return Patterns(option, texts) if texts else None
