"""Full disks and damaged checkpoints: a typed error, and earlier files can still be loaded and resumed."""

from __future__ import annotations

import errno
import json
import pickle
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from diptych.captioning.many_images import CaptionResult
from diptych.captioning.sinks import CaptionFile
from diptych.cli import main
from diptych.errors import ConfigError, StorageError
from diptych.models.embedding_cache import EmbeddingFile
from diptych.runtime.atomic import new_file, new_folder, replaced_folder, write_text
from diptych.training.run import is_published
from diptych.training.run_settings import RunSettings
from diptych.training.trainer import Task, Trainer
from tests.kills import names
from tests.training.test_security_runs import TRAINERS

resource = pytest.importorskip("resource")
LIMIT = 40_000  # bytes of a file


@contextmanager
def full_disk() -> Iterator[None]:
    """Limit files to `LIMIT` bytes: as on a full disk, the operating system refuses to write more, for any library."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (LIMIT, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def large() -> dict[str, torch.Tensor]:
    return {"weights": torch.ones(LIMIT)}


def write_bytes(path: Path) -> None:
    path.write_bytes(bytes(2 * LIMIT))


WRITERS: dict[str, Callable[[Path], Any]] = {
    "bytes": write_bytes,
    "torch": lambda path: torch.save(large(), path),
    "safetensors": lambda path: save_file(large(), path),
    "numpy": lambda path: np.save(path.open("wb"), np.ones(LIMIT)),
}


@pytest.mark.parametrize("writer", WRITERS.values(), ids=WRITERS)
def test_on_a_full_disk_the_old_file_stays_and_the_error_names_it(tmp_path: Path, writer: Any) -> None:
    write_text(tmp_path / "file.pt", "old")
    refusal = pytest.raises(StorageError, match=r"cannot write '.*file\.pt': .*\. Free some space")
    with full_disk(), refusal, new_file(tmp_path / "file.pt") as path:
        writer(path)
    assert (tmp_path / "file.pt").read_text() == "old"
    assert names(tmp_path) == ["file.pt"]


@pytest.mark.parametrize("writer", WRITERS.values(), ids=WRITERS)
def test_on_a_full_disk_the_old_model_stays(tmp_path: Path, writer: Any) -> None:
    model = tmp_path / "model"
    model.mkdir()
    write_text(model / "diptych.json", "{}")
    for folder in (replaced_folder(model, is_published), new_folder(tmp_path / "export")):
        with full_disk(), pytest.raises(StorageError, match="cannot write"), folder as fresh:
            writer(fresh / "weights")
    assert names(tmp_path) == ["model"]
    assert names(model) == ["diptych.json"]


def test_features_on_a_full_disk_raise_an_error_and_not_a_bus_error(tmp_path: Path) -> None:
    file = EmbeddingFile(tmp_path / "features", (LIMIT, 8))
    with full_disk(), pytest.raises(StorageError, match=r"vectors\.npy"):
        file.append(np.ones((10, 8), np.float32))
    again = EmbeddingFile(tmp_path / "features", (LIMIT, 8))
    again.append(np.ones((LIMIT, 8), np.float32))
    assert again.complete
    assert (again.read() == 1).all()


def _write_each(sink: CaptionFile, rows: list[CaptionResult]) -> None:
    for row in rows:
        sink.write([row])


def test_captions_written_before_the_disk_was_full_are_kept_and_resumed(tmp_path: Path) -> None:
    sink = CaptionFile(tmp_path / "captions.jsonl")
    rows = [CaptionResult(f"{number}.jpg", (), "missing", "x" * 1_000) for number in range(100)]
    with full_disk(), pytest.raises(StorageError, match=r"captions\.jsonl.*the captions before these are kept"):
        _write_each(sink, rows)
    again = CaptionFile(tmp_path / "captions.jsonl")
    remaining = [row for row in rows if not again.done(row.path)]
    assert 0 < len(remaining) < 100
    again.write(remaining)
    lines = (tmp_path / "captions.jsonl").read_text().splitlines()
    assert [json.loads(line)["image"] for line in lines] == [row.path for row in rows]


def test_an_index_on_a_full_disk_keeps_its_rows(tmp_path: Path) -> None:
    pytest.importorskip("lancedb")
    import pyarrow as pa

    from diptych.search.store import ModelIdentity, Store, embedding_column, schema

    def rows(first: int, count: int) -> pa.Table:
        texts = pa.array([f"{number:x}" for number in range(first, first + count)])
        numbers = pa.array(range(first, first + count), pa.int64())
        known = {"id": texts, "hash": texts, "path": texts, "folder": texts, "size": numbers, "mtime": numbers}
        vectors = embedding_column(np.random.default_rng(0).random((count, 64)))
        empty = {f.name: pa.nulls(count, f.type) for f in schema(64) if f.name not in (*known, "vector")}
        return pa.table({**known, **empty, "vector": vectors}).select(schema(64).names)

    store = Store.create(tmp_path / "index", ModelIdentity("toy", None, 64))
    with store.lock():
        store.add(rows(0, 10))
    with full_disk(), pytest.raises(StorageError, match="what was added before is kept"), store.lock():
        store.add(rows(10, 5_000))
    assert len(Store.open(tmp_path / "index")) == 10
    with store.lock():
        store.add(rows(10, 5_000))
    assert len(store) == 5_010


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS])
def test_the_command_line_reports_a_full_disk_in_one_sentence(
    code: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(words: Any) -> None:
        raise OSError(code, "refused")

    monkeypatch.setattr("diptych.cli.dispatch", full)
    with pytest.raises(SystemExit) as ended:
        main(["train", "contrastive"])
    assert ended.value.code == 1
    assert capsys.readouterr().err == (
        "diptych: the disk is full or cannot be written to; free some space, then run the command again\n"
    )


# checkpoints


def trainer(folder: Path, epochs: int, width: int = 120, ema: float = 0.5) -> Trainer:
    """Trains a linear layer to output 0; its checkpoint is larger than `LIMIT`."""
    torch.manual_seed(0)
    layer = nn.Linear(width, width)

    def backward(batch: torch.Tensor) -> torch.Tensor:
        loss = layer(batch).square().mean()
        loss.backward()
        return loss.detach()

    task = Task(
        module=layer,
        groups=[{"params": list(layer.parameters()), "lr": 1e-2}],
        steps_per_epoch=3,
        batches=lambda epoch, first: [torch.ones(2, width)] * (3 - first),
        backward=backward,
        validate=lambda: {"rsum": 1.0},
        save=lambda scores: None,
        set_mode=lambda training: None,
    )
    return Trainer(task, RunSettings(epochs=epochs, ema=ema), folder)


def test_a_full_disk_leaves_the_last_checkpoint_from_which_the_run_resumes(tmp_path: Path) -> None:
    trainer(tmp_path, 1).fit()
    before = (tmp_path / "checkpoint.pt").read_bytes()
    with full_disk(), pytest.raises(StorageError, match=r"checkpoint\.pt.*Free some space"):
        trainer(tmp_path, 2).fit(resume=True)
    assert (tmp_path / "checkpoint.pt").read_bytes() == before
    assert names(tmp_path) == ["checkpoint.pt", "log.jsonl"]
    assert trainer(tmp_path, 2).fit(resume=True).steps == 6


class Marker:
    """Runs code when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return Path.touch, (self.path,)


