"""The API against its own description: schemathesis sends allowed and forbidden requests, alone and in sequences.

All of its checks are on. Ids that it makes up name nothing, so most of them are replaced by ids of existing jobs.
"""

from __future__ import annotations

import json
import random
from collections import Counter
from collections.abc import Iterator
from contextlib import closing, suppress
from datetime import UTC, datetime
from typing import Any

import pytest
import schemathesis
from fastapi import FastAPI
from schemathesis.config import SchemathesisConfig
from schemathesis.core.parameters import ParameterLocation
from schemathesis.engine import Status, events, from_schema

from api.app import create_app
from gkd_core.errors import Failure, FailureClass
from gkd_core.events import FileWritten, Progress, Report
from jobs.artifacts import open_artifacts
from jobs.artifacts.base import Artifacts
from jobs.job import Artifact, Job, State
from jobs.keys import Scope
from jobs.queue import JobQueue, make_app
from jobs.resources import NewResource, ResourceKind
from jobs.settings import Settings
from jobs.store.store import Store

SEED = 20_261_120
LEAST_CASES = {"sqlite": 2000, "postgresql": 400}
"""Least cases. All edge cases, which are the most, are tried on SQLite; random cases and sequences on both."""
EXAMPLES = 8
"""Random cases of each route."""

NOT_BY_SCHEMA = (
    *("POST /jobs", "POST /jobs/validate", "POST /jobs/{job_id}/clone", "POST /jobs/{job_id}/retry"),
    *("PATCH /jobs/{job_id}", "GET /jobs", "GET /jobs/{job_id}/artifacts/{name}"),
    *("POST /datasets", "GET /datasets", "POST /models", "GET /models", "GET /models/{model_id}/file"),
)
"""Errors that a schema cannot describe: it gives the form of a spec, not whether the data set exists, an idempotency
key is new, `after` was handed out, a range lies within its file, or a model was uploaded."""

SPEC = {"kind": "train", "data": "discs", "train": {"epochs": 2, "image_size": 64}}


class World:
    """A service with jobs in every state, two of each, and with keys."""

    def __init__(self, app: FastAPI, store: Store, artifacts: Artifacts, tenant: str) -> None:
        self.app, self._store, self._artifacts, self._tenant = app, store, artifacts, tenant
        self._random = random.Random(SEED)
        self._spec = app.state.services
        self.ids = [self._job_in(state).id for state in State for _ in range(2)]
        self.datasets = [self._resource(ResourceKind.DATASET) for _ in range(10)]
        self.models = [self._resource(ResourceKind.MODEL) for _ in range(10)]
        self.created: set[str] = set()
        """Ids that the service gave to what requests created."""
        self.keys = [store.keys.create_key(tenant, "spare", {Scope.READ})[0].id for _ in range(20)]

    def pick(self, name: str) -> str:
        """Return something that exists, by the name of its path parameter."""
        known = {
            "job_id": self.ids,
            "name": ["chart.svg", "model.safetensors"],
            "key_id": self.keys,
            "dataset_id": self.datasets,
            "model_id": self.models,
        }
        return self._random.choice(known[name])

    def happens(self, share: float) -> bool:
        return self._random.random() < share

    def _resource(self, kind: ResourceKind) -> str:
        new = NewResource(kind=kind, name="cells", path="/nowhere")
        return self._store.resources.add_resource(new, tenant=self._tenant)[0].id

    def _job_in(self, state: State) -> Job:
        from jobs.specs import spec_errors

        spec = spec_errors.read_spec(SPEC)
        resolved = self._spec.resolve(spec, self._tenant)
        job, _ = self._store.submission.submit(spec, resolved, tenant=self._tenant)
        if state is not State.QUEUED:
            self._run(job, state)
        return job

    def _run(self, job: Job, state: State) -> None:
        claim = self._store.commands.claim(job.id, "ada")
        assert claim is not None
        self._publish(claim.ticket)
        match state:
            case State.PAUSED:
                self._store.submission.pause_requested(job.id)
                self._store.commands.pause(claim.ticket)
            case State.SUCCEEDED:
                self._store.commands.record(claim.ticket, Report(models={}), 3)
                self._store.commands.succeed(claim.ticket)
            case State.FAILED:
                failure = Failure(failure_class=FailureClass.BUG, message="it broke", hint="")
                self._store.commands.fail(claim.ticket, failure)
            case State.CANCELLED:
                self._store.commands.cancel(claim.ticket)

    def _publish(self, ticket: Any) -> None:
        told = Progress(
            run="model", epoch=0, epochs=2, step=5, steps=10, fraction=0.5, losses={"loss_cls": 1.0}
        )
        self._store.commands.record(ticket, told, 1)
        content = self._artifacts.root.parent / "chart.svg"
        content.parent.mkdir(parents=True, exist_ok=True)
        content.write_text("<svg/>")
        blob = self._artifacts.put(content)
        event = FileWritten(run="job", file="chart.svg", title="a chart", size=blob.size, sha256=blob.sha256)
        made = Artifact(name="chart.svg", size=blob.size, sha256=blob.sha256, created_at=datetime.now(UTC))
        self._store.commands.record(ticket, event, 2, made)


