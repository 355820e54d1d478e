"""The base of every config: frozen, strictly validated values with errors that name the field."""

from __future__ import annotations

from typing import Annotated, Any, get_args, get_origin

from pydantic import BaseModel, ConfigDict, ValidationError, model_validator
from pydantic_core import InitErrorDetails, PydanticCustomError


class Strict(BaseModel):
    """A frozen value that refuses unknown fields, NaN and infinity.

    It also refuses `true` where a number belongs, which Python would take for 1. A field's docstring is its
    description.
    """

    model_config = ConfigDict(
        frozen=True, extra="forbid", allow_inf_nan=False, populate_by_name=True, use_attribute_docstrings=True
    )

    @model_validator(mode="before")
    @classmethod
    def _true_is_no_number(cls, value: Any) -> Any:
        fields = cls.model_fields
        given = value.items() if isinstance(value, dict) else ()
        odd = [name for name, each in given if isinstance(each, bool) and name in fields]
        wrong = {
            name: "needs a number, got a truth value" for name in odd if _is_number(fields[name].annotation)
        }
        if wrong:
            raise wrong_at(**wrong)
        return value


def _is_number(annotation: Any) -> bool:
    """Return whether a type takes numbers and neither true nor false."""
    parts = [get_args(part)[0] if get_origin(part) is Annotated else part for part in get_args(annotation)]
    kinds = {annotation, *parts}
    return not kinds.isdisjoint((int, float)) and bool not in kinds


def wrong_at(**messages: str) -> ValidationError:
    """Return the error that a validator raises for fields of its model: messages by field.

    `a__b` stands for `b` in `a`.
    """
    details = [
        InitErrorDetails(
            type=PydanticCustomError("value_error", "{message}", {"message": message}),
            loc=tuple(field.split("__")),
            input=None,
        )
        for field, message in messages.items()
    ]
    return ValidationError.from_exception_data("config", details)
