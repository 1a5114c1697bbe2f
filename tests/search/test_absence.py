"""Absence is not deletion: rows stay while a drive is off, and leave when their files are known to be gone."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import diptych
from diptych.errors import DataError
from diptych.images.paths import to_text
from diptych.images.roots import is_inside
from diptych.search import volumes
from diptych.search.index import Index
from diptych.search.query import Query
from diptych.search.volumes import Volumes, mount_points
from tests.broken import encoded
from tests.search.test_index import model, model_folder  # noqa: F401 - fixtures

pytest.importorskip("lancedb")


class Drive:
    """A folder that behaves as a drive that is mounted there: another device, and nothing in it when it is off."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch, device: int = 7_777) -> None:
        self.folder, self.aside, self.is_on = folder, folder.with_name(f".{folder.name}-off"), True
        folder.mkdir(parents=True)
        device_of = volumes.device_of
        monkeypatch.setattr(
            "diptych.search.volumes.device_of",
            lambda path: device if self.is_on and is_inside(path, [str(folder)]) else device_of(path),
        )

    def off(self, leaves: str) -> None:
        """Take the drive away: its mount point is left as an empty folder, with a stray file in it, or not at all."""
        self.is_on = False
        self.folder.rename(self.aside)
        if leaves != "nothing":
            self.folder.mkdir()
        if leaves == "a stray file":
            (self.folder / "README.txt").write_text("not mounted")

    def on(self) -> None:
        """Bring it back."""
        shutil.rmtree(self.folder, ignore_errors=True)
        self.aside.rename(self.folder)
        self.is_on = True


