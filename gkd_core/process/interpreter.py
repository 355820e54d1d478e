"""Starting Python processes of ours so that nothing in the working directory is imported. No torch.

`python -m` and `python -c` put the working directory on the path in front of everything, and the working directory of
a service is where its data lies by default: a folder `PIL/` or a file `numpy.py` there would be run.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping

_SEARCH_PATHS = ("PATH", "PYTHONPATH", "LD_LIBRARY_PATH")


def python(*arguments: str) -> list[str]:
    """Return the command that runs this Python with arguments such as `-m gkd_core.train`, on a safe path."""
    return [sys.executable, "-P", *arguments]


def on_safe_path(environment: Mapping[str, str]) -> dict[str, str]:
    """Return an environment under which neither a process nor what it starts searches the working directory.

    An empty entry of a search path means the working directory, and is usually an accident: `$PYTHONPATH:/opt/more`.
    """
    cleaned = {name: _without_empty(environment[name]) for name in _SEARCH_PATHS if name in environment}
    return {**environment, **cleaned, "PYTHONSAFEPATH": "1"}


def _without_empty(paths: str) -> str:
    return os.pathsep.join(filter(None, paths.split(os.pathsep)))
