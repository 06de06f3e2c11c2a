"""Fuzzes the targets: ``python fuzz/run.py [--seconds=60] [--keep] [target...]``, or ``make fuzz``.

By coverage with atheris (requirements-fuzz.txt), or where that is not installed by hypothesis, which mutates the
corpus blindly. An input that makes a target fail is written to ``fuzz/findings`` and ends the run with status 1:
mend what it shows, and move it to the corpus. ``--keep`` adds to the corpus what reached new code, minimised.
"""

import argparse
import importlib.util
import shlex
import subprocess
import sys
import tempfile
import time
import traceback
from pathlib import Path

HERE = Path(__file__).parent
ROOMS = [path.stem for path in HERE.parent.glob("*.py")]
sys.path[:0] = [str(HERE.parent), str(HERE)]

LONGEST = 4096  # octets in an input
ONE_SECONDS = 10  # for one input: whatever takes longer counts as a hang


def main() -> int:
    """Fuzz each target (with atheris, in a process of its own); return 1 if any failed."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--seconds", type=int, default=60, help="for each target (default 60)")
    parser.add_argument("--keep", action="store_true", help="add to the corpus what reached new code")
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("targets", nargs="*", help="all, unless some are named")
    chosen, rest = parser.parse_known_args()
    if chosen.child:
        return _guided(chosen.targets[0], [chosen.targets[1], *rest, *chosen.targets[2:]])
    if rest:
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    guided = importlib.util.find_spec("atheris") is not None
    if not guided:
        print("atheris is not installed: fuzzing blindly. pip install -r requirements-fuzz.txt")
    import targets

    if unknown := [name for name in chosen.targets if name not in targets.TARGETS]:
        parser.error(f"no such target: {', '.join(unknown)}; there are {', '.join(targets.TARGETS)}")
    failed = []
    for name in chosen.targets or targets.TARGETS:
        print(f"fuzzing {name} for {chosen.seconds} s", flush=True)
        found = _in_child(name, chosen.seconds, chosen.keep) if guided else _blind(name, chosen.seconds)
        failed += [name] if found else []
    print(f"failed: {', '.join(failed)}" if failed else "no findings")
    return 1 if failed else 0


def _in_child(name: str, seconds: int, keep: bool) -> bool:
    """Run libFuzzer, which exits its process; return whether it found something."""
    corpus, findings = HERE / "corpus" / name, HERE / "findings" / name
    findings.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        grown, least = Path(folder, "grown"), Path(folder, "least")
        grown.mkdir()
        least.mkdir()
        # To minimise, libFuzzer runs itself again, by its first argument.
        me = Path(folder, "me")
        again = shlex.join([sys.executable, __file__, "--child", name])
        me.write_text(f'#!/bin/sh\nexec {again} "$0" "$@"\n')
        me.chmod(0o700)
        limits = [f"-max_total_time={seconds}", f"-max_len={LONGEST}", f"-timeout={ONE_SECONDS}"]
        words = [str(me), *limits, f"-artifact_prefix={findings}/", "-print_final_stats=1", str(grown), str(corpus)]
        found = subprocess.run(words, check=False).returncode != 0
        if keep and not found:
            subprocess.run([str(me), "-set_cover_merge=1", str(least), str(corpus), str(grown)], check=True)
            for path in least.iterdir():
                if not any(path.read_bytes() == kept.read_bytes() for kept in corpus.iterdir()):
                    (corpus / path.name[:12]).write_bytes(path.read_bytes())
    return found


def _guided(name: str, arguments: list[str]) -> int:
    import atheris

    with atheris.instrument_imports(include=[*ROOMS, "h11", "hpack", "docopt"]):
        import targets
    atheris.Setup(arguments, targets.TARGETS[name])
    atheris.Fuzz()  # does not return
    return 1


def _blind(name: str, seconds: int) -> bool:
    """Let hypothesis mutate the corpus; return whether it found something."""
    import targets
    from hypothesis import HealthCheck, given, settings
    from inputs import inputs

    end = time.monotonic() + seconds
    last = b""

    @settings(max_examples=1000, deadline=None, database=None, suppress_health_check=list(HealthCheck))
    @given(inputs([path.read_bytes() for path in targets.corpus(name)]))
    def attempt(data: bytes) -> None:
        nonlocal last
        last = data
        targets.TARGETS[name](data)

    while time.monotonic() < end:
        try:
            attempt()
        except Exception:
            path = HERE / "findings" / name / "blind"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(last)  # hypothesis runs the smallest failing input last
            traceback.print_exc()
            print(f"written to {path}")
            return True
    return False


if __name__ == "__main__":
    sys.exit(main())
