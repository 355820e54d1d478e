"""How long an engine takes from its start to its first training step, against the least that any engine needs.

    python bench/startup.py [--runs 5]

Both are whole processes, in turn: `python -m gkd_core.train RUN` on a distill job, ended behind its first optimiser
step; and a process that imports torch and torchvision and builds the same two detectors. The data are eight drawn
pictures of 64 px, so that reading them, scoring the teacher on one and pooling prototypes weigh little; they are
counted in all the same.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from functools import partial
from pathlib import Path

from figures import RUNS, in_turn, ratio, report

from gkd_core.config import run_config
from gkd_core.data.shapes import draw_shapes
from gkd_core.run_dir import RunDir
from gkd_core.train import train

TEACHER = {"architecture": "retinanet", "backbone": "resnet50"}
STUDENT = {"architecture": "retinanet", "backbone": "resnet18"}
RECIPE = {"epochs": 1, "batch_size": 2, "image_size": 64, "workers": 0}

BARE = f"""
import torch, torchvision
from gkd_core.config import DetectorConfig
from gkd_core.detectors.build import build_detector
for model in ({TEACHER!r}, {STUDENT!r}):
    build_detector(DetectorConfig.model_validate(model), 3, 64)
"""
TO_THE_FIRST_STEP = """
import os, runpy, sys
from gkd_core.training.trainer import Training

step = Training.train_step

def first(self, batch):
    step(self, batch)
    os._exit(0)

Training.train_step = first
sys.argv = ["gkd_core.train", sys.argv[1], "--attempt", "1"]
runpy.run_module("gkd_core.train", run_name="__main__")
"""


def process(code: str, *arguments: str) -> None:
    """Run Python code in a process to its end."""
    environment = {**os.environ, "OMP_WAIT_POLICY": "PASSIVE"}
    subprocess.run(
        [sys.executable, "-c", code, *arguments], check=True, env=environment, stdout=subprocess.DEVNULL
    )


def prepared(scratch: Path) -> Path:
    """Return a run directory with a distill job that can begin."""
    draw_shapes(scratch / "shapes", train=8, val=1, size=64, seed=0)
    base = {"data": str(scratch / "shapes"), "device": "cpu"}
    teacher = {"kind": "train", "model": TEACHER, "train": RECIPE, **base}
    for _ in train(run_config.validate_python(teacher), scratch / "teacher"):
        pass
    spec = {
        "kind": "distill",
        "teacher": {"weights": str(scratch / "teacher" / "model.safetensors")},
        "student": STUDENT,
        "train": RECIPE,
        **base,
    }
    RunDir(scratch / "run").prepare(run_config.validate_python(spec), 1)
    return scratch / "run"


def main() -> None:
    """Time both processes in turn."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--runs", type=int, default=RUNS)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        run = str(prepared(Path(scratch)))
        ways = {"engine": partial(process, TO_THE_FIRST_STEP, run), "bare": partial(process, BARE)}
        taken = in_turn(ways, options.runs)
    what = "engine process from start to first training step / importing torch and building both models"
    report([ratio(what, taken["engine"], taken["bare"], at_most=1.5)])


if __name__ == "__main__":
    main()
