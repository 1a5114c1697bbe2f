"""Damaged indexes and full or read-only disks: a sentence that names the folder, and a next step that works."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import diptych
from diptych.errors import ConfigError, DataError, StorageError
from diptych.search.captions import IndexCaptions
from diptych.search.clusters import find_themes
from diptych.search.dedupe import find_duplicates
from diptych.search.index import Index, index_folder
from diptych.search.layout import IndexDamaged
from diptych.search.store import ModelIdentity, Store
from tests.broken import encoded
from tests.cli.test_cli import Run, run  # noqa: F401 - a fixture
from tests.search.test_index import model, model_folder  # noqa: F401 - fixtures

pytest.importorskip("lancedb")


def _each(pattern: str, change: Callable[[bytes], bytes]) -> Callable[[Path], None]:
    """Changes the content of the files of an index that match a pattern."""

    def damage(folder: Path) -> None:
        files = list(folder.glob(pattern))
        assert files
        for file in files:
            file.write_bytes(change(file.read_bytes()))

    return damage


def _file_for_table(folder: Path) -> None:
    shutil.rmtree(folder / "pictures.lance")
    (folder / "pictures.lance").write_text("")


DAMAGES: dict[str, Callable[[Path], None]] = {
    "no data": lambda folder: shutil.rmtree(folder / "pictures.lance" / "data"),
    "half the data": _each("pictures.lance/data/*", lambda data: data[: len(data) // 2]),
    "empty data": _each("pictures.lance/data/*", lambda data: b""),
    "noise": _each("pictures.lance/data/*", lambda data: os.urandom(len(data))),
    "no versions": lambda folder: shutil.rmtree(folder / "pictures.lance" / "_versions"),
    "half a version": _each("pictures.lance/_versions/*", lambda data: data[: len(data) // 2]),
    "empty versions": _each("pictures.lance/_versions/*", lambda data: b""),
    "no table": lambda folder: shutil.rmtree(folder / "pictures.lance"),
    "a file for the table": _file_for_table,
    "half the metadata": _each("index.json", lambda data: data[: len(data) // 2]),
    "no metadata": lambda folder: (folder / "index.json").unlink(),
    "empty metadata": _each("index.json", lambda data: b""),
}


@pytest.fixture
def library(tmp_path: Path) -> Path:
    """Four pictures."""
    folder = tmp_path / "my library"
    folder.mkdir()
    for number in range(4):
        (folder / f"{number}.png").write_bytes(encoded("PNG", number))
    return folder


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_index_says_which_command_makes_it_again_and_that_works(
    damage: str,
    library: Path,
    model: diptych.DualEncoder,  # noqa: F811
) -> None:
    index = Index(library, model)
    index.add(library, exclude=["3.png"])
    DAMAGES[damage](index.folder)
    (library / "new.png").write_bytes(encoded("PNG", 70))
    uses: list[Callable[[], Any]] = [
        lambda: Index(library, model).search("a star", keep=None),
        lambda: Index(library, model).add(library),
        lambda: Index(library, model).prune(),
        lambda: find_duplicates(Index(library, model)),
        lambda: find_themes(Index(library, model), groups=1),
        lambda: IndexCaptions(Index(library, model).store).paths(),
    ]
    for use in uses:
        with pytest.raises(IndexDamaged) as fault:
            use()
        message = str(fault.value)
        assert f"'{index.folder}' is damaged" in message
        assert message.endswith(f"diptych index '{library}' --rebuild")
        assert ".rs:" not in message
        assert len(message.splitlines()) == 1
    rebuilt = Index.rebuild(library, model)
    assert rebuilt.add(library).new == (5 if "metadata" in damage else 4)  # which is where the exclusions are
    assert Index(library, model).search("a star", keep=None).total == len(rebuilt)


def test_the_command_that_a_damaged_index_names_makes_it_again(
    library: Path,
    model_folder: Path,  # noqa: F811
    run: Run,  # noqa: F811
    tmp_path: Path,
) -> None:
    assert run("index", library, "--model", model_folder, "--index", tmp_path / "kept").code == 0
    shutil.rmtree(tmp_path / "kept" / "pictures.lance" / "data")
    ended = run("index", library, "--index", tmp_path / "kept")
    ended = run("search", "a star", "--nearest", "--index", tmp_path / "kept") if ended.code == 0 else ended
    assert ended.code == 1
    assert f"diptych index FOLDER --index {tmp_path / 'kept'} --rebuild" in " ".join(ended.err.split())
    again = run("index", library, "--index", tmp_path / "kept", "--rebuild")
    assert (again.code, "4 new" in again.out) == (0, True), again.err
    assert Index(tmp_path / "kept").store.identity.name == str(model_folder)


def test_a_rebuild_removes_nothing_but_an_index(
    library: Path,
    model: diptych.DualEncoder,  # noqa: F811
) -> None:
    index = Index(library, model)
    index.add(library)
    (index.folder / "mine.txt").write_text("mine")
    with pytest.raises(DataError, match="holds other files"):
        Index.rebuild(library, model)
    assert len(Index(library)) == 4


def test_an_invalid_condition_is_no_damage(
    library: Path,
    model: diptych.DualEncoder,  # noqa: F811
) -> None:
    index = Index(library, model)
    index.add(library)
    with pytest.raises(ConfigError):
        index.search("a star", where="nothing = 3")
    with pytest.raises(Exception, match="nothing") as fault:
        find_duplicates(index, where="nothing = 3")
    assert not isinstance(fault.value, IndexDamaged)


@pytest.mark.parametrize(
    ("error", "advice"),
    [
        (RuntimeError("lance error: LanceError(IO): write failed: No space left on device (os error 28)"), "space"),
        (RuntimeError("lance error: LanceError(IO): Read-only file system (os error 30)"), "writable"),
        (RuntimeError("lance error: LanceError(IO): Permission denied (os error 13)"), "writable"),
        (OSError(28, "No space left on device"), "space"),
        (OSError(30, "Read-only file system"), "writable"),
        (PermissionError(13, "Permission denied"), "writable"),
    ],
)
def test_a_disk_that_cannot_be_written_is_a_sentence_with_a_next_step(
    error: Exception,
    advice: str,
    library: Path,
    model: diptych.DualEncoder,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    index = Index(library, model)

    def refused(*_: object) -> None:
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(Store, "add", refused)
        with pytest.raises(StorageError) as fault:
            index.add(library)
    assert str(index.folder) in str(fault.value)
    assert advice in str(fault.value)
    assert index.add(library).new == 4


def test_what_an_interrupted_creation_leaves_is_used_by_the_next_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    identity = ModelIdentity("mini", None, 16)

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("diptych.search.store.write_json", full)
        with pytest.raises(OSError, match="No space"):
            Store.create(tmp_path / "index", identity)
    assert any((tmp_path / "index").iterdir())
    assert index_folder(tmp_path / "index") == tmp_path / "index"
    assert len(Store.create(tmp_path / "index", identity)) == 0
