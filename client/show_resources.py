"""Registered data sets and models on the terminal."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from client.show_data import examination
from client.show_text import age, compact_table, size, warning_text
from client.table_cells import Cropped
from jobs.resources import CheckedResource, Resource, ResourceKind, ResourceState


def resources_table(found: Sequence[Resource]) -> Table:
    """Return a table of data sets or models, one line each."""
    table = compact_table("id", "name", "state", "size", "made", "where")
    for each in found:
        where = "uploaded" if each.uploaded else each.path or "splits spelt out"
        made = age(each.created_at).removesuffix(" ago")
        name = Cropped(each.name)
        table.add_row(
            f"{each.kind}:{each.id}", name, _checked(each), size(each.size), made, Cropped(where, 2)
        )
    return table


def resource_card(found: CheckedResource) -> RenderableType:
    """Return one data set or model, with its report."""
    head = Text.assemble(f"{found.kind}:{found.id}  ", (found.name, "bold"), "  ", _checked(found))
    lines: list[RenderableType] = [head, Text(found.reason)]
    if found.path:
        lines.append(Text(found.path, style="dim"))
    if found.sha256:
        lines.append(Text(f"{size(found.size)}, SHA-256 {found.sha256}", style="dim"))
    return Group(*lines, *_findings(found))


def _findings(found: CheckedResource) -> Iterator[RenderableType]:
    report = found.report or {}
    if found.kind is ResourceKind.MODEL:
        if card := report.get("card"):
            yield Text(f"classes {', '.join(card['classes'])}; pictures of {card['image_size']} pixels")
    elif report.get("usable"):
        from gkd_core.data.examine import Examination

        yield ""
        yield examination(Examination.model_validate(report))
    else:
        yield from (warning_text(each["message"], each["hint"]) for each in report.get("problems", ()))


def _checked(resource: Resource) -> Text:
    colours = {ResourceState.READY: "green", ResourceState.REFUSED: "red"}
    return Text(resource.state, style=colours.get(resource.state, ""))
