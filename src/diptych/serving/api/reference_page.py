"""The page at /docs: the OpenAPI document as plain HTML, without the scripts that Swagger UI fetches from a CDN."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping

from diptych.reports.html import html_document
from diptych.runtime.quoting import escaped
from diptych.serving.api.requests import Schema

_METHODS = ("get", "post", "put", "patch", "delete")
_LIMITS = {
    "minimum": "at least {:,}",
    "exclusiveMinimum": "more than {:,}",
    "maximum": "at most {:,}",
    "exclusiveMaximum": "less than {:,}",
    "minLength": "length at least {:,}",
    "maxLength": "length at most {:,}",
    "minItems": "number at least {:,}",
    "maxItems": "number at most {:,}",
    "pattern": "matches {}",
}
_STYLE = """
section { margin: 0 0 2.5rem } table { border-collapse: collapse; width: 100%; margin: .6rem 0 1.2rem }
th, td { text-align: left; vertical-align: top; padding: .3rem .8rem .3rem 0; border-bottom: 1px solid var(--line);
  overflow-wrap: anywhere }
th { color: var(--faint); font-weight: 600 } code { font: .95em ui-monospace, monospace } h3 { margin: 1rem 0 0 }
a { color: var(--accent) } td:first-child { white-space: nowrap }
"""


def reference_page(openapi: Schema) -> str:
    """The HTML of an OpenAPI document: each route with its parameters, body and response; the errors; the objects."""
    routes = [
        (f"{method.upper()} {path}", operation)
        for path, operations in openapi["paths"].items()
        for method, operation in operations.items()
        if method in _METHODS
    ]
    index = "".join(f'<li><a href="#{_anchor(name)}"><code>{escaped(name)}</code></a></li>' for name, _ in routes)
    objects = openapi.get("components", {}).get("schemas", {})
    body = f"<nav><ul>{index}</ul></nav>\n" + "".join(_route(name, operation) for name, operation in routes)
    errors = {
        status: text for _, operation in routes for status, text in operation["responses"].items() if status[0] > "3"
    }
    body += f"<section>\n<h2>Errors</h2>\n{_responses(dict(sorted(errors.items())))}</section>\n"
    body += "<h2>Objects</h2>\n" + "".join(_object(name, schema) for name, schema in objects.items())
    info = openapi["info"]
    return html_document(f"{info['title']} API {info['version']}", "The same as JSON: /openapi.json", body, _STYLE)


def _route(name: str, operation: Schema) -> str:
    parts = [f'<section id="{_anchor(name)}">\n<h2><code>{escaped(name)}</code></h2>\n']
    parts.append(f"<p>{escaped(operation.get('description') or operation.get('summary', ''))}</p>\n")
    if parameters := operation.get("parameters"):
        required = [parameter["name"] for parameter in parameters if parameter.get("required")]
        fields = {parameter["name"]: parameter["schema"] for parameter in parameters}
        parts.append("<h3>Parameters</h3>\n" + _fields(fields, required))
    if content := operation.get("requestBody", {}).get("content"):
        schema = content["application/json"]["schema"]
        parts.append(f"<h3>Body: {escaped(' or '.join(content))}</h3>\n")
        parts.append(_fields(schema["properties"], schema.get("required", ())))
    results = {status: response for status, response in operation["responses"].items() if status[0] < "4"}
    return "".join([*parts, f"<h3>Response</h3>\n{_responses(results)}</section>\n"])


def _responses(responses: Mapping[str, Schema]) -> str:
    rows = "".join(
        f"<tr><td>{escaped(status)}</td><td>{escaped(response['description'])}</td><td>{_content(response)}</td></tr>\n"
        for status, response in responses.items()
    )
    return f"<table>\n{rows}</table>\n"


def _object(name: str, schema: Schema) -> str:
    description = escaped(schema.get("description", ""))
    fields = _fields(schema.get("properties", {}), schema.get("required", ()))
    return f'<section id="{_anchor(name)}">\n<h3>{escaped(name)}</h3>\n<p>{description}</p>\n{fields}</section>\n'


def _fields(fields: Mapping[str, Schema], required: Iterable[str]) -> str:
    """A table with a row for each field: name, type, and what it must be."""
    needed = set(required)
    rows = "".join(
        f"<tr><td><code>{escaped(name)}</code></td><td>{_type(schema)}</td>"
        f"<td>{escaped(_notes(schema, needed=name in needed))}</td></tr>\n"
        for name, schema in fields.items()
    )
    return f"<table>\n<tr><th>name</th><th>type</th><th>notes</th></tr>\n{rows}</table>\n"


def _type(schema: Schema) -> str:
    """The type of a value as HTML; named objects are links."""
    if "$ref" in schema:
        name = schema["$ref"].rpartition("/")[2]
        return f'<a href="#{_anchor(name)}">{escaped(name)}</a>'
    if options := schema.get("anyOf") or schema.get("oneOf"):
        return " or ".join(dict.fromkeys(map(_type, options)))
    if (values := schema.get("enum")) or "const" in schema:
        return " or ".join(f"<code>{escaped(value)}</code>" for value in values or [schema["const"]])
    if schema.get("type") == "array":
        items = _type(schema.get("items", {}))
        return f"list of {items}s" if items in ("string", "number", "integer") else f"list of {items}"
    return escaped(schema.get("format") or schema.get("type", "any"))


def _notes(schema: Schema, *, needed: bool) -> str:
    """The description, limits and default of a field in one sentence."""
    options = [schema, *schema.get("anyOf", ()), *([schema["items"]] if isinstance(schema.get("items"), dict) else [])]
    limits = [
        text.format(_whole(option[name])) for option in options for name, text in _LIMITS.items() if name in option
    ]
    default = [f"default {json.dumps(schema['default'])}"] if schema.get("default") not in (None, "", []) else []
    described = [schema["description"].rstrip(".")] if schema.get("description") else []
    return "; ".join([*described, *limits, *default, *(["required"] if needed else [])])


def _whole(limit: float | str) -> float | str:
    """A limit without the decimals that OpenAPI adds to whole numbers."""
    return int(limit) if isinstance(limit, float) and limit.is_integer() else limit


def _content(response: Schema) -> str:
    content: Mapping[str, Schema] = response.get("content", {})
    return " or ".join(
        f"{escaped(media)}: {_type(body['schema'])}" if "schema" in body else escaped(media)
        for media, body in content.items()
    )


def _anchor(name: str) -> str:
    return escaped(name.replace(" ", "-").strip("/"))
