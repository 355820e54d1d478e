"""The GPUs that a worker has, and what the driver shows of them."""

import subprocess
from pathlib import Path
from types import SimpleNamespace

import pynvml
import pytest

from jobs.presence import Gpu
from worker.gpus import VISIBLE, count_gpus, look_at, own_gpus


def test_a_machine_without_a_driver_has_none(monkeypatch):
    def no_driver():
        raise pynvml.NVMLError(pynvml.NVML_ERROR_LIBRARY_NOT_FOUND)

    monkeypatch.setattr(pynvml, "nvmlInit", no_driver)
    assert count_gpus() == 0


@pytest.fixture
def driver(monkeypatch):
    """Replace the driver by one with two GPUs, the second without a temperature."""

    def no_temperature(handle, sensor):
        if handle == 1:
            raise pynvml.NVMLError(pynvml.NVML_ERROR_NOT_SUPPORTED)
        return 40

    def by_index(index):
        if index > 1:
            raise pynvml.NVMLError(pynvml.NVML_ERROR_INVALID_ARGUMENT)
        return index

    answers = {
        "nvmlInit": lambda: None,
        "nvmlShutdown": lambda: None,
        "nvmlDeviceGetCount": lambda: 2,
        "nvmlDeviceGetHandleByIndex": by_index,
        "nvmlDeviceGetHandleByUUID": lambda uuid: int(uuid[-1]),
        "nvmlDeviceGetIndex": lambda handle: handle,
        "nvmlDeviceGetUUID": lambda handle: f"GPU-{handle}",
        "nvmlDeviceGetName": lambda handle: "H200",
        "nvmlDeviceGetMemoryInfo": lambda handle: SimpleNamespace(total=100, used=30),
        "nvmlDeviceGetUtilizationRates": lambda handle: SimpleNamespace(gpu=70),
        "nvmlDeviceGetTemperature": no_temperature,
    }
    for name, answer in answers.items():
        monkeypatch.setattr(pynvml, name, answer)
    monkeypatch.delenv(VISIBLE, raising=False)


def test_a_worker_has_all_gpus_so_many_of_them_or_those_that_are_named(driver):
    assert own_gpus(None) == ("0", "1")
    assert own_gpus(1) == ("0",)
    assert own_gpus(("1",)) == ("1",)


def test_what_a_batch_system_hides_is_not_had(driver, monkeypatch):
    monkeypatch.setenv(VISIBLE, "3, GPU-5a")
    assert own_gpus(None) == ("3", "GPU-5a")
    assert own_gpus(1) == ("3",)
    for nothing in ("", "-1"):
        monkeypatch.setenv(VISIBLE, nothing)
        assert own_gpus(None) == ()


@pytest.mark.parametrize(
    ("value", "seen"),
    [
        ("3,-1,5", ("3",)),
        ("-1,3", ()),
        ("3,,5", ("3",)),
        (",3", ()),
        ("3,5,", ("3", "5")),
        (" 3 , 5 ", ("3", "5")),
        ("   ", ()),
        ("3,none,5", ("3",)),
        ("NoDevFiles", ()),
        ("0x1", ("0",)),
        ("03,+5", ("3", "5")),
        ("1gpu2,2", ("1", "2")),
        ("3,5,3", ()),
        ("3,03", ()),
        ("3,5,-1,3", ("3", "5")),
        ("GPU-5a,GPU-5b", ("GPU-5a", "GPU-5b")),
        ("GPU-5a, GPU-5b,gpu-5c,GPU-5d", ("GPU-5a", "GPU-5b")),
        ("GPU-5a,GPU-5a", ()),
        ("GPU-", ()),
        ("MIG-5a,MIG-5b", ("MIG-5a",)),
        ("MIG-GPU-5a/1/0", ("MIG-GPU-5a/1/0",)),
        ("٣", ()),
    ],
)
def test_visible_gpus_are_those_that_cuda_sees(driver, monkeypatch, value: str, seen: tuple[str, ...]):
    monkeypatch.setenv(VISIBLE, value)
    assert own_gpus(None) == seen
    assert own_gpus(1) == seen[:1]


def test_gpus_are_looked_at_by_index_and_by_uuid(driver):
    first, second = look_at(["0", "GPU-1"])
    assert first == Gpu(
        index=0, uuid="GPU-0", name="H200", memory_total=100, memory_used=30, utilisation=70, temperature=40
    )
    assert (second.index, second.temperature) == (1, None)


def test_a_gpu_that_the_driver_does_not_know_is_left_out(driver):
    assert [gpu.index for gpu in look_at(["7", "1"])] == [1]


def test_without_a_driver_there_is_nothing_to_look_at():
    if count_gpus() == 0:
        assert look_at(["0"]) == ()


@pytest.mark.skipif(not Path("/dev/nvidiactl").exists(), reason="needs an NVIDIA GPU")
def test_it_counts_what_the_driver_shows():
    listed = subprocess.check_output(["nvidia-smi", "--list-gpus"], text=True)
    assert count_gpus() == len(listed.splitlines()) > 0
    for gpu in look_at(own_gpus(None)):
        assert 0 <= gpu.memory_used <= gpu.memory_total
