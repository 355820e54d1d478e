"""Engine processes that start without the seconds of importing torch: `python forked_engine.py`.

Each line on stdin names a run directory. A fork then does what `python -m gkd_core.train` does after its imports; its
process id is written to stdout, and its exit status once it has ended. Nothing of torch may have run before a fork,
since threads do not survive one; with OMP_NUM_THREADS=1 and OPENBLAS_NUM_THREADS=1 importing starts none.
"""

import os
import sys
from pathlib import Path

from gkd_core.train import main


def carry_out(folder: str) -> None:
    """Run the engine in the fork; never returns."""
    log = os.open(Path(folder) / "log.txt", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(log, 1)
    os.dup2(log, 2)
    code = main([folder])
    sys.stdout.flush()
    os._exit(code)


assert len(os.listdir("/proc/self/task")) == 1, "threads are not forked"
for line in sys.stdin:
    if not (child := os.fork()):
        carry_out(line.strip())
    print(child, flush=True)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
