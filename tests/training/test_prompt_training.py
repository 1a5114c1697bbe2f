"""Training a prompter: it is compared with a constant prediction, the mean of the training prompts."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from diptych.cli import main
from diptych.data.formats.read import read_pairs
from diptych.prompting.text_space import load_text_space
from diptych.training.run import split_for_training
from tests.model_directories import make_dual, make_text_encoder


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    """A tiny dual encoder and a tiny text encoder."""
    folder = tmp_path_factory.mktemp("models")
    return str(make_dual(folder / "encoder")), str(make_text_encoder(folder / "text"))


def test_a_prompter_that_is_no_better_than_the_mean_prompt_is_reported(
    models: tuple[str, str],
    scenes: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    encoder, text_encoder = models
    words = ["train", "prompt", "--data", str(scenes), "-o", str(tmp_path / "run"), "--model", encoder]
    words += ["--text-encoder", text_encoder, "--lr", "0", "--ema", "0", "--hidden", "8", "--library", "0", "--quiet"]
    words += ["--epochs", "1", "--batch-size", "8", "--device", "cpu", "--dropout", "0"]
    with pytest.raises(SystemExit) as ended:
        main(words)
    assert not ended.value.code
    assert "no better than the mean of the training prompts, with a cosine of" in capsys.readouterr().err
    card = json.loads((tmp_path / "run" / "model" / "diptych.json").read_text())
    validation = card["prompter"]["validation"]
    assert validation["cosine"] <= validation["baseline_cosine"]
    space = load_text_space(text_encoder, "cpu")
    train, val = split_for_training(read_pairs(scenes), None)
    mean = np.mean(space.encode(train.flat_captions()[0]), axis=0)
    cosines = space.encode(val.flat_captions()[0]) @ (mean / np.linalg.norm(mean))
    assert validation["baseline_cosine"] == pytest.approx(100 * cosines.mean(), abs=1e-3)
