"""`make bench`: runs every measurement that takes minutes at most, and writes one file of results.

    python bench/run.py [NAME ...]

Writes bench/results/<machine>-<date>.json, with what each printed as JSON, and charts of it as PNG beside it, and shows
their tables. The others in this folder take longer or need data of their own, and say so at their top.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from charts import draw
from figures import machine

HERE = Path(__file__).parent
SCRIPTS = ("selection", "rdm", "step", "parts", "prototypes_cost", "startup", "loading", "service")


def measure(name: str) -> dict[str, Any]:
    """Run one script; its table goes to the terminal as it is printed."""
    print(f"== bench/{name}.py", file=sys.stderr)
    began = time.monotonic()
    done = subprocess.run(
        [sys.executable, HERE / f"{name}.py"], stdout=subprocess.PIPE, text=True, check=True
    )
    return {"seconds": round(time.monotonic() - began, 1), **json.loads(done.stdout)}


def main() -> None:
    """Run the named scripts, or all."""
    names = sys.argv[1:] or [name for name in SCRIPTS if (HERE / f"{name}.py").exists()]
    where = machine()
    found = {"machine": where, "date": datetime.now(UTC).date().isoformat()}
    found["measurements"] = {name: measure(name) for name in names}
    label = re.sub(r"[^a-z0-9]+", "-", (where["gpu"] or where["cpu"]).lower()).strip("-")
    path = HERE / "results" / f"{label}-{found['date']}.json"
    path.write_text(json.dumps(found, indent=1) + "\n")
    print(path, *draw(path), sep="\n", file=sys.stderr)


if __name__ == "__main__":
    main()
