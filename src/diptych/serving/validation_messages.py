"""Plain sentences for the validation errors of pydantic: what a field must be, without the value that was sent."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from pydantic import BaseModel, ValidationError

from diptych.errors import did_you_mean

ID_PATTERN = "^[0-9a-f]{32}$"

_MAX_ERRORS = 1_000  # of a request that are listed; each becomes an object in memory
_MAX_LISTED = 3
_MAX_PLACE = 200  # characters of an error's location, which the client chose
_SOURCES = ("body", "path", "query", "header", "cookie")  # where FastAPI found a parameter

_SENTENCES: dict[str, str] = {  # by pydantic's type of error; the names in braces are those of its context
    "missing": "{place} is missing",
    "json_invalid": "{place} is not valid JSON ({error})",
    "literal_error": "{place} must be {expected}",
    "string_pattern_mismatch": "{place} must match {pattern}",
    "string_too_long": "{place} has more than {max_length:,} characters",
    "greater_than_equal": "{place} must be at least {ge:,}",
    "greater_than": "{place} must be more than {gt:,}",
    "less_than_equal": "{place} must be at most {le:,}",
    "less_than": "{place} must be less than {lt:,}",
    "too_long": "{place} has more than {max_length:,} items; send fewer at once",
    "value_error": "{place}: {error}",
    **dict.fromkeys(("model_type", "model_attributes_type", "dict_type"), "{place} must be an object"),
    **dict.fromkeys(("string_type", "string_sub_type"), "{place} must be a string"),
    "string_unicode": "{place} must be valid Unicode text",
    **dict.fromkeys(("int_type", "int_parsing", "int_from_float"), "{place} must be a whole number"),
    "int_parsing_size": "{place} is too large a number",
    **dict.fromkeys(("float_type", "float_parsing"), "{place} must be a number"),
    "finite_number": "{place} must be a finite number",
    **dict.fromkeys(("bool_type", "bool_parsing"), "{place} must be true or false"),
    "list_type": "{place} must be a list",
}


def describe(error: ValidationError, model: type[BaseModel] | None = None) -> str:
    """The first three errors in words; of very many errors, only the number.

    Args:
        error: The error of `model`.
        model: Names the fields that exist when there is one that does not.
    """
    if error.error_count() > _MAX_ERRORS:
        return f"the request has {error.error_count():,} errors; /openapi.json describes requests"
    fields = [field.alias or name for name, field in model.model_fields.items()] if model else []
    return describe_all(error.errors(include_url=False, include_input=False), fields)


def describe_all(errors: Sequence[Mapping[str, Any]], fields: Iterable[str] = ()) -> str:
    """The first three of pydantic's error dictionaries in words."""
    listed = "; ".join(_sentence(error, list(fields)) for error in errors[:_MAX_LISTED])
    rest = len(errors) - _MAX_LISTED
    return f"{listed}; and {rest} more" if rest > 0 else listed


def _sentence(error: Mapping[str, Any], fields: Sequence[str]) -> str:
    place, kind, context = _place(error["loc"]), error["type"], error.get("ctx", {})
    if kind == "extra_forbidden":
        known = f"; {did_you_mean(place, fields)}" if fields and len(error["loc"]) == 1 else "; leave it out"
        return f"{place} is not a field of this request{known}"
    if kind == "string_pattern_mismatch" and context["pattern"] == ID_PATTERN:
        return f"{place} must be the id of an indexed image: 32 hexadecimal digits, as in the hits of a search"
    if kind == "string_too_short":
        return f"{place} is empty" if context["min_length"] == 1 else f"{place} is too short"
    if kind == "too_short":
        least = context["min_length"]
        return f"{place} has no items; send at least one" if least == 1 else f"{place} needs {least:,} items"
    if (sentence := _SENTENCES.get(kind)) is not None:
        return sentence.format(place=place, **context)
    return f"{place}: {error['msg']}"


def _place(location: Sequence[int | str]) -> str:
    """The location of an error as `texts.3`, without the part of the request that FastAPI names first."""
    parts = location[1:] if len(location) > 1 and location[0] in _SOURCES else location
    return ".".join(map(str, parts))[:_MAX_PLACE] or "the body"
