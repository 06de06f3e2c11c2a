"""``Program``: all the parts of a running proxy, built from the operator's options."""

import logging
import time
from datetime import UTC, datetime

import gevent
from gevent.event import Event
from gevent.lock import BoundedSemaphore

import log as logs
import tlsconfig
from access import Access
from admission import Admission, Turnstile
from assets import Assets
from board import Board
from bypassing import Bypassing
from contexts import ContextCache
from dialing import Dialer, Redirect
from door import Door
from downloads import Downloads
from feed import Feed
from health import Health
from interception import Interception
from issuance import Issuance
from limits import Limits
from localaddress import same_endpoint
from onlookers import Onlookers, hosts_of
from options import Options
from overview import Overview
from peers import Peers, Post
from plain import PlainHttp
from policy import Policy
from proxy import Proxy
from refusals import Refusals
from relaying import Relaying
from ruleset import rules, users, warnings
from seeing import Seeing, key_log
from upstream import Upstream
from version import VERSION
from website import Website
from workers import Workers

HOUR_SECONDS = 3600.0
_LAST_SECONDS = 3.0  # how long shutdown waits for a reload in progress

log = logging.getLogger("certifier.program")


class Program:
    """All the parts of a running proxy, wired together. Raises ``UsageError`` for an operator's mistake.

    ``post`` is its place among several workers; None if it runs alone.
    """

    def __init__(self, chosen: Options, limits: Limits, post: Post | None = None) -> None:
        self._chosen = chosen
        self._reloading = BoundedSemaphore()
        self._is_due = False  # a reload waits for the one in progress
        self._closed = False
        founds = post is None or post.is_first
        self._issuance = Issuance(chosen.leaves, _now(), chosen.store_max, log.info, founds)
        self._workers = Workers()
        stirred = Event()
        self._board = Board() if post is None else Board(kept=post.kept, stirred=stirred.set)
        self._feed = Feed()
        self.policy = Policy(rules(chosen.rules), same_endpoint)
        self._access = Access(self.policy, users(chosen.rules))
        tlsconfig.check_descriptors()  # first, or files that are given would be blamed
        keylog = key_log(chosen.sight, self._board)
        self._upstream = Upstream(chosen.upstream_ca, chosen.verify_upstream, keylog)
        assets = Assets()
        # The last step that may fail: a failed start must not rotate earlier --pcap files out.
        number = None if post is None else post.number
        self.seeing = Seeing(chosen.sight, self.policy, self._workers, VERSION, number, self._board, keylog)
        sight = self.seeing.sight
        turnstile = Turnstile(limits)
        self._contexts = ContextCache(
            chosen.capacity, self._issuance.leaves, self._workers, turnstile=turnstile, keylog=keylog, board=self._board
        )
        redirect = None
        if chosen.redirect is not None:
            redirect = Redirect(chosen.redirect, chosen.redirect_tls, chosen.proxy_protocol)
        dialer = Dialer(self._upstream, self.policy, redirect, limits, self._board)
        refused = Refusals(chosen.rules.learn_bypass)
        relaying = Relaying(dialer, redirect, limits, self._board.meter)
        bypassing = Bypassing(self.policy, dialer, refused, redirect)
        interception = Interception(
            self._contexts, self._upstream, self.policy, bypassing, refused, redirect, limits, sight, relaying
        )
        admission = Admission(limits)
        count = chosen.workers
        overview = Overview(self._board, self._feed, self._contexts, admission, refused, self._issuance, VERSION, count)
        self._peers = None if post is None else Peers(post, overview.snapshot, stirred)
        self._website = Website(
            assets,
            Onlookers(self._access, hosts_of(chosen.listen)),
            Health(self._issuance, self._workers),
            self._feed,
            overview.snapshot if self._peers is None else self._peers.snapshot,
        )
        door = Door(self._access)
        plain = PlainHttp(dialer, self.policy, door, self._website, sight, self._board.meter)
        access_log, board = self.seeing.access_log, self._board
        self.proxy = Proxy(interception, plain, dialer, self.policy, door, admission, limits, access_log, board)
        self._show_ca()

    def reload(self) -> None:
        """Reopen and reload all files but taps; tunnels go on. If one is invalid, all that was in force stays."""
        self.seeing.reopen()
        if self._is_due:
            return  # that one will read what has changed; without end they could queue up, as each may take seconds
        self._is_due = True
        outcome = "failed"
        with self._reloading:  # one at a time, so that the newest reading is applied last
            self._is_due = False
            if self._closed:
                return
            with logs.background("not reloaded, what was in force stays", logging.ERROR):
                self._reload()
                outcome = "done"
            self._board.reloaded(outcome)

    def _reload(self) -> None:
        new_rules = self._workers.run(rules, self._chosen.rules)  # a blocklist may have 100,000 lines
        new_users = self._workers.run(users, self._chosen.rules)
        new_roots = self._workers.run(self._upstream.read_roots)
        self._workers.run(self._issuance.reload, _now())
        self._upstream.use(new_roots)
        self._contexts.clear()
        self.policy.rules, self._access.users = new_rules, new_users
        log.info("reloaded: CA, stored certificates, roots of origins, lists and users")
        self._show_ca()
        self._tell_rules()

    def keep_house(self) -> None:
        """The housekeeping loop: prune and renew hourly, clear a crash's leftovers and check the CA's expiry daily."""
        hours = 0
        while True:
            if hours % 24 == 0:
                with logs.background("temporary files that a crash may have left are not removed"):
                    if stale := self._workers.run(self._issuance.clear_stale):
                        log.warning("removed %s that a crash had left", logs.counted(stale, "temporary file"))
                if hours:
                    self._tell_expiry()
            self._contexts.tidy()
            gevent.sleep(HOUR_SECONDS)
            self._contexts.renew()
            hours += 1

    def meet_peers(self) -> None:
        """Start answering the other workers."""
        if self._peers is not None:
            self._peers.start()

    def stop_pages(self) -> None:
        """End the streams of live data: nothing else ends their connections."""
        self._feed.close()

    def close(self) -> None:
        """At the end, write what is still buffered, and wait for a reload in progress."""
        self.seeing.close()
        if self._peers is not None:
            self._peers.keep()  # only now: what could not be written is counted, too
        self._closed = True  # no further reload begins: a thread in OpenSSL would crash when that is torn down at exit
        self._reloading.acquire(timeout=_LAST_SECONDS)

    def warn(self) -> None:
        """Warn of options that the operator may not have meant."""
        chosen, keylog = self._chosen, self._chosen.sight.keylog
        ca = chosen.leaves.ca
        if ca.missing:
            log.warning("without %s, no certificates are signed: give all three --sign-*, or --ca", ca.missing)
        if ca.files is None:
            log.warning(
                "no CA: only names in the store are intercepted; --ca=<dir> makes one, and certificates for all others"
            )
        self._tell_rules()
        if keylog is not None:
            log.warning("the keys of all connections are written to %s: whoever reads it can decrypt them", keylog)
        verifies = chosen.verify_upstream and (chosen.redirect is None or chosen.redirect_tls)
        if verifies and chosen.upstream_ca is None and not tlsconfig.system_has_roots():
            log.warning("no root certificates, so no origin is trusted: install ca-certificates, or give --upstream-ca")
        if not chosen.verify_upstream:
            log.warning("--no-verify-upstream: ORIGINS ARE NOT VERIFIED, anyone on the way can pose as any of them")

    def _show_ca(self) -> None:
        if (authority := self._issuance.authority) is None:
            return
        self._website.use(Downloads(authority.files.anchor, authority, self._workers))
        if authority.files.is_new:
            log.info("made a new CA in %s: clients must trust its ca.crt", self._chosen.leaves.ca.folder)
        for warning in authority.files.warnings:
            log.warning("%s", warning)
        self._tell_expiry()

    def _tell_rules(self) -> None:
        for warning in warnings(self.policy.rules):
            log.warning("%s", warning)

    def _tell_expiry(self) -> None:
        authority = self._issuance.authority
        warning = authority.files.expiry_warning(_now()) if authority else None
        if warning:
            log.warning("%s", warning)


def _now() -> datetime:
    """The current time, by the clock that all parts use."""
    return datetime.fromtimestamp(time.time(), UTC)
