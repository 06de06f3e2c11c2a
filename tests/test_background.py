"""Background work that fails, and clocks that jump: clients notice nothing, and the work is done again."""

import os
import signal
from collections.abc import Callable

import scenarios
from cryptography import x509
from faultlab import Client, Faulty, names, run
from lab import until
from test_faults import errors

from store import Store

OPTIONS = "--ca=ca"
BUGS = ("memory", "internal")  # logged with a traceback
CAN_DO_WITHOUT = ("stat serials.__init__", " ledger.kept")  # links are then not followed; the store is read instead
KEY = ("load_pem_private_key ca.load_key", "internal")  # except this one: a key of an odd length raises it


def a_day(program: Faulty, _: str) -> str:
    """The tasks of a day, hour by hour."""
    assert all(program.order("an_hour_passes") for _ in range(24))
    return ""


def an_hour(program: Faulty, _: str) -> str:
    assert program.order("an_hour_passes")
    return ""


def serial(program: Faulty, name: str) -> int:
    path = Store(program.folder / "certs").path(name)
    assert path
    return x509.load_pem_x509_certificate(path.read_bytes()).serial_number


def test_housekeeping_goes_on(faulty: Callable[[str], Faulty]) -> None:
    program = faulty(OPTIONS)
    assert run(program, scenarios.again, "").sees == "200"
    steps = run(program, a_day, "").steps
    assert {"thread program.keep_house", "scandir store._folders"} <= set(steps)
    for step in steps:
        for error in errors(step):
            had = run(program, a_day, "", step, 1, error)
            assert (had.fired, had.left, bool(had.odd)) == (True, {}, error in BUGS), (step, error, had.lines)
    assert run(program, a_day, "").steps == steps
    assert run(program, scenarios.again, "").sees == "200"


def test_a_renewal_that_fails_holds_no_other_up(faulty: Callable[[str], Faulty]) -> None:
    program = faulty(OPTIONS)
    program.order("forget")
    two = next(names), next(names)
    for name in two:
        scenarios.near_its_end(program, name)
        run(program, lambda *_: "", name)
    before = {name: serial(program, name) for name in two}
    had = run(program, an_hour, "", "sign signer.sign", 1, "internal")
    failed = [name for name in two if serial(program, name) == before[name]]
    assert (had.fired, len(failed)) == (True, 1)
    assert [line for line in had.lines if f"the present certificate for {failed[0]} stays in use" in line]
    assert {run(program, scenarios.tunnel, name).sees for name in two} == {"200"}
    program.pass_time(61)  # until it is tried again
    assert run(program, an_hour, "").left == {}
    assert serial(program, failed[0]) != before[failed[0]]
    assert {run(program, scenarios.tunnel, name).sees for name in two} == {"200"}


def reload(program: Faulty, _: str) -> str:
    program.process.send_signal(signal.SIGHUP)
    return "" if "not reloaded" in program.wait_for("reloaded") else "reloaded"


def test_a_reload_that_fails_leaves_what_was_in_force(faulty: Callable[[str], Faulty]) -> None:
    program = faulty("--ca=ca --auth=users --bypass=@list")
    assert run(program, scenarios.tunnel, "a.example.com").sees == "200"
    assert run(program, reload, "").sees == "reloaded"
    steps = run(program, reload, "").steps
    del steps["write linefile._put"]  # a failure of the log can't be seen in the log
    for step, number in steps.items():
        for nth in range(1, number + 1):
            for error in errors(step):
                had = run(program, reload, "", step, nth, error)
                bug = error in BUGS and (step, error) != KEY
                assert (had.fired, had.left, bool(had.odd)) == (True, {}, bug), (step, had.lines)
                assert had.sees == ("reloaded" if step.endswith(CAN_DO_WITHOUT) else ""), step
                assert run(program, scenarios.tunnel, "a.example.com").sees == "200"
    assert run(program, reload, "").sees == "reloaded"


def hangups(program: Faulty, _: str) -> str:
    """Several reloads that are asked for while one is in progress."""
    log = program.folder / "log"
    with open(program.folder / "roots.pem", "r+b", buffering=0):  # until it is closed, whoever reads the FIFO waits
        for _each in range(5):
            log.unlink()
            program.process.send_signal(signal.SIGHUP)
            until(log.exists)
    return program.wait_for("reloaded")


def test_reloads_do_not_queue_up(faulty: Callable[[str], Faulty]) -> None:
    program = faulty("--ca=ca --log-file=log")
    (program.folder / "roots.pem").unlink()
    os.mkfifo(program.folder / "roots.pem")
    had = run(program, hangups, "")
    assert (sum("reloaded" in line for line in had.lines), had.left) == (2, {})


def test_the_clock_jumps(faulty: Callable[[str], Faulty]) -> None:
    program = faulty(OPTIONS)
    clients: list[Client] = [scenarios.again, scenarios.tunnel, scenarios.direct, scenarios.plain_get, scenarios.crl]
    for jump in (0.0, -scenarios.DAY_SECONDS, 2 * scenarios.DAY_SECONDS, -scenarios.DAY_SECONDS):
        program.pass_time(jump)
        for client in clients:
            had = run(program, client, next(names))
            assert (had.sees, had.logs, had.odd, had.left) == ("200", ["closed"], [], {}), (jump, client)
