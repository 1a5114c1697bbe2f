"""Locks between processes: a killed owner frees its lock, and a damaged note of the owner does no harm."""

from __future__ import annotations

import multiprocessing
import signal
from pathlib import Path
from typing import Any

import pytest

from diptych.errors import Busy
from diptych.runtime.locks import held


def _hold(folder: Path, began: Any) -> None:
    with held(folder / "diptych-run.lock", folder / "diptych-owner.json", "is training"):
        began.set()
        signal.pause()


@pytest.mark.skipif(not hasattr(signal, "pause"), reason="no such signals there")
def test_a_killed_owner_frees_its_lock(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    began = context.Event()
    owner = context.Process(target=_hold, args=(tmp_path, began))
    owner.start()
    assert began.wait(30)
    with pytest.raises(Busy, match=f"process {owner.pid} "), _lock(tmp_path):
        pass
    owner.kill()
    owner.join()
    with _lock(tmp_path):
        pass


def _lock(folder: Path) -> Any:
    return held(folder / "diptych-run.lock", folder / "diptych-owner.json", "is training")


@pytest.mark.parametrize(
    "content", ["", "{", "[]", '"x"', '{"pid": [], "host": 1}', "\x00" * 100, "[" * 100_000], ids=range(7)
)
def test_a_damaged_owner_file_does_no_harm(tmp_path: Path, content: str) -> None:
    with _lock(tmp_path):
        (tmp_path / "diptych-owner.json").write_text(content)
        with pytest.raises(Busy, match="another process is training"), _lock(tmp_path):
            pass
