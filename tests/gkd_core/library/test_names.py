"""`import gkd_core as gkd`: the public names are there, and none of them is loaded before it is used."""

import subprocess
import sys

import pytest

import gkd_core as gkd

BORDER = ("", ".config", ".events", ".errors", ".run_dir", ".process.engine", ".detectors.model_card")


def in_a_new_process(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.mark.parametrize("module", BORDER)
def test_the_border_loads_no_torch(module: str) -> None:
    code = f"import sys, gkd_core{module}, gkd_core; dir(gkd_core); print('torch' in sys.modules)"
    assert in_a_new_process(code) == "False"


def test_errors_can_be_caught_without_an_import_of_their_own() -> None:
    assert in_a_new_process("import gkd_core; print(gkd_core.errors.SpecError.__name__)") == "SpecError"


def test_every_public_name_is_found() -> None:
    assert set(gkd.__all__) <= set(dir(gkd))
    assert all(getattr(gkd, name) is not None for name in gkd.__all__)
    assert all(callable(getattr(gkd, name)) for name in gkd.__all__)


def test_a_name_that_is_none_is_no_attribute() -> None:
    with pytest.raises(AttributeError, match="destill"):
        gkd.destill  # type: ignore[attr-defined] # noqa: B018


@pytest.mark.parametrize("first", ["", "import gkd_core.distill.distiller; ", "gkd_core.Distiller; "])
def test_distill_can_be_called_and_stays_a_package(first: str) -> None:
    code = f"""import gkd_core; {first}
from gkd_core.distill.losses import GlobalLoss
import gkd_core.distill.losses
assert gkd_core.distill.losses.GlobalLoss is GlobalLoss
try:
    gkd_core.distill("nothing.safetensors", gkd_core.detector(), "nowhere", out="unused")
except gkd_core.errors.GkdError as error:
    print(type(error).__name__)"""
    assert in_a_new_process(code) == "DataError"