class Heard:
    """Collects what schemathesis reports."""

    def __init__(self) -> None:
        self.cases: Counter[str] = Counter()
        self.answers: Counter[int] = Counter()
        self.failures: dict[str, str] = {}
        """The first of each kind at each route."""

    def hear(self, event: events.EngineEvent) -> None:
        match event:
            case events.ScenarioFinished():
                self.cases[event.phase.value] += len(event.recorder.interactions)
                self.answers.update(
                    each.response.status_code
                    for each in event.recorder.interactions.values()
                    if each.response
                )
                self._look_at(event.recorder)
            case events.NonFatalError() | events.FatalError():
                self.failures[repr(event)] = ""

    def _look_at(self, recorder: Any) -> None:
        for case_id, checks in recorder.checks.items():
            for check in checks:
                if check.status is Status.FAILURE:
                    case, why = recorder.cases[case_id].value, check.failure_info.failure
                    told = f"{why.title}: {why.message}\n{case.as_curl_command()[:2000]}"
                    self.failures.setdefault(f"{case.method} {case.path} {check.name}", told)


def configured(secret: str, *, edges: bool) -> SchemathesisConfig:
    refused = ["2xx", "3xx", "400", "401", "403", "404", "409", "410", "416", "422", "429"]
    # Invalid requests are tried in the edge cases; sequences get further with valid ones.
    random_cases = {"mode": "positive", "max-examples": EXAMPLES, "database": "none", "no-shrink": True}
    lenient = {"positive_data_acceptance": {"expected-statuses": refused}}
    # The same file sent twice is one data set, which is gone for both once one of them deleted it.
    shared = {"ensure_resource_availability": {"enabled": False}}
    resources = [
        f"{verb} /{kind}/{{{kind[:-1]}_id}}" for verb in ("GET", "DELETE") for kind in ("datasets", "models")
    ]
    return SchemathesisConfig.from_dict(
        {
            "seed": SEED,
            "headers": {"Authorization": f"Bearer {secret}"},
            "workers": 1,
            "suppress-health-check": ["too_slow"],  # a busy machine may be slow
            "phases": {
                "coverage": {"enabled": edges},
                "fuzzing": {"generation": random_cases},
                "stateful": {"generation": random_cases},
            },
            "operations": [
                {"include-name": list(NOT_BY_SCHEMA), "checks": lenient},
                {"include-name": resources, "checks": shared},
                {"include-name": "GET /jobs/{job_id}/report", "checks": shared},  # a new job has none yet
            ],
        }
    )


def described(world: World, config: SchemathesisConfig) -> Any:
    """Return the schema of the service, with cases whose ids exist."""
    schema = schemathesis.openapi.from_asgi("/openapi.json", world.app, config=config)

    @schema.hook
    def after_call(context: Any, case: schemathesis.Case, response: Any) -> None:
        if response.status_code == 201:
            world.created.add(response.json().get("id", ""))

    @schema.hook
    def map_case(context: Any, case: schemathesis.Case) -> schemathesis.Case:
        if _is_valid(case, ParameterLocation.PATH):
            _lead_somewhere(case, world)
        if _is_valid(case, ParameterLocation.BODY) and isinstance(case.body, dict) and "kind" in case.body:
            _name_what_is_there(case.body, world)
        if isinstance(case.query, dict):
            _do_not_wait(case.query)
        return case

    return schema


def _lead_somewhere(case: schemathesis.Case, world: World) -> None:
    for name, value in (case.path_parameters or {}).items():
        if case.path.startswith("/tenants"):
            case.path_parameters[name] = "others"  # limits on our own tenant would refuse later requests
        elif value not in world.created and world.happens(0.8):  # a sequence goes on with what it created
            case.path_parameters[name] = world.pick(name)


def _is_valid(case: schemathesis.Case, location: ParameterLocation) -> bool:
    """Return whether this part is valid by the description; parts that are invalid on purpose are not changed."""
    component = case.meta.components.get(location) if case.meta else None
    return component is None or component.mode.is_positive


def _name_what_is_there(spec: dict[str, Any], world: World) -> None:
    spec["data"] = "discs"
    for role in ("model", "teacher", "student"):
        if isinstance(spec.get(role), dict) and "weights" in spec[role] and world.happens(0.8):
            spec[role] = {"weights": f"job:{world.pick('job_id')}"}


def _do_not_wait(query: dict[str, Any]) -> None:
    """Set the wait of a long poll or stream to nothing; invalid numbers stay."""
    with suppress(TypeError, ValueError):
        if 0 < float(query.get("wait", 0)) <= 3600:
            query["wait"] = 0


@pytest.fixture
def store(settings: Settings, database_url: str) -> Iterator[Store]:
    with closing(Store(database_url)) as store:
        yield store


@pytest.mark.timeout(900)  # half a minute on an idle machine
@pytest.mark.parametrize(
    ("database_url", "tenant", "scopes"),
    [("sqlite", "default", {Scope.ADMIN}), ("postgresql", "lab", {Scope.READ, Scope.WRITE})],
    indirect=["database_url"],
)
def test_no_request_breaks_what_the_description_promises(
    store: Store, settings: Settings, tenant: str, scopes: set[Scope]
):
    artifacts = open_artifacts(settings.artifacts_url)
    app = create_app(store, artifacts, JobQueue(make_app("memory://")), settings)
    world = World(app, store, artifacts, tenant)
    _, secret = store.keys.create_key(tenant, "fuzz", scopes)
    heard = Heard()
    database = store.database.engine.dialect.name
    config = configured(secret.text, edges=database == "sqlite")
    for event in from_schema(described(world, config)).execute():
        heard.hear(event)
    cases = sum(heard.cases.values())
    print(
        f"{database}: {cases} cases: {dict(heard.cases)}, answers {json.dumps(dict(sorted(heard.answers.items())))}"
    )
    assert not heard.failures, "\n\n".join(f"{where}: {what}" for where, what in heard.failures.items())
    assert not [status for status in heard.answers if status >= 500]
    assert heard.cases["stateful"] > 0
    assert cases >= LEAST_CASES[database]
