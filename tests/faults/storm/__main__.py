"""`python -m tests.faults.storm --faults 300`: see docs/faults.md."""

from __future__ import annotations

import argparse
import json
import signal
import sys
from pathlib import Path
from random import SystemRandom

from .storm import Account, NotClean, storm

LAPTOP_SHARE = 0.25
"""Share of the faults on a laptop: there are half as many kinds, and one process instead of five."""


def main() -> int:
    """Run the storm and print its result; return 1 if a job was lost, doubled or reported wrongly."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--faults", type=int, default=320, help="how many in all")
    parser.add_argument("--seed", type=int, default=SystemRandom().getrandbits(32))
    parser.add_argument("--away", type=float, default=30.0, help="seconds for which a database is away")
    parser.add_argument("--way", choices=["node", "laptop"], action="append", help="both by default")
    parser.add_argument("--json", type=Path, help="where the account is written")
    arguments = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that all started processes are stopped
    shares = {"node": 1 - LAPTOP_SHARE, "laptop": LAPTOP_SHARE}
    ways = arguments.way or list(shares)
    accounts = []
    for way in ways:
        faults = round(arguments.faults * shares[way] / sum(shares[each] for each in ways))
        print(f"== {way}: {faults} faults, seed {arguments.seed}", flush=True)
        accounts.append(_account(way, faults, arguments.seed, arguments.away))
    _sum_up(accounts)
    if arguments.json:
        arguments.json.write_text(json.dumps([account.told() for account in accounts], indent=2) + "\n")
    return 0 if all(account.is_clean for account in accounts) else 1


def _account(way: str, faults: int, seed: int, away: float) -> Account:
    try:
        return storm(way, faults, seed=seed, away_seconds=away, say=lambda line: print(line, flush=True))
    except NotClean as error:
        return error.account


def _sum_up(accounts: list[Account]) -> None:
    for account in accounts:
        print(f"\n{account.way}, seed {account.seed}")
        for name, times in sorted(account.faults.items()):
            print(f"  {name:28s}{times:5d}")
        told = account.told()
        print(
            f"  jobs {account.jobs}, attempts {account.attempts}, faults {told['faults_in_all']}, "
            f"losses {len(account.losses)}, doubles {len(account.doubles)}, "
            f"untrue {len(account.untruths)}, refused wrongly {len(account.refusals)}, {account.seconds:.0f} s"
        )
        if account.left_out:
            print(f"  left out, since no disk can be mounted here: {', '.join(account.left_out)}")
        for line in [
            *account.losses,
            *account.doubles,
            *account.untruths,
            *account.refusals,
            *account.fell_over,
        ]:
            print(f"  ! {line}")


if __name__ == "__main__":
    sys.exit(main())
