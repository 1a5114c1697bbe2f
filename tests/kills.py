"""Publishes a model in processes that end before each of their steps in turn: `python tests/kills.py FOLDER`.

A process of its own, because it forks some hundred times, which is dear in one that has loaded torch.
"""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

from diptych.runtime.atomic import in_place, replaced_folder, restore, write_text

STEPS = ("rename", "replace", "mkdir", "fsync", "unlink", "rmdir")  # of `os`: what publishing does to a disk


def is_ours(folder: Path) -> bool:
    return (folder / "card").is_file()


def publish(target: Path, generation: str) -> None:
    with replaced_folder(target, is_ours) as fresh:
        for name in ("card", "weights"):
            (fresh / name).write_text(generation)


def names(folder: Path) -> list[str]:
    """What lies in a folder, hidden files too."""
    return sorted(path.name for path in folder.iterdir())


def loaded(target: Path) -> str:
    """Which generation a loader finds; it must be whole."""
    folder = in_place(target)
    card, weights = ((folder / name).read_text() for name in ("card", "weights"))
    assert card == weights
    return card


def killed_at(step: int, work: Callable[[], object]) -> bool:
    """Do `work` in a process that ends, as by `kill -9`, before its step of that number; False where it has fewer."""
    child = os.fork()
    if child == 0:
        count = 0

        def counted(call: Callable[..., object]) -> Callable[..., object]:
            def run(*arguments: object, **named: object) -> object:
                nonlocal count
                count += 1
                if count == step:
                    os._exit(9)
                return call(*arguments, **named)

            return run

        try:
            for name in STEPS:
                setattr(os, name, counted(getattr(os, name)))
            work()
        finally:
            os._exit(0 if sys.exc_info()[0] is None else 1)
    ended = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert ended in (0, 9), f"step {step} ended with {ended}"
    return ended == 9


def kill_publications(home: Path) -> tuple[int, set[str]]:
    """How many steps a publication has, and what a loader found after it was killed at one of them.

    Killed at each step, then once more at each step of the next try, which first repairs what the first one left.
    """
    seen, first = set(), 0
    while True:
        first, second, cut = first + 1, 0, True
        while cut:
            second += 1
            folder = home / f"{first}-{second}"
            folder.mkdir()
            target = folder / "model"
            publish(target, "old")
            if not killed_at(first, partial(publish, target, "new")):
                assert (loaded(target), names(folder)) == ("new", ["model"])
                return first - 1, seen
            seen.add(loaded(target))
            cut = killed_at(second, partial(publish, target, "new"))
            assert loaded(target) in ("old", "new")
            restore(target, is_ours)
            assert (target / "card").read_text() in ("old", "new")
            assert names(folder) == ["model"]
            shutil.rmtree(folder)


def kill_writes(home: Path) -> tuple[int, set[str]]:
    """The same of a single file."""
    path = home / "recipe.yaml"
    write_text(path, "old")
    step, seen = 1, set()
    while killed_at(step, partial(write_text, path, "new" * 10_000)):
        seen.add(path.read_text())
        step += 1
    assert seen <= {"old", "new" * 10_000}
    assert path.read_text() == "new" * 10_000
    return step - 1, seen


if __name__ == "__main__":
    print(*(len(each) if isinstance(each, set) else each for each in kill_publications(Path(sys.argv[1]))))
    print(kill_writes(Path(sys.argv[1]))[0])