def identify(folder: Path, inserted: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Give the file system that is mounted at a folder an identity: the last one of `inserted`."""
    monkeypatch.setattr(
        "diptych.search.volumes.identity_of", lambda path: inserted[-1] if path == str(folder) else None
    )
    monkeypatch.setattr("diptych.search.add.identity_of", lambda path: volumes.identity_of(path))


LEAVES = ("an empty folder", "a stray file", "nothing")


def draw(folder: Path, *names: str, seed: int = 0) -> None:
    """Different pictures with these names."""
    for number, name in enumerate(names):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encoded("PNG", seed + number))


def names(index: Index) -> set[str]:
    """The names of the pictures in an index."""
    return {row["path"].rpartition("/")[2] for row in index.store.table.search().limit(1_000).to_list()}


@pytest.fixture
def library(tmp_path: Path) -> Path:
    """Three pictures in a folder."""
    draw(tmp_path / "library", "a.png", "b.png", "sub/c.png")
    return tmp_path / "library"


# drives that are off


@pytest.mark.parametrize("leaves", LEAVES)
def test_rows_of_a_drive_that_is_off_are_not_pruned(
    leaves: str,
    library: Path,
    model: diptych.DualEncoder,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    drive = Drive(library / "card", monkeypatch)
    draw(drive.folder, "1.png", "DCIM/2.png", seed=10)
    index = Index(library, model)
    assert index.add(library).new == 5
    drive.off(leaves)
    (library / "a.png").unlink()
    for added in (index.add(library), index.add(library, prune=True), index.add(library, prune_all=True)):
        assert (added.unreachable, added.unreachable_folders) == (2, (to_text(drive.folder),))
    assert (index.prune().unreachable, names(index)) == (2, {"b.png", "c.png", "1.png", "2.png"})
    drive.on()
    added = index.add(library, prune=True)
    assert (added.unchanged, added.unreachable, added.gone) == (4, 0, 0)


@pytest.mark.parametrize("leaves", LEAVES)
def test_rows_behind_a_link_to_a_drive_that_is_off_are_not_pruned(
    leaves: str,
    library: Path,
    tmp_path: Path,
    model: diptych.DualEncoder,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    drive = Drive(tmp_path / "media" / "card", monkeypatch)
    draw(drive.folder, "1.png", "2.png", seed=10)
    (library / "linked").symlink_to(drive.folder)
    (library / "linked.png").symlink_to(drive.folder / "2.png")
    index = Index(library, model)
    assert index.add(library, follow_links=True).images == 6
    drive.off(leaves)
    assert index.add(library, follow_links=True, prune=True).unreachable == 3
    index.add(library, prune=True)  # without following links they are skipped, and stay as well
    assert len(index) == 6


@pytest.mark.parametrize("leaves", LEAVES)
def test_a_backup_takes_no_rows_from_a_drive_that_is_off(
    leaves: str,
    tmp_path: Path,
    model: diptych.DualEncoder,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    drive, backup = Drive(tmp_path / "A", monkeypatch), tmp_path / "B"
    draw(drive.folder, "1.png", "2.png", "3.png")
    index = Index(tmp_path / "index", model)
    index.add(drive.folder)
    shutil.copytree(drive.folder, backup)  # with the times of change
    drive.off(leaves)
    added = index.add(backup)
    assert (added.renamed, added.copied, added.embedded, len(index)) == (0, 3, 0, 6)
    assert (index.add(backup, prune=True).pruned, len(index)) == (0, 6)
    drive.on()
    (drive.folder / "1.png").unlink()  # now it is known to be gone
    (backup / "1.png").rename(backup / "new.png")
    assert index.add(backup).renamed == 1


def test_deleted_pictures_of_a_drive_that_is_on_are_pruned(
    tmp_path: Path,
    model: diptych.DualEncoder,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    drive = Drive(tmp_path / "A", monkeypatch)
    draw(drive.folder, "1.png", "2.png", "whole/folder/3.png", "emptied/4.png")
    index = Index(tmp_path / "index", model)
    index.add(drive.folder)
    (drive.folder / "2.png").unlink()
    shutil.rmtree(drive.folder / "whole")
    (drive.folder / "emptied" / "4.png").unlink()
    added = index.add(drive.folder)
    assert (added.gone, added.unreachable) == (3, 0)
    assert (index.add(drive.folder, prune=True).pruned, names(index)) == (3, {"1.png"})


def test_another_drive_in_the_same_place_does_not_empty_the_index(
    tmp_path: Path,
    model: diptych.DualEncoder,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    drive = Drive(tmp_path / "A", monkeypatch)
    identify(drive.folder, ["1"], monkeypatch)
    draw(drive.folder, "1.png", "2.png")
    index = Index(tmp_path / "index", model)
    index.add(drive.folder)
    for file in drive.folder.iterdir():
        file.unlink()
    with pytest.raises(DataError, match="would remove 2 images"):
        index.add(drive.folder, prune=True)
    with pytest.raises(DataError, match="would remove 2 images"):
        index.prune()
    assert len(index) == 2
    assert index.prune(prune_all=True).pruned == 2


@pytest.mark.parametrize("others", [(), ("1.png", "new.png")], ids=["empty", "with an image of the same name"])
def test_another_drive_without_identity_in_the_same_place_takes_no_rows(
    others: tuple[str, ...],
    library: Path,
    model: diptych.DualEncoder,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    drive = Drive(library / "nas", monkeypatch)
    draw(drive.folder, *(f"{number}.png" for number in range(6)), seed=10)
    index = Index(library, model)
    assert index.add(library).new == 9
    shutil.copytree(drive.folder, library.parent / "kept")
    for file in drive.folder.iterdir():
        file.unlink()
    draw(drive.folder, *others, seed=40)
    missing = 6 - ("1.png" in others)
    for _ in range(3):  # also once the images of the other drive are in the index
        for report in (index.add(library, prune=True), index.add(library, prune_all=True), index.prune(prune_all=True)):
            assert (report.pruned, report.unreachable) == (0, missing)
    for file in (library.parent / "kept").iterdir():
        shutil.copy2(file, drive.folder)
    report = index.add(library, prune=True)
    assert (report.new, report.unreachable, len(index)) == (0, 0, 9 + ("new.png" in others))


def test_images_hidden_by_a_drive_that_is_mounted_over_their_folder_stay(
    library: Path,
    model: diptych.DualEncoder,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    draw(library, "nas/1.png", "nas/2.png", seed=10)
    index = Index(library, model)
    assert index.add(library).new == 5
    (library / "nas").rename(library.parent / "hidden")
    drive = Drive(library / "nas", monkeypatch)
    draw(drive.folder, "3.png", "4.png", seed=20)
    for _ in range(2):
        assert index.add(library, prune=True).unreachable == 2
    (library / "a.png").unlink()
    assert index.add(library, prune=True).pruned == 1
    drive.off("nothing")
    (library.parent / "hidden").rename(library / "nas")
    report = index.add(library, prune=True)
    assert (report.new, report.unchanged, report.unreachable, len(index)) == (0, 4, 2, 6)


def test_cards_that_take_turns_in_one_place_keep_their_rows(
    tmp_path: Path,
    model: diptych.DualEncoder,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    card, inserted = Drive(tmp_path / "card", monkeypatch).folder, ["1"]
    identify(card, inserted, monkeypatch)
    draw(card, "1.png", "2.png", "3.png")
    index = Index(tmp_path / "index", model)
    index.add(card)
    (card / "3.png").unlink()
    assert index.add(card, prune=True).pruned == 1
    for number in ("2", "3"):
        for file in card.iterdir():
            file.unlink()
        inserted.append(number)
        if number == "3":
            draw(card, "4.png", seed=10)
        assert index.add(card, prune=True).unreachable == 2
    assert names(index) == {"1.png", "2.png", "4.png"}
    assert (index.prune().unreachable, len(index)) == (2, 3)
    index.forget(card / "1.png")
    index.forget(card / "2.png")
    index.add(card)  # which sees all there is
    draw(card, "5.png", seed=20)
    index.add(card)
    (card / "4.png").unlink()
    assert index.add(card, prune=True).pruned == 1


def test_most_of_many_pictures_are_only_removed_with_a_second_word(
    tmp_path: Path,
    model: diptych.DualEncoder,  # noqa: F811
) -> None:
    draw(tmp_path / "library", *(f"{number}.png" for number in range(90)))
    index = Index(tmp_path / "library", model)
    index.add(tmp_path / "library")
    for number in range(51):
        (tmp_path / "library" / f"{number}.png").unlink()
    with pytest.raises(DataError, match="would remove 51 images"):
        index.add(tmp_path / "library", prune=True)
    assert (index.add(tmp_path / "library", prune_all=True).pruned, len(index)) == (51, 39)


def test_an_index_of_an_older_version_loses_no_rows_below_an_empty_or_missing_folder(
    library: Path,
    model: diptych.DualEncoder,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    drive = Drive(library / "card", monkeypatch)
    draw(drive.folder, "1.png", "2.png", seed=10)
    index = Index(library, model)
    index.add(library)
    file = index.folder / "index.json"
    metadata = json.loads(file.read_text())
    del metadata["volumes"], metadata["exclude"]
    file.write_text(json.dumps(metadata))
    drive.off("an empty folder")
    (library / "a.png").unlink()
    for _ in range(3):
        added = Index(library, model).add(library, prune=True)
    assert (added.unreachable, names(index)) == (2, {"b.png", "c.png", "1.png", "2.png"})
    drive.on()
    Index(library, model).add(library)  # which sees every row, so that their volumes are known from now on
    shutil.rmtree(library / "sub")
    assert Index(library, model).add(library, prune=True).pruned == 1


def test_pictures_of_a_drive_that_never_comes_back_can_be_forgotten(
    tmp_path: Path,
    library: Path,
    model: diptych.DualEncoder,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    drive = Drive(tmp_path / "A", monkeypatch)
    draw(drive.folder, "1.png", "2.png", seed=10)
    index = Index(tmp_path / "index", model)
    index.add(library)
    index.add(drive.folder)
    drive.off("nothing")
    assert (index.forget(drive.folder), names(index)) == (2, {"a.png", "b.png", "c.png"})
    assert index.forget(library / "a.png") == 1
    assert index.forget(tmp_path / "lib") == 0


def test_a_folder_that_cannot_be_listed_keeps_its_rows_whatever_its_name(
    library: Path,
    model: diptych.DualEncoder,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    folder = library / os.fsdecode(b"caf\xe9")
    draw(folder, "1.png", "2.png", seed=10)
    draw(library / os.fsdecode(b"\xff"), "3.png", seed=20)
    index = Index(library, model)
    assert index.add(library).new == 6
    shutil.rmtree(library / os.fsdecode(b"\xff"))
    scan = os.scandir

    def refused(path: Any) -> Any:
        if str(path) == str(folder):
            raise PermissionError(13, "Permission denied", str(path))
        return scan(path)

    monkeypatch.setattr(os, "scandir", refused)
    added = index.add(library, prune=True)
    assert (added.pruned, added.reasons, len(index)) == (1, {"unreadable": 1}, 5)


def test_an_error_of_the_device_is_no_deletion(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "a.png"
    file.write_bytes(b"")
    assert Volumes({"/": ()}).state(to_text(file)) == "there"
    stat = os.stat

    def failing(path: Any, **options: Any) -> os.stat_result:
        if str(path) == str(file):
            raise OSError(5, "Input/output error", str(path))
        return stat(path, **options)

    monkeypatch.setattr(os, "stat", failing)
    assert Volumes({"/": ()}).state(to_text(file)) == "unreachable"


def test_mount_points_are_read_with_their_escapes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    line = rb"36 35 98:0 /mnt1 /mnt/my\040card\134x rw,noatime master:1 - ext3 /dev/root rw" + b"\n"
    (tmp_path / "mountinfo").write_bytes(line + b"\n")
    monkeypatch.setattr(volumes, "_MOUNTS", tmp_path / "mountinfo")
    assert mount_points() == {"/mnt/my card\\x"}
    monkeypatch.setattr(volumes, "_MOUNTS", tmp_path / "nothing")
    assert mount_points() == frozenset()


def test_a_bound_folder_of_the_same_device_is_a_volume_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "bound" / "deep").mkdir(parents=True)
    monkeypatch.setattr("diptych.search.volumes.mount_points", lambda: frozenset({str(tmp_path / "bound")}))
    assert Volumes(None).volume_of(str(tmp_path / "bound" / "deep")) == str(tmp_path / "bound")
    monkeypatch.setattr("diptych.search.volumes.mount_points", frozenset)
    state = Volumes({"/": (), to_text(tmp_path / "bound"): ()}).state(to_text(tmp_path / "bound" / "deep" / "a.png"))
    assert state == "unreachable"


# watching


def watched(index: Index, library: Path, steps: list[Callable[[], Any]], **options: Any) -> list[Any]:
    """The reports of a watch during which one step is taken after each report; the last one stops it."""
    stop, reports = threading.Event(), []
    pending = [*steps, stop.set]
    for report in index.watch(library, stop=stop, quiet=0.1, **options):
        reports.append(report)
        if pending:
            threading.Timer(0.4, pending.pop(0)).start()
    return reports


@pytest.mark.timeout(120)
def test_watching_goes_on_when_the_drive_is_back(
    tmp_path: Path,
    model: diptych.DualEncoder,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    drive = Drive(tmp_path / "card", monkeypatch)
    draw(drive.folder, "1.png", "2.png")
    index, messages = Index(tmp_path / "index", model), []

    def unplug_and_plug() -> None:
        drive.off("nothing")
        threading.Timer(1.0, drive.on).start()

    reports = watched(
        index,
        drive.folder,
        [unplug_and_plug, lambda: draw(drive.folder, "new.png", seed=30), lambda: (drive.folder / "1.png").unlink()],
        on_wait=messages.append,
    )
    assert [(report.new, report.pruned) for report in reports] == [(2, 0), (0, 0), (1, 0), (0, 1)]
    assert names(index) == {"2.png", "new.png"}
    assert any("waiting for it to come back" in message for message in messages)


@pytest.mark.timeout(120)
def test_watching_starts_again_when_a_drive_was_exchanged_between_two_looks(
    tmp_path: Path,
    model: diptych.DualEncoder,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    drive = Drive(tmp_path / "card", monkeypatch)
    draw(drive.folder, "1.png", "2.png")
    index, events = Index(tmp_path / "index", model), list[bool]()
    monkeypatch.setattr(volumes.MountEvents, "happened", lambda self: bool(events) and events.pop())
    # The mount looks as before, and no change of a file is seen, since none took place where the watch still is.
    reports = watched(index, drive.folder, [lambda: events.append(True)])
    assert [report.unchanged for report in reports] == [0, 2]


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="only root can mount")
def test_an_exchange_of_mounts_that_leaves_no_trace_is_told(tmp_path: Path) -> None:
    events = volumes.MountEvents()
    assert not events.happened()
    mount = ["mount", "-t", "tmpfs", "drive", str(tmp_path)]
    if not shutil.which("mount") or subprocess.run(mount, check=False, capture_output=True).returncode:
        pytest.skip("mounting is not allowed here")
    try:
        assert events.happened()
        assert not events.happened()
    finally:
        subprocess.run(["umount", str(tmp_path)], check=True)
    assert events.happened()
    events.close()


@pytest.mark.timeout(120)
def test_watching_goes_on_when_the_drive_takes_its_index_away_and_brings_it_back(
    tmp_path: Path,
    model: diptych.DualEncoder,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    drive = Drive(tmp_path / "card", monkeypatch)
    draw(drive.folder, "1.png", "2.png")
    index = Index(drive.folder, model)

    def plug() -> None:
        assert list(drive.folder.iterdir()) == [], "something was written where the drive is to be mounted"
        drive.on()

    def unplug_and_plug() -> None:
        drive.off("an empty folder")
        threading.Timer(1.0, plug).start()

    reports = watched(index, drive.folder, [unplug_and_plug, lambda: draw(drive.folder, "new.png", seed=30)])
    assert [(report.new, report.unchanged) for report in reports] == [(2, 0), (0, 2), (1, 2)]
    assert names(index) == {"1.png", "2.png", "new.png"}


@pytest.mark.timeout(120)
def test_watching_keeps_the_rows_of_a_part_that_is_off_and_follows_it_when_it_is_back(
    library: Path,
    model: diptych.DualEncoder,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    drive = Drive(library / "card", monkeypatch)
    draw(drive.folder, "1.png", "2.png", seed=10)
    index = Index(library, model)
    index.add(library)

    def plug_and_draw() -> None:
        drive.on()
        draw(drive.folder, "new.png", seed=30)

    reports = watched(
        index, library, [lambda: drive.off("an empty folder"), lambda: (library / "a.png").unlink(), plug_and_draw]
    )
    assert [report.unreachable for report in reports] == [0, 2, 2, 0]
    assert names(index) == {"b.png", "c.png", "1.png", "2.png", "new.png"}


@pytest.mark.timeout(120)
def test_watching_goes_on_after_the_last_picture_was_deleted(
    tmp_path: Path,
    model: diptych.DualEncoder,  # noqa: F811
) -> None:
    library = tmp_path / "library"
    draw(library, "1.png")
    index = Index(tmp_path / "index", model)
    reports = watched(index, library, [(library / "1.png").unlink, lambda: draw(library, "2.png", "3.png", seed=30)])
    assert [(report.new, report.pruned) for report in reports] == [(1, 0), (0, 1), (2, 0)]

    def delete_both() -> None:
        for file in library.iterdir():
            file.unlink()

    reports = watched(index, library, [delete_both, lambda: draw(library, "4.png", seed=50)])
    assert [(report.new, report.pruned, report.gone) for report in reports] == [(0, 0, 0), (0, 0, 2), (1, 2, 0)]


def test_watching_a_folder_that_is_not_there_is_an_error(
    library: Path,
    model: diptych.DualEncoder,  # noqa: F811
) -> None:
    with pytest.raises(DataError, match="mounted"):
        next(Index(library, model).watch(library / "nowhere"))


# exclusions


def test_exclusions_are_remembered_and_take_their_rows_out(
    library: Path,
    model: diptych.DualEncoder,  # noqa: F811
) -> None:
    draw(library, "Backup/1.png", "sub/Backup/2.png", seed=10)
    index = Index(library, model)
    assert index.add(library).new == 5
    added = index.add(library, exclude=["Backup/"])
    assert (added.excluded, added.gone, added.unreachable, names(index)) == (2, 0, 0, {"a.png", "b.png", "c.png"})
    for source in (library, library / "sub", library.parent):
        added = Index(library).add(source)
        assert (added.new, added.excluded, added.gone) == (0, 0, 0), source
    assert (library / "Backup" / "1.png").exists()
    with pytest.raises(DataError, match="left out by a pattern"):
        index.add(library / "Backup")
    assert (index.add(library, reset_exclude=True).copied, index.add(library, reset_exclude=True).new) == (0, 0)


def test_forgotten_exclusions_bring_their_pictures_back(
    library: Path,
    model: diptych.DualEncoder,  # noqa: F811
) -> None:
    draw(library, "Backup/1.png", seed=10)
    index = Index(library, model)
    assert index.add(library, exclude=["Backup"]).new == 3
    assert index.add(library, exclude=["sub"]).excluded == 1
    assert index.add(library).new == 0
    assert index.add(library, reset_exclude=True, exclude=["a.png"]).new == 2
    assert names(index) == {"b.png", "c.png", "1.png"}
    assert index.store.exclusions == {str(library): ("a.png",)}


def test_a_pattern_that_would_take_most_pictures_out_wants_a_second_word(
    library: Path,
    model: diptych.DualEncoder,  # noqa: F811
) -> None:
    index = Index(library, model)
    index.add(library)
    with pytest.raises(DataError, match=r"excluding '\*' would remove 3 images"):
        index.add(library, exclude=["*"])
    assert (len(index), index.store.exclusions) == (3, {})
    assert (index.add(library, exclude=["*"], prune_all=True).excluded, len(index)) == (3, 0)


@pytest.mark.timeout(120)
def test_watching_keeps_to_the_remembered_exclusions(
    library: Path,
    model: diptych.DualEncoder,  # noqa: F811
) -> None:
    index = Index(library, model)
    index.add(library, exclude=["Backup"])
    reports = watched(
        index,
        library,
        [lambda: draw(library, "Backup/1.png", "new.png", seed=10)],
    )
    assert [report.new for report in reports] == [0, 1]


def test_a_pattern_that_matches_nothing_is_named(
    library: Path,
    model: diptych.DualEncoder,  # noqa: F811
) -> None:
    added = Index(library, model).add(library, exclude=["sub/", "Bakcup", "*.tmp"])
    assert added.unmatched == ("Bakcup", "*.tmp")


def test_metadata_with_wrong_volumes_or_exclusions_is_refused(
    library: Path,
    model: diptych.DualEncoder,  # noqa: F811
) -> None:
    file = Index(library, model).folder / "index.json"
    metadata = json.loads(file.read_text())
    for name, value in (
        ("volumes", ["/"]),
        ("volumes", {"/": "7"}),
        ("exclude", ["Backup"]),
        ("exclude", {"/": "Backup"}),
    ):
        file.write_text(json.dumps({**metadata, name: value}))
        with pytest.raises(DataError, match=rf"the value of '{name}' in index.json is not valid"):
            Index(library)


# names


@pytest.mark.parametrize("way", ["whole", "root", "linked folder", "real file", "shown"])
def test_a_picture_is_found_under_every_spelling_of_its_path(
    way: str,
    library: Path,
    tmp_path: Path,
    model: diptych.DualEncoder,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    draw(tmp_path / "elsewhere", "1.png", os.fsdecode(b"caf\xe9.png"), seed=10)
    (library / "linked").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "root").symlink_to(library)
    index = Index(library, model)
    index.add(tmp_path / "root", follow_links=True)
    named = {
        "whole": library / "linked" / "1.png",
        "root": tmp_path / "root" / "linked" / "1.png",
        "linked folder": "linked/../linked/1.png",
        "real file": tmp_path / "elsewhere" / "1.png",
        "shown": to_text(library / "linked" / os.fsdecode(b"caf\xe9.png")),
    }[way]
    monkeypatch.chdir(library)
    assert index.search(Query.of(like=str(named)), keep=None).total == 4


@pytest.mark.parametrize("way", ["linked", "./linked/", "sub/../linked", "root/linked", "library/linked"])
def test_a_linked_folder_filters_under_every_spelling(
    way: str,
    library: Path,
    tmp_path: Path,
    model: diptych.DualEncoder,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    draw(tmp_path / "elsewhere", "1.png", "2.png", seed=10)
    (library / "linked").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "root").symlink_to(library)
    index = Index(library, model)
    index.add(library, follow_links=True)
    monkeypatch.chdir(tmp_path if way.startswith(("root", "library")) else library)
    found = index.search("a star", keep=None, filters=diptych.Filters(folder=way))
    assert {Path(hit.path).name for hit in found} == {"1.png", "2.png"}


def test_a_library_that_was_moved_with_its_index_is_rebased(
    library: Path,
    tmp_path: Path,
    model: diptych.DualEncoder,  # noqa: F811
) -> None:
    index = Index(library, model)
    index.add(library, exclude=["Backup"])
    vectors = {row["path"].rpartition("/")[2]: row["vector"] for row in index.store.table.search().to_list()}
    library.rename(tmp_path / "moved")
    draw(tmp_path / "moved", "Backup/1.png", seed=10)
    moved = Index(tmp_path / "moved", model)
    assert moved.store.moved_from == str(library)
    added = moved.add(tmp_path / "moved", prune=True)
    assert (added.rebased, added.unchanged, added.new, added.embedded, added.pruned) == (3, 3, 0, 0, 0)
    rows = moved.store.table.search().to_list()
    assert {row["path"].rpartition("/")[2]: row["vector"] for row in rows} == vectors
    assert {row["folder"] for row in rows} == {to_text(tmp_path / "moved"), to_text(tmp_path / "moved" / "sub")}
    assert Index(tmp_path / "moved").store.moved_from is None


def test_a_copied_library_describes_itself(
    library: Path,
    tmp_path: Path,
    model: diptych.DualEncoder,  # noqa: F811
) -> None:
    Index(library, model).add(library)
    shutil.copytree(library, tmp_path / "copy")
    (tmp_path / "copy" / "a.png").unlink()
    copy = Index(tmp_path / "copy", model)
    added = copy.add(tmp_path / "copy")
    assert (added.rebased, added.unchanged, added.embedded) == (2, 2, 0)
    rows = {row["path"] for row in copy.store.table.search().to_list()}
    assert rows == {to_text(library / "a.png"), *(to_text(tmp_path / "copy" / name) for name in ("b.png", "sub/c.png"))}


@pytest.mark.parametrize("name", [b"caf\xe9", b"new\nline", b"tab\there", b"esc\x1b"])
def test_an_index_cannot_lie_in_a_folder_whose_name_the_database_refuses_but_elsewhere(
    name: bytes,
    tmp_path: Path,
    model: diptych.DualEncoder,  # noqa: F811
) -> None:
    library = tmp_path / os.fsdecode(name)
    draw(library, "a.png", "b.png")
    with pytest.raises(DataError, match=r"an index cannot be stored in .* rename the folder"):
        Index(library, model)
    assert not (library / ".diptych").exists()
    index = Index(tmp_path / "index", model)
    assert index.add(library).new == 2
    assert index.add(library).unchanged == 2
    assert index.search(Query.of(like=str(library / "a.png")), keep=None).total == 1
    (library / "a.png").unlink()
    assert index.add(library, prune=True).pruned == 1
