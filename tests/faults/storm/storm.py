"""A storm: jobs run while one fault after the other occurs, and each job is checked at its end."""

from __future__ import annotations

import json
import shutil
import tempfile
import threading
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from random import Random
from typing import Any

from gkd_core.data.shapes import draw_shapes
from jobs.job import END_STATES

from .faults import ON_A_LAPTOP, ON_A_NODE, Fault, Hit, Scene, disk_full
from .judge import Published, judge, published
from .servers import wait_until
from .service import EngineSeen, Laptop, Node, Service

TINY = {"backbone_width": 0.125, "fpn": {"channels": 16}, "head": {"depth": 1}}
RECIPE = {
    "epochs": 16,
    "batch_size": 4,
    "image_size": 64,
    "workers": 0,
    "schedule": {"warmup_epochs": 0.5},
}
OPEN_JOBS = {Node: 3, Laptop: 1}
"""Open jobs that are kept at all times, beside those that faults submit."""
MOST_OPEN_JOBS = 6
"""With more, the storm waits before the next fault: they would fill the small disk, and each would be hit for ever."""
PATIENCE_SECONDS = 400.0
"""A job that has not ended so many seconds after the last fault is lost."""

END_WORDS = {state.value for state in END_STATES}


@dataclass
class Sent:
    """A submitted job: one, however often the request was repeated."""

    key: str
    spec: str
    job_id: str
    hits_before: int
    """The number of faults before it was submitted."""


@dataclass
class Account:
    """The result of a storm."""

    way: str
    seed: int
    jobs: int = 0
    attempts: int = 0
    faults: Counter[str] = field(default_factory=Counter)
    losses: list[str] = field(default_factory=list)
    doubles: list[str] = field(default_factory=list)
    untruths: list[str] = field(default_factory=list)
    refusals: list[str] = field(default_factory=list)
    fell_over: list[str] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)
    seconds: float = 0.0

    @property
    def is_clean(self) -> bool:
        """Return whether nothing was lost, doubled or recorded wrongly."""
        return not (self.losses or self.doubles or self.untruths or self.refusals)

    def told(self) -> dict[str, Any]:
        """Return the result for JSON."""
        return asdict(self) | {"faults_in_all": self.faults.total(), "faults": dict(self.faults)}


