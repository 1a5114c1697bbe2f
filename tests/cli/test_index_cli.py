"""`diptych index`, run in this process: what it writes, prints and refuses."""

# ruff: noqa: F811 - parameters are fixtures of other files

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from diptych.search.index import Index, Store
from tests.cli.test_cli import Run, run  # noqa: F401 - a fixture
from tests.search.test_index import library, model_folder  # noqa: F401 - fixtures
from tests.search.test_index_files import stored_vectors

pytest.importorskip("lancedb")


def test_a_library_is_indexed_and_updated(run: Run, library: Path, model_folder: Path) -> None:
    first = run("index", library, "--model", model_folder)
    assert first.code == 0, first.err
    assert "6 new" in first.out
    assert str(library / ".diptych") in first.out.replace("\n", "")
    (library / "0.png").unlink()
    (library / "broken.png").write_bytes(b"no picture")
    again = json.loads(run("index", library, "--json").out)
    assert (again["unchanged"], again["gone"], again["reasons"]) == (5, 1, {"undecodable": 1})
    assert [Path(file["path"]).name for file in again["skipped"]] == ["broken.png"]
    pruned = run("index", library, "--prune")
    assert "1 pruned" in pruned.out
    assert "broken.png" in pruned.out
    assert len(Index(library)) == 5


def test_inside_a_library_its_index_is_found(run: Run, library: Path, model_folder: Path) -> None:
    run("index", library, "--model", model_folder)
    shutil.copy(library / "0.png", library / "sub" / "copy.png")
    part = json.loads(run("index", library / "sub", "--json").out)
    assert (part["copied"], part["unchanged"], part["gone"]) == (1, 3, 0)
    assert not (library / "sub" / ".diptych").exists()


def test_files_that_match_an_excluded_pattern_are_skipped(run: Run, library: Path, model_folder: Path) -> None:
    words = ("index", library, "--model", model_folder, "--exclude", "sub", "--exclude", "0.*", "--json")
    assert json.loads(run(*words).out)["new"] == 2


def test_exclusions_are_remembered_and_a_pattern_without_effect_is_named(
    run: Run, library: Path, model_folder: Path
) -> None:
    ended = run("index", library, "--model", model_folder, "--exclude", "sub/", "Bakcup")
    assert "--exclude 'Bakcup' matches nothing" in " ".join(ended.err.split())
    assert "'sub/'" not in ended.err
    again = run("index", library, "--json")
    assert (json.loads(again.out)["new"], json.loads(again.out)["unchanged"]) == (0, 3)
    assert json.loads(run("index", library, "--reset-exclude", "--json").out)["new"] == 3


def test_losing_most_images_wants_a_second_word(run: Run, library: Path, model_folder: Path) -> None:
    run("index", library, "--model", model_folder)
    for file in library.rglob("*.png"):
        file.unlink()
    refused = run("index", library, "--prune")
    assert (refused.code, "would remove 6 images" in " ".join(refused.err.split())) == (1, True)
    assert "(--prune-all)" in refused.err
    assert json.loads(run("index", library, "--prune-all", "--json").out)["pruned"] == 6


def test_images_below_a_folder_can_be_forgotten(run: Run, library: Path, model_folder: Path) -> None:
    run("index", library, "--model", model_folder)
    ended = run("index", library, "--forget", library / "sub", "--exclude", "sub")
    assert "3 images below" in " ".join((ended.out + ended.err).split())
    assert len(Index(library)) == 3


def test_a_library_that_was_moved_is_named_when_it_is_searched(
    run: Run, library: Path, model_folder: Path, tmp_path: Path
) -> None:
    run("index", library, "--model", model_folder)
    library.rename(tmp_path / "moved")
    words = ("search", "a star", "--nearest", "--index", tmp_path / "moved", "--model", model_folder)
    assert f"the library was moved from '{library}'" in " ".join(run(*words).err.split())
    assert "6 moved with the library" in run("index", tmp_path / "moved", "--model", model_folder).out
    assert "was moved" not in run(*words).err


def test_an_index_can_be_stored_outside_the_library(
    run: Run, library: Path, model_folder: Path, tmp_path: Path
) -> None:
    assert run("index", library, "--index", tmp_path / "kept", "--model", model_folder).code == 0
    assert len(Store.open(tmp_path / "kept")) == 6
    assert not (library / ".diptych").exists()


def test_captions_are_stored_with_the_captions_flag(run: Run, scenes: Path, model_folder: Path, tmp_path: Path) -> None:
    words = ("index", scenes, "--index", tmp_path / "kept", "--model", model_folder, "--with-captions", "--json")
    assert json.loads(run(*words).out)["new"] == 48
    row = Store.open(tmp_path / "kept").table.search().limit(1).to_list()[0]
    assert len(row["caption"].split("\n")) == 5


def test_precomputed_embeddings_need_the_name_of_their_model(run: Run, model_folder: Path, tmp_path: Path) -> None:
    stored_vectors(tmp_path / "vectors")
    refused = run("index", tmp_path / "vectors")
    assert refused.code == 1
    assert "name the model" in refused.err
    assert json.loads(run("index", tmp_path / "vectors", "--model", model_folder, "--json").out)["new"] == 13


def test_sources_that_cannot_be_indexed_are_refused_in_one_sentence(
    run: Run, library: Path, model_folder: Path
) -> None:
    missing = run("index", library / "nowhere")
    assert (missing.code, missing.out) == (1, "")
    assert "does not exist" in missing.err
    run("index", library, "--model", model_folder)
    with Index(library).store.lock():
        busy = run("index", library, "--lock-timeout", "0")
    assert busy.code == 1
    assert "is writing" in busy.err


def test_a_search_filters_by_iso_dates_and_refuses_other_texts(
    run: Run,
    library: Path,
    model_folder: Path,
) -> None:
    run("index", library, "--model", model_folder)
    words = ("search", "red", "--index", library, "--nearest", "--json")
    for bounds in (("--since", "2021"), ("--since", "0001-01-01"), ("--until", "9999-12-31")):
        assert json.loads(run(*words, *bounds).out)["searched"] == 6
    assert json.loads(run(*words, "--until", "2001-05").out)["searched"] == 0
    refused = run(*words, "--since", "2021-02-30")
    assert refused.code != 0
    assert "'2021-02-30' is not a date" in refused.err


def test_an_empty_index_is_named_as_the_reason_for_no_results(run: Run, tmp_path: Path, model_folder: Path) -> None:
    empty = tmp_path / "nothing"
    empty.mkdir()
    assert "no images found" in run("index", empty, "--model", model_folder).out
    ended = run("cluster", "--index", empty)
    assert (ended.code, "the index is empty" in ended.err) == (1, True)
    assert json.loads(run("cluster", "--index", empty, "--json").out) == []
    assert "cutoff" not in run("search", "a dog", "--index", empty).out
