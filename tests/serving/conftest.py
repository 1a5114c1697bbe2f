"""The service that most tests of this room share: every model over an index of the sample photographs."""

from __future__ import annotations

from pathlib import Path

import pytest

from diptych.serving.service import Service


@pytest.fixture(scope="module")
def service(whole: tuple[Service, Path]) -> Service:
    return whole[0]


@pytest.fixture(scope="module")
def folder(whole: tuple[Service, Path]) -> Path:
    return whole[1]
