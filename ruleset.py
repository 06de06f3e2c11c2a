"""Builds the policy's rules and the users from the operator's options, and reads the files that these name.

Raises ``UsageError``. Called again at each reload.
"""

from collections.abc import Iterator, Sequence

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


def warnings(found: Rules) -> Iterator[str]:
    """What the operator may not have meant: lists whose files hold no pattern, as after a failed download."""
    for option, patterns, meaning in (
        ("--allow", found.allow, "every target is refused"),
        ("--deny", found.deny, "none is denied"),
        ("--bypass", found.bypass, "none is bypassed"),
    ):
        if patterns is not None and patterns.is_empty:
            yield f"{option}: no pattern in its file, so {meaning}"


def users(chosen: RuleOptions) -> Users | None:
    """The users of the proxy; None if it has none."""
    return Users(chosen.auth) if chosen.auth is not None else None


def _patterns(option: str, texts: Sequence[str]) -> Patterns | None:
    """None if the option was not given. That differs from a list whose file is empty, which matches nothing."""
    return Patterns(option, texts) if texts else None
