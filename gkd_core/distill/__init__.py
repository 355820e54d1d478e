"""Distillation with global knowledge: prototypes (PGM), the positions that are compared, the losses (RDM).

The package can also be called: `gkd_core.distill(teacher, student, data, ...)` is
`gkd_core.library.distillation.distill`, since a package's attribute and its module of one name are one object.
"""

from __future__ import annotations

import sys
from importlib import import_module
from types import ModuleType
from typing import Any


class _CallableModule(ModuleType):
    """A module that is also the function of its name."""

    def __call__(self, *arguments: Any, **options: Any) -> Any:
        """Call `library.distillation.distill`, which is loaded only now: it stands above this package."""
        return import_module("gkd_core.library.distillation").distill(*arguments, **options)


sys.modules[__name__].__class__ = _CallableModule
