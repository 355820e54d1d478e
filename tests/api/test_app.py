"""The app as a whole."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator


def test_its_description_names_every_route_and_what_errors_look_like(service):
    description = service.http.get("/openapi.json").json()
    paths = description["paths"]
    assert {
        "/jobs",
        "/jobs/validate",
        "/jobs/{job_id}",
        "/jobs/{job_id}/cancel",
        "/jobs/{job_id}/events",
        "/jobs/{job_id}/stream",
        "/jobs/{job_id}/metrics",
        "/jobs/{job_id}/log",
        "/jobs/{job_id}/report",
        "/jobs/{job_id}/artifacts/{name}",
        "/schema/job",
        "/healthz",
        "/readyz",
    } <= set(paths)
    spec = paths["/jobs"]["post"]["requestBody"]["content"]["application/json"]["schema"]
    assert set(spec["discriminator"]["mapping"]) == {"train", "distill", "evaluate", "prototypes", "export"}
    assert "actions" in description["components"]["schemas"]["Job"]["properties"]
    refusal = paths["/jobs"]["post"]["responses"]["422"]["content"]
    assert refusal["application/problem+json"]["schema"]["$ref"].endswith("/ProblemDetails")


def test_all_that_its_description_refers_to_is_there(service):
    description = service.http.get("/openapi.json").json()
    for reference in references(description):
        here = description
        for part in reference.removeprefix("#/").split("/"):
            here = here[part]
    download = description["paths"]["/jobs/{job_id}/artifacts/{name}"]["get"]["responses"]
    assert download["200"]["content"]["*/*"]["schema"]["format"] == "binary"
    assert {"206", "304"} <= set(download)


def test_its_description_shows_what_engines_tell(service):
    shapes = service.http.get("/openapi.json").json()["components"]["schemas"]
    engines, anything = shapes["StoredEvent"]["properties"]["body"]["anyOf"]
    kinds = {"progress", "prototypes", "evaluation", "checkpoint", "file", "report", "warning"}
    assert set(engines["discriminator"]["mapping"]) == kinds
    assert anything["additionalProperties"] is True
    assert "images_per_second" in shapes["Progress"]["properties"]


def references(value: object) -> Iterator[str]:
    """Yield every `$ref` anywhere inside."""
    if isinstance(value, dict):
        yield from (value["$ref"],) if "$ref" in value else ()
        value = list(value.values())
    if isinstance(value, list):
        for part in value:
            yield from references(part)


def test_importing_it_loads_no_torch():
    code = (
        "import api.app, jobs.store.store, client.cli, worker.runner, sys; assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_uvicorn_finds_it_in_the_environment(tmp_path, monkeypatch):
    from api.app import from_environment

    monkeypatch.setenv("GKD_HOME", str(tmp_path / "new"))
    app = from_environment()
    try:
        assert (tmp_path / "new" / "gkd.db").exists()
    finally:
        app.state.services.store.close()
