"""The OpenAPI description at /openapi.json: FastAPI's own, completed by what holds for all routes.

A route declares what is specific to it: `responses={409: {"description": ...}}`. What follows from the
middleware, authentication and the shape of a route is filled in here, so that a new route is always described
completely.
"""

from __future__ import annotations

import re
from typing import Any

from fastapi import FastAPI
from fastapi.routing import APIRoute
from starlette.types import Lifespan

from api import errors
from api.auth import OPEN
from jobs.resources import NewDataset, NewModel

_PROBLEM = {"$ref": "#/components/schemas/ProblemDetails"}

_FRAMEWORKS_OWN = ("HTTPValidationError", "ValidationError")
"""Schemas of errors that FastAPI would send; ours differ."""

ABOUT = """Distils object detectors, and measures the gain against a control.

- **Keys** are sent as `Authorization: Bearer gkd_...`. While there are no keys, only the local machine has access.
- **Errors** are `application/problem+json` (RFC 9457): `code` is for programs, `detail` for people, and `request_id`
  is found in the header `X-Request-ID` and in the server's log.
- **Retries** are safe: a `POST` that creates a job accepts an `Idempotency-Key`.
"""

TAGS = {
    "jobs": "Submitting and managing jobs.",
    "following": "Events, log and metrics of a job while it runs.",
    "artifacts": "The files that a job publishes.",
    "datasets": "Data sets that specs name as `dataset:<id>`: registered under a data root, or uploaded.",
    "models": "Models that specs name as `model:<id>`: registered under a data root, or uploaded.",
    "keys": "API keys, tenants and limits.",
    "workers": "The workers of the service.",
    "health": "Liveness, readiness and metrics.",
}

_MEANS = {
    400: "the body is not JSON (`invalid_json`)",
    401: "no valid API key (`unauthorized`)",
    403: "the key lacks a scope (`missing_scope`), the tenant has reached a limit (`quota_exceeded`), or the "
    "request comes from a forbidden site or host (`forbidden`)",
    404: "it does not exist, or belongs to another tenant (`unknown_...`)",
    408: "the body arrives too slowly (`too_slow`)",
    413: "the body is too large (`too_large`)",
    422: "the request has invalid values; `errors` names each field (`invalid_request`, `invalid_spec`)",
    429: "this key sends too many requests; retry after `Retry-After` seconds (`too_many_requests`)",
    500: "an internal error of GKD; its log has the details under the request id (`internal_error`)",
    503: "the database does not answer (`database_away`) or accepts no writes (`database_refuses`), or a data set is "
    "being unpacked (`still_unpacking`); retry after `Retry-After` seconds",
}
"""Description of a status unless the route gives a more precise one."""

_IN_PATHS = {
    "job_id": ("Id of a job, as `POST /jobs` gives it.", "4f1c0a9be27d"),
    "dataset_id": ("Id of a data set, as `POST /datasets` gives it.", "5b7f20c3e9d1"),
    "model_id": ("Id of a model, as `POST /models` gives it.", "e04a96d17b52"),
    "key_id": ("Id of a key, as `GET /keys` lists it.", "8c2e51f0a7d3"),
}


