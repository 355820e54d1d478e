import subprocess
from pathlib import Path

import pynvml
import pytest

from worker.gpus import count_gpus


def test_a_machine_without_a_driver_has_none(monkeypatch):
    def no_driver():
        raise pynvml.NVMLError(pynvml.NVML_ERROR_LIBRARY_NOT_FOUND)

    monkeypatch.setattr(pynvml, "nvmlInit", no_driver)
    assert count_gpus() == 0


@pytest.mark.skipif(not Path("/dev/nvidiactl").exists(), reason="needs an NVIDIA GPU")
def test_it_counts_what_the_driver_shows():
    listed = subprocess.check_output(["nvidia-smi", "--list-gpus"], text=True)
    assert count_gpus() == len(listed.splitlines()) > 0
