"""How an engine ended: its failure, or the next attempt with a smaller micro-batch."""

from datetime import UTC, datetime

import pytest

from gkd_core.config import (
    AnyRun,
    DataConfig,
    EvaluateConfig,
    EvaluateRun,
    ExportRun,
    PrototypesRun,
    TeacherConfig,
    TrainConfig,
    TrainRun,
)
from gkd_core.errors import Failure, FailureClass
from gkd_core.run_dir import COMPLETE, FAILED, STOPPED
from jobs.job import Desired, Job, State
from worker.exit_codes import (
    LOG_TAIL_BYTES,
    failure_of_exit,
    halve_micro_batch,
    log_tail,
    pictures_at_a_time,
)

WORD = Failure(failure_class=FailureClass.DATA, message="picture 7 is torn")


def job(*, sent: dict, batch_size: int, accumulate: int, processes: int = 1) -> Job:
    recipe = TrainConfig(batch_size=batch_size, accumulate=accumulate)
    return running(TrainRun(data=DataConfig(path="/data"), train=recipe, processes=processes), sent)


def running(config: AnyRun, sent: dict) -> Job:
    nothing = dict.fromkeys(
        ("worker", "lease_until", "started_at", "finished_at", "progress", "evaluation", "failure")
    )
    return Job(
        id="j",
        name="j",
        kind=config.kind,
        state=State.RUNNING,
        desired=Desired.RUN,
        reason="",
        priority=5,
        tags={},
        queue="cpu",
        attempt=1,
        created_at=datetime.now(UTC),
        waits_for=(),
        spec=sent,
        resolved=config.model_dump(mode="json", by_alias=True),
        attempts=(),
        **nothing,
    )


def test_a_failed_engine_has_the_last_word():
    assert failure_of_exit(FAILED, WORD, asked_to_stop=True) == WORD


@pytest.mark.parametrize(
    ("code", "seen"),
    [
        (FAILED, "could not start"),
        (STOPPED, "not by its worker"),
        (-9, "SIGKILL"),
        (-11, "SIGSEGV"),
        (3, "3"),
    ],
)
def test_an_end_without_a_word_is_a_failure_of_the_infrastructure(code, seen):
    failure = failure_of_exit(code, None, asked_to_stop=False)
    assert failure.failure_class is FailureClass.INFRASTRUCTURE
    assert seen in failure.message


@pytest.mark.parametrize("code", [COMPLETE, STOPPED, -15, -9])
def test_an_engine_that_we_stopped_has_not_failed(code):
    assert failure_of_exit(code, None, asked_to_stop=True) is None


@pytest.mark.parametrize(
    ("batch_size", "accumulate", "then"), [(8, 1, 2), (8, 2, 4), (9, 1, 3), (7, 1, 7), (6, 2, 6)]
)
def test_the_micro_batch_is_at_least_halved_and_the_batch_stays(batch_size, accumulate, then):
    sent = {"train": {"accumulate": accumulate}}
    smaller = halve_micro_batch(job(sent=sent, batch_size=batch_size, accumulate=accumulate))
    train = TrainRun.model_validate(smaller).train
    assert (train.batch_size, train.accumulate) == (batch_size, then)


def test_every_gpu_keeps_as_many_pictures_as_the_others():
    smaller = halve_micro_batch(job(sent={}, batch_size=12, accumulate=1, processes=2))
    assert smaller is not None
    assert smaller["train"]["accumulate"] == 2
    smaller = halve_micro_batch(
        job(sent={"train": {"accumulate": 2}}, batch_size=12, accumulate=2, processes=2)
    )
    assert smaller is not None
    assert smaller["train"]["accumulate"] == 6  # 4 would leave 3 pictures for 2 GPUs


MODEL = TeacherConfig(weights="/models/m.safetensors")


@pytest.mark.parametrize(
    "config",
    [
        EvaluateRun(data=DataConfig(path="/data"), model=MODEL),
        PrototypesRun(data=DataConfig(path="/data"), teacher=MODEL, student=MODEL),
    ],
    ids=lambda config: config.kind,
)
def test_a_job_that_does_not_train_looks_at_half_as_many_pictures_once(config):
    smaller = halve_micro_batch(running(config, {}))
    assert smaller is not None
    assert pictures_at_a_time(smaller, config.kind) == 4
    assert halve_micro_batch(running(type(config).model_validate(smaller), {})) is None


def test_one_picture_at_a_time_is_not_halved():
    one = EvaluateRun(data=DataConfig(path="/data"), model=MODEL, evaluate=EvaluateConfig(batch_size=1))
    assert halve_micro_batch(running(one, {"evaluate": {"batch_size": 1}})) is None
    assert halve_micro_batch(running(ExportRun(data=DataConfig(path="/data"), model=MODEL), {})) is None


@pytest.mark.parametrize(
    ("sent", "batch_size", "accumulate"),
    [({}, 8, 2), ({"train": {"accumulate": 2}}, 8, 4), ({}, 1, 1), ({"train": {"accumulate": 8}}, 8, 8)],
    ids=["done before", "done before, from 2", "one picture", "pictures one by one"],
)
def test_it_is_halved_once_and_only_where_it_can_be(sent, batch_size, accumulate):
    assert halve_micro_batch(job(sent=sent, batch_size=batch_size, accumulate=accumulate)) is None


def test_the_end_of_a_long_log_is_kept(tmp_path):
    path = tmp_path / "log.txt"
    path.write_bytes(b"x" * 3 * LOG_TAIL_BYTES + b"\0the end \xff")
    tail = log_tail(path)
    assert tail.endswith("the end \N{REPLACEMENT CHARACTER}")
    assert len(tail) < LOG_TAIL_BYTES


def test_no_log_has_an_empty_end(tmp_path):
    assert log_tail(tmp_path / "none") == ""