class Storm:
    """One service and the faults that it undergoes.

    Args:
        service: Just started and ready.
        seed: Of everything that is drawn.
        away_seconds: How long databases are away.
        say: Called with each line of the report.
    """

    def __init__(
        self, service: Service, pictures: Path, seed: int, away_seconds: float, say: Callable[[str], None]
    ) -> None:
        self.service = service
        self.account = Account(way=type(service).__name__.lower(), seed=seed)
        self._draw = Random(seed)
        self._specs = specs(pictures)
        self._say = say
        self._began = time.monotonic()
        self._open: list[Sent] = []
        self._sent: list[Sent] = []
        self._like: dict[str, Published] = {}
        self._hits: list[Hit] = []
        self._lock = threading.Lock()
        self._away_seconds = away_seconds

    def rage(self, faults: tuple[Fault, ...], times: int) -> None:
        """Cause so many faults, each kind as often as the others, in random order; then wait and judge all jobs."""
        self._learn_what_is_right()
        for number, fault in enumerate(self._order(faults, times), 1):
            self._keep_busy()
            self._strike(number, fault)
        self._calm()
        self.account.seconds = time.monotonic() - self._began

    def _order(self, faults: tuple[Fault, ...], times: int) -> list[Fault]:
        possible = [fault for fault in faults if fault is not disk_full or self.service.disk_is_own]
        self.account.left_out = [fault.__name__ for fault in faults if fault not in possible]
        deck: list[Fault] = []
        while len(deck) < times:
            deck += self._draw.sample(possible, len(possible))
        return deck[:times]

    def _learn_what_is_right(self) -> None:
        """Run undisturbed jobs, one of each spec; the first is the teacher of all others."""
        self._undisturbed("train")
        self._undisturbed("distill")
        self._log(f"{len(self._like)} undisturbed jobs say what is right")

    def _undisturbed(self, name: str) -> None:
        job_id = str(self.service.ask("POST", "/jobs", json=self._specs[name]).json()["id"])
        wait_until(lambda: self._job(job_id)["state"] in END_WORDS, f"an undisturbed {name} ends", 400)
        job = self._job(job_id)
        assert [attempt["outcome"] for attempt in job["attempts"]] == ["succeeded"], job
        self._like[name] = published(self.service, job_id)
        self._specs["distill"].setdefault("teacher", {"weights": f"job:{job_id}"})

    # ---- jobs --------------------------------------------------------------------------------------------

    def _send(self) -> Sent:
        with self._lock:
            name, key = self._draw.choice(sorted(self._specs)), uuid.uuid4().hex
            hits_before = len(self._hits)
        answer = self.service.ask("POST", "/jobs", json=self._specs[name], headers={"Idempotency-Key": key})
        sent = Sent(key, name, answer.json()["id"], hits_before)
        with self._lock:
            self._open.append(sent)
            self._sent.append(sent)
        return sent

    def _keep_busy(self) -> None:
        deadline = time.monotonic() + PATIENCE_SECONDS
        while self._judge_ended() > MOST_OPEN_JOBS and time.monotonic() < deadline:
            time.sleep(0.5)
        while len(self._open) < OPEN_JOBS[type(self.service)]:
            self._send()

    def _engines(self) -> list[EngineSeen]:
        engines = self.service.engines()
        if not engines:  # the last job may have ended since it was read
            self._keep_busy()
            time.sleep(0.3)
        return engines

    def _job(self, job_id: str) -> dict[str, Any]:
        job: dict[str, Any] = self.service.ask("GET", f"/jobs/{job_id}").json()
        return job

    # ---- faults ------------------------------------------------------------------------------------------

    def _strike(self, number: int, fault: Fault) -> None:
        wait_until(self._engines, "an engine runs", 180)
        scene = self._scene(number)
        scene.linger(0, 2)
        began = time.monotonic()
        try:
            hit = fault(scene)
        except AssertionError as error:
            self.account.doubles.append(str(error))
            hit = Hit(str(error), everybody=True)
        self._hits.append(hit)
        self.service.heal()
        name = fault.__name__.replace("_", " ")
        self.account.faults[name] += 1
        self._log(f"{number:4d}  {name:26s} {time.monotonic() - began:5.1f} s  {hit.told}")

    def _scene(self, number: int) -> Scene:
        """Return a scene with a random generator of its own, independent of what earlier faults drew."""
        draw = Random(f"{self.account.seed}, fault {number}")
        return Scene(self.service, draw, self._away_seconds, lambda: self._send().job_id, self._engines)

    # ---- judgement ---------------------------------------------------------------------------------------

    def _judge_ended(self) -> int:
        """Judge the jobs that have ended; return how many are still open."""
        for sent in list(self._open):
            job = self._job(sent.job_id)
            if job["state"] in END_WORDS:
                self._open.remove(sent)
                self._judge(sent, job)
                self.service.forget_run(sent.job_id)
        return len(self._open)

    def _judge(self, sent: Sent, job: dict[str, Any]) -> None:
        verdict = judge(self.service, job, self._like[sent.spec], self._hits[sent.hits_before :])
        self.account.jobs += 1
        self.account.attempts += len(job["attempts"])
        for found, kept in (
            (verdict.lost, self.account.losses),
            (verdict.doubled, self.account.doubles),
            (verdict.untrue, self.account.untruths),
        ):
            kept += [f"{sent.spec} {sent.job_id}: {words}" for words in found]
            for words in found:
                self._log(f"WRONG {sent.spec} {sent.job_id}: {words}")

    def _calm(self) -> None:
        """Wait without faults: every job ends, no engine is left, and there are as many jobs as were submitted."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        while self._judge_ended() and time.monotonic() < deadline:
            self.service.heal()
            time.sleep(0.5)
        for sent in self._open:
            job = self._job(sent.job_id)
            self.account.losses.append(f"{sent.spec} {sent.job_id} is still {job['state']}: {job['reason']}")
        wait_until(lambda: not self.service.all_engines(), "no engine is left")
        self._count_jobs()
        self.account.refusals = self.service.refusals
        self.account.fell_over = self.service.fell_over

    def _count_jobs(self) -> None:
        undisturbed = len(self._like)
        there = self.service.ask("GET", "/jobs", params={"limit": 500}).json()["items"]
        known = {sent.job_id for sent in self._sent}
        if len(known) < len(self._sent):
            self.account.losses.append(f"{len(self._sent)} jobs were sent under {len(known)} ids")
        if len(there) < min(500, len(known) + undisturbed):
            self.account.losses.append(f"{len(known) + undisturbed} jobs were sent, {len(there)} are there")
        if len(there) > len(known) + undisturbed:
            self.account.doubles.append(f"{len(known) + undisturbed} jobs were sent, {len(there)} are there")
        open_states = [job["id"] for job in there if job["state"] not in END_WORDS]
        self.account.losses += [f"{job_id} has not ended" for job_id in open_states if job_id not in known]

    def _log(self, line: str) -> None:
        self._say(f"{time.monotonic() - self._began:7.1f} s  {line}")


def specs(pictures: Path) -> dict[str, dict[str, Any]]:
    """Return specs of jobs that take seconds: two kinds, two families, and prototypes chosen meanwhile."""
    data = str(pictures)
    retinanet = TINY | {"architecture": "retinanet"}
    parts = {"control": False, "prototypes": {"per_class": 2}}
    return {
        "train": {"kind": "train", "data": data, "model": retinanet, "train": RECIPE},
        "distill": {"kind": "distill", "data": data, "student": TINY, "distill": parts, "train": RECIPE},
    }


@contextmanager
def fresh(way: type[Service]) -> Iterator[tuple[Service, Path]]:
    """Start a new service in a folder of its own, and draw pictures. Its files are kept when the block fails."""
    folder = Path(tempfile.mkdtemp(prefix="gkd-", dir="/tmp"))  # short: it holds a socket
    pictures = folder / "pictures"
    draw_shapes(pictures, train=14, val=4, size=64, seed=0)
    service = way(folder, pictures)
    try:
        service.start()
        yield service, pictures
    except BaseException:
        print(f"logs are in {folder}", flush=True)
        raise
    finally:
        service.close()
    shutil.rmtree(folder)


def storm(
    way: str,
    faults: int,
    *,
    seed: int,
    away_seconds: float,
    say: Callable[[str], None] = print,
    only: Sequence[Fault] | None = None,
) -> Account:
    """Run one form of the service under so many faults.

    Args:
        way: `node` or `laptop`.
        faults: How many.
        seed: Of everything that is drawn.
        away_seconds: How long databases are away.
        say: Called with each line of the report.
        only: These kinds of faults; None: all that apply to this way.
    """
    service_class, kinds = {"node": (Node, ON_A_NODE), "laptop": (Laptop, ON_A_LAPTOP)}[way]
    with fresh(service_class) as (service, pictures):
        raging = Storm(service, pictures, seed, away_seconds, say)
        try:
            raging.rage(only or kinds, faults)
        except Exception as error:
            raging.account.losses.append(f"the storm broke off: {error!r}")
            raise NotClean(raging.account) from error
        if not raging.account.is_clean:
            raise NotClean(raging.account)
    return raging.account


class NotClean(AssertionError):
    """Raised when a storm lost, doubled or recorded something wrongly."""

    def __init__(self, account: Account) -> None:
        super().__init__(json.dumps(account.told(), indent=2))
        self.account = account
