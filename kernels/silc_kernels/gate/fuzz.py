"""The ops at random shapes under an instrument, for as long as wanted.

    python -m silc_kernels.gate.fuzz dry --minutes 10      compiled for sm_90, launches checked and dropped
    python -m silc_kernels.gate.fuzz guard --minutes 10    interpreted; no address outside of a launch's arguments
    python -m silc_kernels.gate.fuzz race --minutes 10     interpreted; no program in another one's way
    python -m silc_kernels.gate.fuzz guard --cases 3 --only patch_embed --seed 7

Each case runs with what came before it in one process. A case that ends it by a signal is named.
"""

import argparse
import math
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any

INSTRUMENTS = ("dry", "guard", "race")
CHILD = "SILC_KERNELS_FUZZ_CHILD"


def main(argv: Sequence[str] | None = None) -> None:
    options = _options(argv)
    if os.environ.get(CHILD) == "1":
        raise SystemExit(fuzz(options))
    # The interpreter is chosen when triton is imported, and a signal must leave someone to tell of it.
    arguments = sys.argv[1:] if argv is None else list(argv)
    interpreted = "0" if options.instrument == "dry" else "1"
    environment = os.environ | {CHILD: "1", "TRITON_INTERPRET": interpreted}
    command = [sys.executable, "-W", "ignore", "-X", "faulthandler", "-m", __spec__.name, *arguments]
    watch(command, environment)


def watch(command: Sequence[str], environment: Mapping[str, str]) -> None:
    """Run a command that prints a line "case ..." before each case; exits with its status.

    Raises:
        SystemExit: always; where a signal ended the command, it names the case.
    """
    child = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)
    case = "none: before the first"
    assert child.stdout is not None
    for line in child.stdout:
        print(line, end="", flush=True)
        if line.startswith("case "):
            case = line.removeprefix("case ").strip()
    status = child.wait()
    raise SystemExit(status if status >= 0 else f"ended by signal {-status} in case {case}")


def _options(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m silc_kernels.gate.fuzz",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("instrument", choices=INSTRUMENTS)
    parser.add_argument("--minutes", type=float, default=math.inf, help="begin no case after so many")
    parser.add_argument(
        "--cases", type=int, default=0, help="of each op, twice of patch_embed; 0: until the time is up"
    )
    parser.add_argument("--only", default="", help="ops whose name contains this")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(argv)
    if not options.minutes > 0:
        parser.error(f"--minutes {options.minutes:g}: give a number above 0")
    if options.cases < 0:
        parser.error(f"--cases {options.cases}: give a number from 1 on, or 0 to go on until the time is up")
    if options.only:
        from .cases import OPS

        if not any(options.only in op for op in OPS):
            parser.error(f"--only {options.only}: no op's name contains it; there are {', '.join(OPS)}")
    if options.cases == 0 and options.minutes == math.inf:
        options.minutes = 1.0
    return options


def fuzz(options: argparse.Namespace) -> int:
    """Cases of all ops in turns. Returns 1 where one had a problem or raised an error, else 0."""
    from .cases import OPS, random_cases

    # patch_embed twice: it has the most layouts.
    ops = [op for op in (*OPS, "patch_embed") if options.only in op]
    streams = {op: random_cases(op, options.seed) for op in ops}
    end = time.monotonic() + 60 * options.minutes
    wrong = count = 0
    while (count == 0 or time.monotonic() < end) and (options.cases == 0 or count < options.cases * len(ops)):
        case = next(streams[ops[count % len(ops)]])
        print(f"case {case.op} {case.label}", flush=True)
        for problem in _problems(options.instrument, case, options.seed + count):
            wrong += 1
            print(f"  problem: {problem}", flush=True)
        count += 1
    print(f"{count} cases, {wrong} problems", flush=True)
    return int(wrong > 0)


def _problems(instrument: str, case: Any, seed: int) -> Iterator[str]:
    from .cases import blank, drawn

    with _opened(instrument)() as run:
        try:
            case.run(blank if instrument == "dry" else drawn(seed))
        except Exception as error:  # whatever a case raises is a finding, and the next one is to run
            yield f"{type(error).__name__}: {error}"
    yield from run.problems


def _opened(instrument: str) -> Callable[[], AbstractContextManager[Any]]:
    if instrument == "dry":
        from .dry import dry

        return dry
    if instrument == "guard":
        from .guard import guard

        return guard
    from .race import race

    return race


if __name__ == "__main__":
    main()