class Described(FastAPI):
    """A FastAPI app whose description lists all possible answers and has a summary of one sentence for each route."""

    def openapi(self) -> dict[str, Any]:
        """Return the OpenAPI description; computed once."""
        if self.openapi_schema is None:
            description = super().openapi()
            description["components"]["schemas"] |= _bodies_beside_files()
            description["components"]["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
            for path, operations in description["paths"].items():
                for method, operation in operations.items():
                    _complete_operation(path, method, operation, description["components"]["schemas"])
            for name in _FRAMEWORKS_OWN:
                description["components"]["schemas"].pop(name, None)
        return super().openapi()


def described(version: str, lifespan: Lifespan[FastAPI]) -> Described:
    """Return an app without routes.

    Args:
        version: Of GKD.
        lifespan: Context that is entered while a server serves the app.
    """
    refusal: dict[str, Any] = {"model": errors.ProblemDetails}
    return Described(
        title="GKD",
        version=version,
        lifespan=lifespan,
        description=ABOUT,
        license_info={"name": "Apache-2.0", "identifier": "Apache-2.0"},
        openapi_tags=[{"name": name, "description": text} for name, text in TAGS.items()],
        generate_unique_id_function=_name,
        responses={422: refusal, 500: refusal},
        redirect_slashes=False,  # /jobs/ is no route; a redirect would quote the client's Host
        docs_url=None,
        redoc_url=None,
    )


def _bodies_beside_files() -> dict[str, Any]:
    """Return the schemas of JSON bodies of routes that also accept a file and so parse their bodies themselves."""
    shapes: dict[str, Any] = {}
    for model in (NewDataset, NewModel):
        schema = model.model_json_schema(ref_template="#/components/schemas/{model}")
        shapes |= {**schema.pop("$defs", {}), model.__name__: schema}
    return shapes


def _name(route: APIRoute) -> str:
    return route.name


def _complete_operation(path: str, method: str, operation: dict[str, Any], schemas: dict[str, Any]) -> None:
    operation["summary"] = _first_sentence(operation["description"])
    operation["security"] = [] if path in OPEN else [{"key": []}]
    for parameter in operation.get("parameters", ()):
        _describe_parameter(parameter)
    if body := operation.get("requestBody"):
        for content in body["content"].values():
            content["examples"] = _examples(content["schema"], schemas)
    _add_error_responses(path, method, operation)


def _first_sentence(text: str) -> str:
    return re.split(r"[.:;](?:\s|$)", " ".join(text.split()), maxsplit=1)[0]


def _describe_parameter(parameter: dict[str, Any]) -> None:
    """Describe an id in a path, once for all routes, and remove null from optional parameters, which cannot be sent."""
    schema = parameter["schema"]
    branches = [branch for branch in schema.pop("anyOf", ()) if branch != {"type": "null"}]
    schema |= branches[0] if len(branches) == 1 else {"anyOf": branches} if branches else {}
    if parameter["in"] == "path" and parameter["name"] in _IN_PATHS:
        description, example = _IN_PATHS[parameter["name"]]
        parameter.setdefault("description", description)
        parameter["schema"].setdefault("examples", [example])


def _examples(schema: dict[str, Any], schemas: dict[str, Any]) -> dict[str, Any]:
    """Return example bodies by name: those of the model, or of each model in a union."""
    if "$ref" in schema:
        schema = schemas[schema["$ref"].rpartition("/")[-1]]
    found = {
        f"{schema['title']}{number or ''}": {"summary": schema.get("description", ""), "value": value}
        for number, value in enumerate(schema.get("examples", ()))
    }
    for part in schema.get("oneOf", ()):
        found |= _examples(part, schemas)
    return found


def _add_error_responses(path: str, method: str, operation: dict[str, Any]) -> None:
    """List the errors that the route may answer, each as problem details."""
    responses = operation["responses"]
    possible = _possible_statuses(path, operation)
    if 422 not in possible:
        del responses["422"]
    for status in possible:
        responses.setdefault(str(status), {})
    for status in [status for status in responses if status >= "400"]:
        answer = responses[status]
        if answer.get("description", "") in ("", "Unprocessable Content", "Internal Server Error"):
            answer["description"] = _MEANS[int(status)]
        if answer.get("content", {}).get("application/json", {}).get("schema", _PROBLEM) == _PROBLEM:
            answer["content"] = {errors.MEDIA_TYPE: {"schema": _PROBLEM}}
    operation["responses"] = dict(sorted(responses.items()))


def _possible_statuses(path: str, operation: dict[str, Any]) -> set[int]:
    possible = {500}
    if path not in OPEN:
        possible |= {401, 403, 429, 503}
    if "requestBody" in operation:
        possible |= {400, 408, 413, 422}
    if operation.get("parameters"):
        possible |= {422}
    if "{" in path:
        possible |= {404}
    return possible
