"""The progress bar for notebooks and scripts."""

from __future__ import annotations

import pytest

import diptych


def test_the_public_progress_bar_yields_every_item_and_shows_label_and_total(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert list(diptych.progress_bar(iter("abc"), 3, "epoch 1/2")) == ["a", "b", "c"]
    output = capsys.readouterr()
    assert output.out == ""
    assert "epoch 1/2: 100%" in output.err
    assert "3/3" in output.err


def test_a_progress_bar_without_a_total_counts(capsys: pytest.CaptureFixture[str]) -> None:
    assert list(diptych.progress_bar(iter([1, 2]), None, "images")) == [1, 2]
    assert "images: 2it" in capsys.readouterr().err