def hostile(path: Path, kind: str) -> None:
    if kind == "pickle":
        path.write_bytes(pickle.dumps(Marker(path.with_name("owned"))))
    elif kind == "torch pickle":
        torch.save({"state": Marker(path.with_name("owned"))}, path)
    elif kind == "tensor":
        torch.save(torch.ones(3), path)
    elif kind == "other program":
        torch.save({"model": {"weight": torch.ones(3)}, "epoch": 3}, path)
    elif kind == "numbers":
        saved = torch.load(path, weights_only=True)
        torch.save({**saved, "numbers": json.dumps({**json.loads(saved["numbers"]), "fit": 1})}, path)
    elif kind == "negative":
        saved = torch.load(path, weights_only=True)
        torch.save({**saved, "numbers": json.dumps({**json.loads(saved["numbers"]), "step": -5})}, path)
    elif kind == "deep":
        saved = torch.load(path, weights_only=True)
        torch.save({**saved, "numbers": "[" * 100_000}, path)
    elif kind == "random":
        saved = torch.load(path, weights_only=True)
        torch.save({**saved, "random": "x"}, path)
    else:
        content = path.read_bytes()
        path.write_bytes({"empty": b"", "half": content[: len(content) // 2], "text": b"hello"}[kind])


KINDS = ["empty", "half", "text", "pickle", "torch pickle", "tensor", "other program", "numbers", "negative", "deep"]


@pytest.mark.parametrize("kind", [*KINDS, "random"])
def test_an_invalid_checkpoint_is_refused_and_nothing_is_overwritten(tmp_path: Path, kind: str) -> None:
    trainer(tmp_path, 1).fit()
    hostile(tmp_path / "checkpoint.pt", kind)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    with pytest.raises(ConfigError, match=r"checkpoint\.pt' (is not|belongs to)"):
        trainer(tmp_path, 2).fit(resume=True)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_a_checkpoint_of_another_recipe_is_refused(tmp_path: Path) -> None:
    trainer(tmp_path, 1).fit()
    with pytest.raises(ConfigError, match="belongs to another recipe"):
        trainer(tmp_path, 2, width=100).fit(resume=True)


def test_a_removed_log_is_started_again_and_not_filled_with_zeros(tmp_path: Path) -> None:
    trainer(tmp_path, 1).fit()
    (tmp_path / "log.jsonl").unlink()
    trainer(tmp_path, 2).fit(resume=True)
    assert all(json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines())


@pytest.mark.parametrize("kind", TRAINERS)
@pytest.mark.parametrize("content", [b"", b"garbage"])
def test_a_recipe_is_not_overwritten_before_its_checkpoint_is_accepted(
    tmp_path: Path, kind: str, content: bytes
) -> None:
    train, recipe = TRAINERS[kind]
    settings = recipe(data="x", out=str(tmp_path))
    phase = {"match": tmp_path / "pair", "caption": tmp_path / "words"}.get(kind, tmp_path)
    phase.mkdir(exist_ok=True)
    (phase / "checkpoint.pt").write_bytes(content)
    write_text(tmp_path / "diptych-run.json", json.dumps({"recipe": type(settings).__name__}))
    write_text(tmp_path / "recipe.yaml", "lr: 1\n")
    with pytest.raises(ConfigError, match=r"checkpoint\.pt' is not a checkpoint of diptych, or is damaged"):
        train(settings, resume=True)
    assert (tmp_path / "recipe.yaml").read_text() == "lr: 1\n"
    assert (phase / "checkpoint.pt").read_bytes() == content


def test_damaged_best_weights_raise_an_error_that_names_the_next_step(tmp_path: Path) -> None:
    from diptych.training.checkpoint import read_weights

    for content in (b"", b"garbage", b"\xff" * 100):
        (tmp_path / "best.safetensors").write_bytes(content)
        with pytest.raises(ConfigError, match=r"best\.safetensors' is missing or damaged; remove the folder"):
            read_weights(tmp_path / "best.safetensors")
    save_file(large(), tmp_path / "best.safetensors")
    assert load_file(tmp_path / "best.safetensors")["weights"].sum() == LIMIT
