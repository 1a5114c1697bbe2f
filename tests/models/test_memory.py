"""What a data set costs in memory: its text, as Arrow holds it, and a few bytes a picture beside that."""

from __future__ import annotations

import hashlib
import tracemalloc
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from diptych.data.doctor.findings import usable_rows
from diptych.data.doctor.report import describe_pairs
from diptych.data.formats.read import read_pairs
from diptych.data.pairs import Pairs, Row
from diptych.data.row_table import Captions
from diptych.training.batches import PairSampler, _ByLength
from diptych.training.run import split_for_training

FEW, MANY = 2_000, 6_000  # both above the blocks in which rows become Python objects


@cache
def drawn(count: int) -> Pairs:
    captions = ("A dog runs across the grass.", "Two dogs", "a third caption that is somewhat longer", "", "A dog {}")
    return Pairs.from_rows(
        Row(f"{i:012}.jpg", Path(f"/pictures/{i:012}.jpg"), tuple(text.format(i) for text in captions), "train")
        for i in range(count)
    )


def make_checks(pairs: Pairs) -> pa.Table:
    return pa.table({"reason": pa.array([""] * len(pairs)), "detail": pa.array([""] * len(pairs))})


def bytes_a_picture(work: Callable[[int], Any]) -> tuple[float, float]:
    """What one more picture adds to the Python memory that `work` keeps, and to its peak.

    Each is the least of three rounds, since a thread that another test left behind may allocate meanwhile.
    """

    def traced(count: int) -> tuple[int, int]:
        tracemalloc.start()
        held = work(count)
        found = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        del held
        return found

    least = []
    for count in (FEW, MANY):
        work(count)  # what is made once, such as caches of modules
        least.append(np.min([traced(count) for _ in range(3)], axis=0))
    kept, peak = (least[1] - least[0]) / (MANY - FEW)
    return kept, peak


JOBS: dict[str, tuple[Callable[[Pairs], Any], float, float]] = {  # and the most bytes a picture: kept, at its peak
    "the order of pictures and captions": (lambda pairs: PairSampler(pairs, 64, 0), 32, 64),
    "captions by length": (lambda pairs: (ordered := _ByLength(pairs.captions())).hash() and ordered, 48, 120),
    "a fingerprint": (lambda pairs: pairs.fingerprint(), 1, 16),
    "the split for training": (lambda pairs: split_for_training(pairs, 0.1), 1, 64),
    "the doctor's figures": (
        lambda pairs: describe_pairs(pairs, usable_rows(pairs, make_checks(pairs)), {}, 10),
        1,
        120,
    ),
}


@pytest.mark.parametrize("name", JOBS)
def test_a_picture_costs_a_few_bytes_beside_its_text(name: str) -> None:
    for count in (FEW, MANY):
        drawn(count)
    job, kept, peak = JOBS[name]
    measured = bytes_a_picture(lambda count: job(drawn(count)))
    assert measured[0] <= kept
    assert measured[1] <= peak


def test_reading_a_table_holds_an_id_for_each_picture_and_no_path(tmp_path: Path) -> None:
    def write(count: int) -> Path:
        folder = tmp_path / str(count)
        folder.mkdir()
        (folder / "images").mkdir()
        rows = [f"{i:012}.jpg,a dog\n{i:012}.jpg,two dogs\n" for i in range(count)]
        (folder / "captions.txt").write_text("image,caption\n" + "".join(rows))
        return folder

    folders = {count: write(count) for count in (FEW, MANY)}
    kept, peak = bytes_a_picture(lambda count: read_pairs(folders[count]))
    assert kept < 1
    assert peak < 320  # a dict's entry, the id and a number


def test_captions_are_those_of_the_rows_whatever_the_view() -> None:
    pairs = drawn(FEW)[5:1500].where(i % 3 > 0 for i in range(1495))
    captions, owner = pairs.flat_captions()
    assert captions == [caption for row in pairs for caption in row.captions]
    assert owner.tolist() == [i for i, row in enumerate(pairs) for _ in row.captions]
    view = pairs.captions()
    assert list(view) == captions == view[:] == [view[i] for i in range(len(view))]
    assert view[-1] == captions[-1]
    assert view[7:2:-2] == captions[7:2:-2]
    assert view.take(np.array([4, 4, 0])) == [captions[4], captions[4], captions[0]]
    assert view.lengths().tolist() == [len(caption) for caption in captions]
    with pytest.raises(IndexError):
        view[len(view)]


def test_captions_by_length_are_the_sorted_ones_and_keep_the_name_of_their_features() -> None:
    texts = ["ccc", "a", "", "bb", "ü🟩", "dddd"] * 400
    ordered = _ByLength(Captions(pa.array(texts)))
    plain = sorted(texts, key=len)
    assert ordered[:] == plain
    assert ordered[3:5] == plain[3:5]
    assert ordered.hash() == hashlib.sha256("\0".join(plain).encode()).hexdigest()[:16]
    assert [plain[place] for place in ordered.places()] == texts
