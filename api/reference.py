"""The page at /docs: the description of the API as HTML, for people.

No script, no font, no picture and nothing from another machine: it works without a network, and the strictest
Content-Security-Policy lets it through. Whatever it shows is escaped on its way in (`_e`).
"""

from __future__ import annotations

import base64
import hashlib
import html
import json
import re
import shlex
from collections.abc import Iterable
from itertools import groupby
from typing import Any

Schema = dict[str, Any]

_STYLE = """
:root { color-scheme: light dark; font: 16px/1.5 system-ui, sans-serif }
body { max-width: 60rem; margin: 2rem auto; padding: 0 1rem }
code, pre { font: .875em/1.45 ui-monospace, monospace }
pre { overflow-x: auto; padding: .75rem; border: 1px solid #8884; border-radius: .3rem }
details { border: 1px solid #8884; border-radius: .3rem; margin: .4rem 0; padding: .4rem .75rem }
summary { cursor: pointer }
summary b { display: inline-block; min-width: 4.5rem }
table { border-collapse: collapse; width: 100% }
td, th { border-top: 1px solid #8884; padding: .3rem .75rem .3rem 0; text-align: left; vertical-align: top }
"""

POLICY = (
    "default-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; style-src "
    f"'sha256-{base64.b64encode(hashlib.sha256(_STYLE.encode()).digest()).decode()}'"
)
"""The Content-Security-Policy of the page: it may apply its own style and do nothing else."""


def page(description: Schema) -> str:
    """The whole page.

    Args:
        description: What /openapi.json gives.
    """
    info, schemas = description["info"], description["components"]["schemas"]
    operations = [
        (method, path, operation)
        for path, methods in description["paths"].items()
        for method, operation in methods.items()
    ]
    parts = (
        f"<h1>{_e(info['title'])} {_e(info['version'])}</h1>{_prose(info['description'])}",
        '<p>For programs: <a href="/openapi.json">openapi.json</a></p>',
        *(_section(tag, operations) for tag in description["tags"]),
        "<h2>Shapes</h2>",
        *(_shape(name, schemas[name]) for name in sorted(schemas)),
    )
    return (
        '<!doctype html><html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">'
        f"<title>{_e(info['title'])}: HTTP</title><style>{_STYLE}</style>{''.join(parts)}</html>"
    )


# ---- routes ----------------------------------------------------------------------------------------------


def _section(tag: Schema, operations: list[tuple[str, str, Schema]]) -> str:
    own = [each for each in operations if tag["name"] in each[2].get("tags", ())]
    return f"<h2>{_e(tag['name'].capitalize())}</h2>{_prose(tag['description'])}" + "".join(
        _operation(*each) for each in own
    )


def _operation(method: str, path: str, operation: Schema) -> str:
    body = operation.get("requestBody", {}).get("content", {})
    return (
        f"<details><summary><b>{_e(method.upper())}</b> "
        f'<code>{_e(path)}</code> {_e(operation["summary"])}</summary><div id="{_e(operation["operationId"])}">'
        f"{_prose(operation['description'])}"
        f"{_parameters(operation.get('parameters', ()))}"
        f"{''.join(_body(method, path, kind, content) for kind, content in body.items())}"
        f"{_answers(operation['responses'])}</div></details>"
    )


def _parameters(parameters: Iterable[Schema]) -> str:
    rows = (
        (
            f"<code>{_e(each['name'])}</code>{' (required)' if each.get('required') else ''}",
            _e(each["in"]),
            _type(each["schema"]),
            _e(each.get("description", "")),
        )
        for each in parameters
    )
    return _table(("parameter", "in", "is", ""), rows)


def _body(method: str, path: str, media_type: str, content: Schema) -> str:
    told = f"<p>Body: {_e(media_type)}, {_type(content['schema'])}</p>"
    return told + "".join(
        f"<pre>{_e(_curl(method, path, media_type, example['value']))}</pre>"
        for example in content.get("examples", {}).values()
    )


def _curl(method: str, path: str, media_type: str, body: Any) -> str:
    """The request as people would type it."""
    text = body if isinstance(body, str) else json.dumps(body, indent=2)
    kind = shlex.quote(f"Content-Type: {media_type}")
    return f"curl -X {method.upper()} http://127.0.0.1:8000{path} -H {kind} -d {shlex.quote(text)}"


def _answers(responses: Schema) -> str:
    rows = (
        (
            _e(status),
            _e(answer["description"]),
            " or ".join(
                f"{_e(kind)}: {_type(each.get('schema') or each['itemSchema'])}"
                for kind, each in answer.get("content", {}).items()
            ),
        )
        for status, answer in responses.items()
    )
    return _table(("answer", "", ""), rows)


# ---- shapes ----------------------------------------------------------------------------------------------


def _shape(name: str, schema: Schema) -> str:
    required = schema.get("required", ())
    rows = (
        (
            f"<code>{_e(field)}</code>{'' if field in required else ' (optional)'}",
            _type(each),
            _prose(each.get("description", "")),
        )
        for field, each in schema.get("properties", {}).items()
    )
    values = "" if "properties" in schema else f"<p>{_type(schema)}</p>"
    return (
        f'<details><summary><code>{_e(name)}</code></summary><div id="shape-{_e(name)}">'
        f"{_prose(schema.get('description', ''))}{values}{_table(('field', 'is', ''), rows)}</div></details>"
    )


def _type(schema: Schema) -> str:
    """What a value is, in a word or a link."""
    if "$ref" in schema:
        name = _e(schema["$ref"].rpartition("/")[-1])
        return f'<a href="#shape-{name}">{name}</a>'
    if choices := schema.get("anyOf") or schema.get("oneOf"):
        return " or ".join(dict.fromkeys(map(_type, choices)))
    if values := schema.get("enum") or ([schema["const"]] if "const" in schema else []):
        return " | ".join(f"<code>{_e(json.dumps(value))}</code>" for value in values)
    match schema.get("type"):
        case "array":
            return f"list of {_type(schema.get('items', {}))}"
        case "object" if isinstance(schema.get("additionalProperties"), dict):
            return f"object of {_type(schema['additionalProperties'])}"
    return _e(schema.get("format") or schema.get("type") or "anything")


# ---- text ------------------------------------------------------------------------------------------------


def _e(text: object) -> str:
    return html.escape(str(text))


def _prose(text: str) -> str:
    """Paragraphs and lists, with `code` and **bold** in them."""
    blocks = (block.splitlines() for block in re.split(r"\n\s*\n|\n(?=- )", text.strip()) if block.strip())
    return "".join(
        f"<ul>{''.join(f'<li>{_inline(each)[2:]}</li>' for each in group)}</ul>"
        if listed
        else "".join(f"<p>{_inline(each)}</p>" for each in group)
        for listed, group in groupby((" ".join(map(str.strip, lines)) for lines in blocks), _is_item)
    )


def _is_item(text: str) -> bool:
    return text.startswith("- ")


def _inline(text: str) -> str:
    coded = re.sub(r"`([^`]+)`", r"<code>\1</code>", _e(text))
    return re.sub(r"\*\*([^*]+)\*\*", r"<b>\1</b>", coded)


def _table(head: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    """A table of cells that are HTML already; nothing where there are no rows."""
    body = "".join(f"<tr>{''.join(f'<td>{cell}</td>' for cell in row)}</tr>" for row in rows)
    titles = "".join(f"<th>{_e(title)}</th>" for title in head)
    return f"<table><tr>{titles}</tr>{body}</table>" if body else ""
