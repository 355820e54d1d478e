"""Reading a spec from a file: JSON as the service understands it, with errors that name the file."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any, NoReturn

from gkd_core.errors import Problem, SpecError


def read(path: Path) -> Any:
    """The JSON value in a spec file, or on the standard input when the path is `-`.

    Raises:
        SpecError: the file is not there, or holds no JSON.
    """
    try:
        text = sys.stdin.buffer.read() if path == Path("-") else path.read_bytes()
        value = json.loads(text, parse_constant=_refuse)
        json.dumps(
            value, ensure_ascii=False
        ).encode()  # JSON can spell halves of characters, which cannot be sent
        return value
    except FileNotFoundError:
        problem = Problem(loc=(str(path),), message="there is no such file")
    except (ValueError, RecursionError, OSError) as error:
        problem = Problem(loc=(str(path),), message=f"cannot be read as JSON: {error}")
    raise SpecError([problem])


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is no JSON; write a number or leave the field out")
