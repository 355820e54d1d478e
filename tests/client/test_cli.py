"""The `gkd` command against a real `gkd serve`."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from typer.testing import CliRunner, Result

from client import show_data
from client.cli import app
from client.names import fitting, likely

Spec = dict[str, Any]


@pytest.fixture
def gkd(url: str, monkeypatch: pytest.MonkeyPatch):
    """Return a function that runs a command against the server."""
    monkeypatch.setenv("GKD_URL", url)

    def run(*arguments: str, code: int = 0, given: str | None = None) -> Result:
        result = CliRunner().invoke(app, list(arguments), input=given)
        assert result.exit_code == code, result.output
        assert "Traceback" not in result.output
        return result

    return run


@pytest.fixture
def spec_file(tmp_path: Path, spec: Spec) -> str:
    path = tmp_path / "spec.json"
    path.write_text(json.dumps(spec))
    return str(path)


def submit(gkd, spec_file: str) -> str:
    job: dict[str, str] = json.loads(gkd("submit", spec_file, "--json").stdout)
    return job["id"]


def test_what_the_check_found_is_printed_when_a_job_is_submitted_and_shown(gkd, spec: Spec, tmp_path: Path):
    (tmp_path / "large.json").write_text(json.dumps({**spec, "train": {"epochs": 1, "batch_size": 64}}))
    first, warning = gkd("submit", str(tmp_path / "large.json")).stdout.splitlines()
    assert warning.startswith("warning: train.batch_size is 64, and there are only 4 pictures")
    assert "batch_size is 64" in gkd("show", first.split()[0]).stdout


def test_a_job_from_submit_to_download(gkd, spec_file: str, tmp_path: Path):
    job_id = submit(gkd, spec_file)
    watched = gkd("watch", job_id).stdout
    assert "model, epoch 2: published model.safetensors" in watched
    assert "succeeded" in watched.splitlines()[-1]
    assert job_id in gkd("jobs").stdout
    shown = gkd("show", job_id).stdout
    assert "succeeded" in shown
    assert "model.safetensors" in shown
    assert "fcos resnet18" in gkd("report", job_id).stdout
    gkd("download", job_id, "--out", str(tmp_path / "files"))
    assert {path.name for path in (tmp_path / "files").iterdir()} == {"model.safetensors", "report.json"}
    assert "attempt 1" in gkd("log", job_id).stdout


@pytest.mark.parametrize(
    ("kind", "files", "told"),
    [
        ("evaluate", {"report.json"}, "0.100"),
        ("export", {"report.json", "model.onnx"}, "onnx"),
        ("prototypes", {"report.json"}, ""),
    ],
)
def test_a_job_that_trains_nothing_waits_for_its_model(
    gkd, spec_file: str, tmp_path: Path, kind: str, files: set[str], told: str
):
    weights = {"weights": f"job:{submit(gkd, spec_file)}"}
    parts = {"teacher": weights, "student": weights} if kind == "prototypes" else {"model": weights}
    path = tmp_path / f"{kind}.json"
    path.write_text(json.dumps({"kind": kind, "data": "shapes", **parts}))
    job_id = submit(gkd, str(path))
    assert "succeeded" in gkd("watch", job_id).stdout.splitlines()[-1]
    assert kind in gkd("show", job_id).stdout
    assert told in gkd("report", job_id).stdout
    gkd("download", job_id, "--out", str(tmp_path / "files"))
    assert {each.name for each in (tmp_path / "files").iterdir()} == files
    path.write_text(json.dumps({"kind": "train", "data": "shapes", "model": {"weights": f"job:{job_id}"}}))
    assert f"of kind {kind}, which makes no model" in gkd("submit", str(path), code=1).stderr


def test_every_answer_is_there_as_json(gkd, spec_file: str, tmp_path: Path):
    job_id = submit(gkd, spec_file)
    events = [json.loads(line) for line in gkd("watch", job_id, "--json").stdout.splitlines()]
    assert events[0]["number"] == 1
    assert json.loads(gkd("jobs", "--limit", "1", "--json").stdout)[0]["id"] == job_id
    shown = json.loads(gkd("show", job_id, "--json").stdout)
    assert shown["state"] == "succeeded"
    assert "report.json" in [file["name"] for file in shown["artifacts"]]
    assert "train" in json.loads(gkd("schema").stdout)["discriminator"]["mapping"]
    assert "model" in json.loads(gkd("report", job_id, "--json").stdout)["models"]
    files = json.loads(gkd("download", job_id, "report.json", "-o", str(tmp_path), "--json").stdout)
    assert len(files[0]["sha256"]) == 64
    assert json.loads(gkd("submit", spec_file, "--check", "--json").stdout)["config"]["kind"] == "train"


def test_a_check_ends_with_one_line_that_says_on_what_and_where(
    gkd, spec_file: str, data: Path, monkeypatch: pytest.MonkeyPatch
):
    ok = "OK: 4 + 2 pictures, 4 classes, CPU"
    assert gkd("submit", spec_file, "--check").stdout.splitlines()[-1] == ok
    monkeypatch.chdir(data)
    assert gkd("run", spec_file, "--check").stdout.splitlines()[-1] == ok
    assert json.loads(gkd("run", spec_file, "--check", "--json").stdout)["config"]["kind"] == "train"
    assert not (data / "runs").exists()
    assert "--out" in gkd("run", spec_file, code=2).output


def test_a_check_tells_warnings_before_its_last_line():
    split = {"images": 1}
    warning = {"message": "odd boxes", "hint": "Look at them.", "loc": []}
    report = {"train": split, "val": split, "classes": ["cat"], "warnings": [warning]}
    found = {
        "config": {"device": "cuda", "processes": 2},
        "report": report,
        "warnings": ["odd boxes", "slow"],
    }
    assert show_data.usable(found).plain.splitlines() == [
        "warning: odd boxes Look at them.",
        "warning: slow",
        "OK: 1 + 1 pictures, 1 class, 2 GPUs",
    ]


@pytest.mark.parametrize("command", ["watch", "retry --watch"])
def test_ctrl_c_stops_watching_and_says_that_the_job_goes_on(
    gkd, start, url: str, spec, tmp_path: Path, command
):
    waiting = json.dumps({**spec, "resources": {"gpus": 1}})  # the server has none
    job_id = json.loads(gkd("submit", "-", "--json", given=waiting).stdout)["id"]
    if command != "watch":
        gkd("cancel", job_id)
    verb, *options = command.split()
    with start(verb, job_id, *options, cwd=tmp_path, env={"GKD_URL": url}) as watching:
        watching.wait_for("queued: ")
        assert watching.end(signal.SIGINT) == 130
    told = watching.log.read_text()
    open_job = told.split()[0] if options else job_id
    assert f"job {open_job} goes on" in told
    assert f"gkd watch {open_job}" in told
    assert f"gkd cancel {open_job}" in told
    assert "Traceback" not in told
    assert json.loads(gkd("show", open_job, "--json").stdout)["state"] == "queued"
    gkd("cancel", open_job)


def test_a_spec_may_come_through_a_pipe(gkd, spec: Spec):
    assert "queued" in gkd("submit", "-", given=json.dumps(spec)).stdout


def test_a_misspelt_field_is_told_in_one_message(gkd, tmp_path: Path, spec: Spec):
    path = tmp_path / "spec.json"
    path.write_text(json.dumps({**spec, "train": {"epoch": 3}}))
    told = gkd("submit", str(path), code=1).stderr
    assert "train.epoch: `epoch` is no field of `train`" in told
    assert "Did you mean `epochs`?" in told


@pytest.mark.parametrize("content", ["", "{", '{"kind": NaN}', "[" * 100_000])
def test_a_file_that_is_no_json_is_told_by_name(gkd, tmp_path: Path, content: str):
    path = tmp_path / "spec.json"
    path.write_text(content)
    assert "spec.json" in gkd("submit", str(path), code=1).stderr


def test_what_cannot_be_done_is_one_message_and_exit_code_1(gkd, spec_file: str, monkeypatch, port: int):
    job_id = submit(gkd, spec_file)
    gkd("watch", job_id)
    assert "cannot cancel" in gkd("cancel", job_id, code=1).stderr
    assert "nobody" in gkd("show", "nobody", code=1).stderr
    assert "absent.json" in gkd("submit", "absent.json", code=1).stderr
    monkeypatch.setenv("GKD_URL", f"http://127.0.0.1:{port}")
    assert "gkd serve" in gkd("jobs", code=1).stderr


def test_a_wrong_command_line_is_exit_code_2(gkd):
    for arguments in (["frobnicate"], ["show"], ["jobs", "--limit", "0"], ["run", "spec.json"]):
        gkd(*arguments, code=2)


def test_watching_a_job_that_was_cancelled_is_exit_code_1(gkd, spec: Spec):
    waiting = {**spec, "resources": {"gpus": 1}}  # the server has none
    job_id = json.loads(gkd("submit", "-", "--json", given=json.dumps(waiting)).stdout)["id"]
    assert "no worker serves queue gpu" in gkd("show", job_id).stdout
    gkd("cancel", job_id)
    assert "cancelled" in gkd("watch", job_id, code=1).stdout


def test_a_data_set_is_described_and_what_is_none_refused(gkd, data: Path, tmp_path: Path):
    told = gkd("data", "check", str(data / "shapes")).stdout
    assert "COCO" in told
    assert json.loads(gkd("data", "check", str(data / "shapes"), "--json").stdout)["train"]["images"] == 4
    assert "under 8 pixels at 64" in gkd("data", "check", str(data / "shapes"), "--image-size", "64").stdout
    assert "only headers were read" in gkd("data", "check", str(data / "shapes"), "--quick").stdout
    assert "no data set" in gkd("data", "check", str(tmp_path), code=1).stderr
    answer = json.loads(gkd("data", "check", str(tmp_path), "--json", code=1).stdout)
    assert (answer["usable"], answer["problems"][0]["loc"]) == (False, ["data", "path"])


def test_a_wrong_setting_is_named(gkd, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("GKD_PORT", "many")
    assert "GKD_PORT" in gkd("serve", code=1).stderr


@pytest.mark.parametrize(
    ("name", "value", "told"),
    [
        ("GKD_LEASE_SECONDS", "1", "error: renew_seconds 10 must be at most half"),
        ("GKD_DATABASE_URL", "nonsense", "error: GKD_DATABASE_URL: needs sqlite:///FILE"),
        ("GKD_HOME", "/dev/null/home", "error: /dev/null/home: Not a directory"),
    ],
)
def test_what_keeps_the_service_from_starting_is_one_sentence(
    gkd, port: int, monkeypatch: pytest.MonkeyPatch, name: str, value: str, told: str
):
    monkeypatch.setenv(name, value)
    assert gkd("serve", "--port", str(port), code=1).stderr.startswith(told)


@pytest.mark.parametrize("command", ["show", "cancel", "watch", "log", "report", "download"])
@pytest.mark.parametrize("job_id", ["", ".."])
def test_what_is_no_id_is_not_asked_for(gkd, command: str, job_id: str):
    assert "is no id of a job" in gkd(command, job_id, code=1).stderr


def test_a_reader_that_has_seen_enough_is_no_error(gkd, spec_file: str, url: str):
    job_id = submit(gkd, spec_file)
    line = f"{sys.executable} -m client.cli watch {job_id} --json --url {url} | head -n 1"
    done = subprocess.run(["bash", "-c", line], capture_output=True, text=True, timeout=60)
    assert json.loads(done.stdout)["number"] == 1
    assert done.stderr == ""


def test_a_spec_with_half_a_character_is_told_by_name(gkd, tmp_path: Path):
    path = tmp_path / "spec.json"
    path.write_text('{"kind": "train", "data": "\\ud800"}')
    assert "spec.json: cannot be read as JSON" in gkd("submit", str(path), code=1).stderr


def test_help_is_quick_and_needs_neither_torch_nor_the_service():
    code = (
        "import sys; from typer.testing import CliRunner; from client.cli import app; "
        "assert CliRunner().invoke(app, ['--help']).exit_code == 0; "
        "heavy = {'torch', 'fastapi', 'celery', 'sqlalchemy', 'numpy', 'pydantic'} & set(sys.modules); "
        "assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_workers_are_listed_with_what_they_do(gkd):
    [worker] = json.loads(gkd("workers", "--json").stdout)
    assert (worker["queues"], worker["gpus"]) == (["cpu"], [])
    assert worker["state"] in ("idle", "busy")  # among the jobs of earlier tests
    assert worker["name"][:20] in gkd("workers").stdout


# ---- ids -------------------------------------------------------------------------------------------------


def test_a_job_is_named_by_the_beginning_of_its_id_or_by_its_name(gkd, spec: Spec, tmp_path: Path):
    path = tmp_path / "named.json"
    path.write_text(json.dumps({**spec, "name": "the only one of its name"}))
    job_id = submit(gkd, str(path))
    for written in (job_id[:9], f"job:{job_id}", "the only one of its name"):
        assert json.loads(gkd("show", written, "--json").stdout)["id"] == job_id
    assert "succeeded" in gkd("watch", job_id[:9]).stdout
    for command in ("report", "log", "metrics"):
        gkd(command, job_id[:9])
    gkd("download", job_id[:9], "report.json", "--out", str(tmp_path))
    assert json.loads(gkd("edit", job_id[:9], "--name", "renamed", "--json").stdout)["id"] == job_id
    for command in ("cancel", "pause", "resume", "retry"):
        assert "allowed now: delete" in gkd(command, job_id[:9], code=1).output
    assert json.loads(gkd("clone", "renamed", "--json").stdout)["spec"]["name"] == "renamed"
    assert json.loads(gkd("delete", job_id[:9], "--json").stdout) == {"deleted": job_id}


def test_a_name_of_several_jobs_lists_them_and_touches_none(gkd, spec: Spec):
    named = json.dumps({**spec, "name": "twins", "resources": {"gpus": 1}})  # no worker has one, so they wait
    both = [json.loads(gkd("submit", "-", "--json", given=named).stdout)["id"] for _ in range(2)]
    told = gkd("cancel", "twins", code=1).stderr
    assert "'twins' fits 2:" in told
    assert all(job_id in told for job_id in both)
    for job_id in both:
        assert json.loads(gkd("show", job_id, "--json").stdout)["state"] == "queued"
        gkd("cancel", job_id)


def test_an_unknown_name_is_asked_about(gkd, spec: Spec):
    gkd("submit", "-", given=json.dumps({**spec, "name": "hippopotamus"}))
    told = gkd("show", "hipopotamus", code=1).stderr
    assert "there is no job 'hipopotamus'" in told
    assert "Did you mean hippopotamus?" in told
    assert "Did you mean" not in gkd("show", "qqqqqqqq", code=1).stderr


def test_a_data_set_is_named_by_its_name_too(gkd, data: Path):
    made = json.loads(gkd("datasets", "add", str(data / "shapes"), "--name", "pond", "--json").stdout)
    assert json.loads(gkd("datasets", "show", "pond", "--json").stdout)["id"] == made["id"]
    assert "Did you mean pond?" in gkd("datasets", "show", "ponds", code=1).stderr
    prefix = f"dataset:{made['id'][:10]}"
    assert json.loads(gkd("datasets", "delete", prefix, "--json").stdout) == {"deleted": made["id"]}


def test_names_that_fit_are_found_and_those_that_nearly_fit_are_offered():
    class Thing(NamedTuple):
        id: str
        name: str

    things = [Thing("abc1", "Shapes Student"), Thing("abd2", "abc"), Thing("ff00", "")]
    assert [thing.id for thing in fitting("abc", things)] == ["abc1", "abd2"], "a name and an id's beginning"
    assert fitting("abc1", things) == things[:1]
    assert fitting("", things) == things
    assert likely("shapes", things) == ["Shapes Student"]
    assert likely("abe2", things) == ["abd2"]


# ---- again, changed, gone ----------------------------------------------------------------------------------


def test_a_job_is_cloned_with_changes_and_deleted(gkd, spec_file: str):
    first = submit(gkd, spec_file)
    gkd("watch", first)
    changes = ("--set", "name=wide", "--set", "train.epochs=3", "--set", 'tags={"team": "lab"}')
    clone = json.loads(gkd("clone", first, *changes, "--json").stdout)
    assert (clone["name"], clone["spec"]["train"]["epochs"], clone["tags"]) == ("wide", 3, {"team": "lab"})
    assert "wide" in gkd("jobs", "--tag", "team:lab", "--tag", "team").stdout
    edited = json.loads(
        gkd("edit", clone["id"], "--name", "wider", "--tag", "round=2", "--tag", "team=", "--json").stdout
    )
    assert (edited["name"], edited["tags"]) == ("wider", {"round": "2"})
    told = gkd("edit", clone["id"], "--tag", "round", code=2).output
    assert "KEY=VALUE" in told, "a forgotten value takes no tag away"
    assert json.loads(gkd("show", clone["id"], "--json").stdout)["tags"] == {"round": "2"}
    gkd("watch", clone["id"])
    assert json.loads(gkd("delete", clone["id"], "--json").stdout) == {"deleted": clone["id"]}
    assert "there is no job" in gkd("show", clone["id"], code=1).output
    assert "train.epoch" in gkd("clone", first, "--set", "train.epoch=3", code=1).output
    assert "FIELD=VALUE" in gkd("clone", first, "--set", "train.epochs", code=1).output


def test_a_job_that_was_cancelled_is_done_again(gkd, spec: Spec, tmp_path: Path):
    teacher = tmp_path / "teacher.json"
    takes_long = {**spec, "train": {**spec["train"], "epochs": 40}}
    teacher.write_text(json.dumps(takes_long))
    job_id = submit(gkd, str(teacher))
    gkd("cancel", job_id)
    gkd("watch", job_id, code=1)
    watched = gkd("retry", job_id, "--watch").stdout
    assert "succeeded" in watched.splitlines()[-1]
    assert "allowed now: delete" in gkd("retry", watched.split()[0], code=1).output
    assert job_id in gkd("show", watched.split()[0]).stdout


def test_how_numbers_went_is_told(gkd, url: str, spec_file: str):
    job_id = submit(gkd, spec_file)
    gkd("watch", job_id)
    assert json.loads(gkd("metrics", job_id, "--json").stdout) == {"runs": {}}, (
        "the fake engine measures nothing"
    )
    assert "nothing" in gkd("metrics", job_id).stdout


def test_metrics_without_a_job_are_those_of_the_service(gkd):
    assert "# TYPE gkd_jobs gauge" in gkd("metrics").stdout
    numbers = json.loads(gkd("metrics", "--json").stdout)
    assert {"name": "gkd_workers", "labels": {"state": "lost"}, "value": 0.0} in numbers


def test_the_specs_of_init_are_submitted_as_they_are(gkd, data: Path, tmp_path: Path):
    written = gkd("init", str(data / "shapes"), "-o", str(tmp_path / "spec.yaml")).stdout.splitlines()
    teacher, student = (json.loads(gkd(*line.split()[1:], "--json").stdout) for line in written[-2:])
    assert student["waits_for"] == [teacher["id"]]
    assert gkd("watch", student["id"]).stdout.splitlines()[-1].count("succeeded") == 1


def test_a_reference_by_name_that_fits_nothing_is_told(gkd, spec: Spec, tmp_path: Path):
    path = tmp_path / "spec.json"
    path.write_text(json.dumps({**spec, "tags": {"data": "dataset:x"}, "model": {"weights": "job:nobody"}}))
    assert "nobody" in gkd("submit", str(path), "--check", code=1).stderr


def test_two_jobs_are_compared(gkd, spec: Spec, tmp_path: Path):
    path, ids = tmp_path / "spec.json", []
    for epochs in (1, 2):
        path.write_text(json.dumps({**spec, "train": {**spec["train"], "epochs": epochs}}))
        ids.append(submit(gkd, str(path)))
        gkd("watch", ids[-1])
    assert "train.epochs" in gkd("compare", *ids).stdout
    assert json.loads(gkd("compare", *ids, "--json").stdout)["differences"]["train.epochs"] == [1, 2]
