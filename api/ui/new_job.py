"""A new job, from a recipe or from the spec of another one: checked and submitted as the API does."""

from __future__ import annotations

import json
import secrets
from collections.abc import Sequence
from functools import partial
from typing import Any

from fastapi import APIRouter, Request, Response
from fastapi.responses import RedirectResponse

from api.deps import PrincipalDep, Services, ServicesDep, TenantDep
from api.routes import jobs as job_routes
from api.ui.pages import render
from api.ui.session import read_form
from gkd_core.errors import DataError, Problem, SpecError
from jobs.keys import Scope
from jobs.specs import spec_errors
from jobs.specs.spec import (
    AnySpec,
    DistillSpec,
    EvaluateSpec,
    ExportSpec,
    Kind,
    PrototypesSpec,
    Resolved,
    TrainSpec,
)

router = APIRouter(include_in_schema=False)

_SPECS: dict[Kind, type[AnySpec]] = {
    "train": TrainSpec,
    "distill": DistillSpec,
    "evaluate": EvaluateSpec,
    "prototypes": PrototypesSpec,
    "export": ExportSpec,
}


def _recipe(spec: type[AnySpec]) -> tuple[str, dict[str, Any]]:
    extra: Any = spec.model_config["json_schema_extra"]
    example: dict[str, Any] = extra["examples"][0]
    return str(spec.__doc__).partition(".")[0], example


RECIPES = {kind: _recipe(spec) for kind, spec in _SPECS.items()}
"""What each kind does, and an example of its spec."""


@router.get("/ui/new")
def new_job(request: Request, principal: PrincipalDep, kind: Kind = "train") -> Response:
    """Show the form with the example of a kind."""
    return _form(request, _text(RECIPES[kind][1]), may_submit=principal.may(Scope.WRITE))


@router.get("/ui/jobs/{job_id}/clone")
def clone(
    job_id: str, request: Request, services: ServicesDep, tenant: TenantDep, principal: PrincipalDep
) -> Response:
    """Show the form with the spec of a job."""
    job = services.store.reading.get(job_id, tenant=tenant)
    return _form(request, _text(job.spec), may_submit=principal.may(Scope.WRITE))


@router.post("/ui/new")
async def send(request: Request, services: ServicesDep, tenant: TenantDep) -> Response:
    """Check the spec of the form, or submit it and lead to the job."""
    fields = await read_form(request)
    text, once = fields.get("spec", ""), fields.get("once") or secrets.token_hex(16)
    try:
        spec = spec_errors.read_spec(_parsed(text))
        if fields.get("do") == "check":
            resolved = await services.in_line(partial(services.resolve, spec, tenant))
            return _form(request, text, once=once, resolved=resolved)
        return await _submitted(spec, services, tenant, once)
    except (SpecError, DataError) as error:
        return _form(request, text, once=once, problems=error.problems)


async def _submitted(spec: AnySpec, services: Services, tenant: str, once: str) -> Response:
    job = await job_routes.submit(spec, Response(), services, tenant, once)
    return RedirectResponse(f"/ui/jobs/{job.id}", 303)


def _parsed(text: str) -> Any:
    """Return the value of a JSON text.

    Raises:
        SpecError: it is none; the message says where.
    """
    try:
        return json.loads(text)
    except RecursionError:
        message = "is nested too deeply"
    except ValueError as error:
        message = f"is not JSON: {error}"
    raise SpecError([Problem(loc=(), message=f"the spec {message}")])


def _text(spec: dict[str, Any]) -> str:
    return json.dumps(spec, indent=2, ensure_ascii=False)


def _form(
    request: Request,
    text: str,
    *,
    may_submit: bool = True,
    once: str | None = None,
    problems: Sequence[Problem] = (),
    resolved: Resolved | None = None,
) -> Response:
    """Return the form.

    Args:
        request: The request.
        text: The spec, as it was typed.
        may_submit: The caller has the scope `write`.
        once: Makes one job of a form that is sent twice; a new form has a new one.
        problems: What is wrong with the spec.
        resolved: What the spec resolves to, if it was checked and can be carried out.
    """
    return render(
        request,
        "new.html",
        422 if problems else 200,
        recipes=RECIPES,
        text=text,
        may_submit=may_submit,
        once=once or secrets.token_hex(16),
        problems=problems,
        resolved=resolved,
    )
