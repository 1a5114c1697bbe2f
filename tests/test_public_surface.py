"""The public names of `diptych`: each is documented and names its arguments."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from typing import Any

import pytest

import diptych

MODELS = ("DualEncoder", "Matcher", "Captioner", "Prompter")
FORWARDING = {"Client.caption", "Index.search", "Index.watch", "Service.caption"}  # pass their settings on as they are
NAMES = [name for name in diptych.__all__ if name != "__version__"]


def functions(name: str) -> Iterator[tuple[str, Any]]:
    """A public function, or a class's constructor and its own public methods."""
    item = getattr(diptych, name)
    if not inspect.isclass(item):
        yield name, item
        return
    if not issubclass(item, Exception):
        yield f"{name}()", item
    for method, function in vars(item).items():
        if not method.startswith("_") and callable(getattr(item, method)) and not isinstance(function, type):
            yield f"{name}.{method}", getattr(item, method)


@pytest.mark.parametrize("name", NAMES)
def test_every_public_name_has_a_docstring(name: str) -> None:
    item = getattr(diptych, name)
    assert item.__doc__
    assert not item.__doc__.startswith(f"{name}("), "a dataclass without a docstring of its own"


@pytest.mark.parametrize("name", NAMES)
def test_every_public_function_names_its_arguments(name: str) -> None:
    for label, function in functions(name):
        kinds = {parameter.kind for parameter in inspect.signature(function).parameters.values()}
        assert inspect.Parameter.VAR_KEYWORD not in kinds or label in FORWARDING, label


@pytest.mark.parametrize("name", MODELS)
def test_every_public_method_of_a_model_has_a_docstring(name: str) -> None:
    cls = getattr(diptych, name)
    for attribute, item in vars(cls).items():
        if not attribute.startswith("_") and (callable(item) or isinstance(item, property | classmethod)):
            assert inspect.getdoc(getattr(cls, attribute)), f"{name}.{attribute}"


@pytest.mark.parametrize("name", MODELS)
def test_every_model_loads_saves_and_uploads_by_the_same_three_methods(name: str) -> None:
    cls = getattr(diptych, name)
    loads, saves, uploads = (
        inspect.signature(getattr(cls, method)).parameters
        for method in ("from_pretrained", "save_pretrained", "push_to_hub")
    )
    assert next(iter(loads)) == "name_or_path"
    assert loads["device"].kind is inspect.Parameter.KEYWORD_ONLY
    assert [*saves] == ["self", "path"]
    assert [*uploads] == ["self", "repo_id", "private", "licence", "commit_message", "token"]


def test_the_listed_names_are_those_that_can_be_imported() -> None:
    assert set(dir(diptych)) == set(diptych.__all__)
    for name in diptych.__all__:
        assert getattr(diptych, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        diptych.nothing  # noqa: B018
