"""Atomic writes: killed at every step, they leave the old or the new content, and never touch foreign files."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from diptych.errors import ConfigError
from diptych.images.contact_sheet import save_contact_sheet
from diptych.models.checkpoints import model_directory
from diptych.runtime.atomic import in_place, new_file, new_folder, replaced_folder, restore, write_bytes, write_text
from tests.kills import is_ours, loaded, names, publish


@pytest.mark.skipif(not hasattr(os, "fork"), reason="kills forks of a process")
def test_a_publication_or_write_killed_at_any_step_twice_leaves_the_old_or_the_new_one(tmp_path: Path) -> None:
    script = Path(__file__).parents[1] / "kills.py"
    done = subprocess.run([sys.executable, script, tmp_path], check=False, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    steps, found, steps_of_file = map(int, done.stdout.split())
    assert (steps > 8, found, steps_of_file > 2) == (True, 2, True)


def test_an_error_while_a_model_is_written_leaves_only_the_old_one(tmp_path: Path) -> None:
    publish(tmp_path / "model", "old")
    with pytest.raises((IsADirectoryError, PermissionError)), replaced_folder(tmp_path / "model", is_ours) as fresh:
        (fresh / "card").write_text(fresh.read_text())
    assert loaded(tmp_path / "model") == "old"
    assert names(tmp_path) == ["model"]


def test_a_folder_that_diptych_did_not_write_is_never_replaced(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "thesis.txt").write_text("mine")
    with pytest.raises(ConfigError, match="model' was not made by diptych"):
        publish(tmp_path / "model", "new")
    assert (tmp_path / "model" / "thesis.txt").read_text() == "mine"
    assert names(tmp_path) == ["model"]


@pytest.mark.parametrize("name", ["", ".", "..", "/", "a\0b", "x" * 5_000])
def test_a_path_without_siblings_resolves_to_itself(name: str) -> None:
    assert in_place(Path(name)) == Path(name)


def test_a_model_that_a_kill_left_aside_is_loaded_from_there_and_restored_by_the_next_run(tmp_path: Path) -> None:
    publish(tmp_path / "run" / "model", "old")
    write_text(tmp_path / "run" / "model" / "modules.json", "[]")
    (tmp_path / "run" / "model").rename(tmp_path / "run" / ".model-old.diptych")
    for name in ("run", "run/model"):
        assert model_directory(tmp_path / name) == tmp_path / "run" / ".model-old.diptych"
    restore(tmp_path / "run" / "model", is_ours)
    assert model_directory(tmp_path / "run") == tmp_path / "run" / "model"


def test_hidden_folders_of_the_user_stay_at_any_age(tmp_path: Path) -> None:
    for name in (".model-old", ".model-backup", "model.new", "model.old"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "mine.txt").write_text("mine")
        os.utime(tmp_path / name, (0, 0))
    publish(tmp_path / "model", "old")
    publish(tmp_path / "model", "new")
    with new_folder(tmp_path / "model-2") as fresh:
        (fresh / "a").write_text("a")
    assert all((tmp_path / name / "mine.txt").exists() for name in (".model-old", ".model-backup", "model.new"))


@pytest.mark.skipif(os.name == "nt", reason="links need a right there")
def test_a_model_that_is_a_link_is_replaced_and_its_target_stays(tmp_path: Path) -> None:
    publish(tmp_path / "elsewhere", "old")
    (tmp_path / "model").symlink_to("elsewhere")
    publish(tmp_path / "model", "new")
    assert (loaded(tmp_path / "model"), loaded(tmp_path / "elsewhere")) == ("new", "old")
    assert names(tmp_path) == ["elsewhere", "model"]


@pytest.mark.skipif(os.name == "nt", reason="no such permissions there")
def test_a_written_file_has_default_permissions_or_those_of_the_file_it_replaces(tmp_path: Path) -> None:
    (tmp_path / "plain").write_text("x")
    write_text(tmp_path / "new", "x")
    assert (tmp_path / "new").stat().st_mode == (tmp_path / "plain").stat().st_mode
    (tmp_path / "plain").chmod(0o640)
    write_text(tmp_path / "plain", "y")
    assert stat.S_IMODE((tmp_path / "plain").stat().st_mode) == 0o640


@pytest.mark.skipif(os.name == "nt", reason="no such files there")
def test_a_device_is_written_and_not_replaced_and_a_link_stays_a_link(tmp_path: Path) -> None:
    with new_file("/dev/null") as path:
        path.write_text("x")
    assert stat.S_ISCHR(Path("/dev/null").stat().st_mode)
    (tmp_path / "link").symlink_to("file")
    write_bytes(tmp_path / "link", b"x")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "file").read_bytes() == b"x"


@pytest.mark.parametrize("suffix", ["png", "jpg", "webp"])
def test_a_contact_sheet_replaces_a_contact_sheet_and_never_a_photograph(tmp_path: Path, suffix: str) -> None:
    photograph, sheet = tmp_path / f"photo.{suffix}", tmp_path / f"sheet.{suffix}"
    Image.new("RGB", (8, 8), "red").save(photograph)
    before = photograph.read_bytes()
    with pytest.raises(ConfigError, match="exists and was not made by diptych"):
        save_contact_sheet(Image.new("RGB", (4, 4)), photograph)
    assert photograph.read_bytes() == before
    for side in (4, 6):
        save_contact_sheet(Image.new("RGB", (side, side)), sheet)
        with Image.open(sheet) as image:
            assert image.size == (side, side)
