"""Exclusions: files and folders to leave out, named by patterns as in `.gitignore`."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from pathlib import Path

from pathspec import GitIgnoreSpec

from diptych.errors import ConfigError
from diptych.images.paths import spellings
from diptych.images.roots import expand_home, is_inside


class Exclusions:
    """Patterns of files and folders to leave out, each list of them relative to a folder of its own.

    Patterns have the syntax and meaning of `.gitignore`: `*.thumb.jpg` and `Backup` match a name at any depth,
    `Backup/` only folders, `2019/raw` a path below the folder, `**/raw/**` all that lies in a folder `raw`, and
    `!keep.jpg` takes back an earlier pattern. Unlike there, `#` starts no comment, a path may be absolute or start
    with `~/`, and `./Backup` is `Backup` in the working folder or in the folder itself.

    Args:
        patterns: the patterns by the folder to which they are relative, an absolute path without links.

    Raises:
        ConfigError: a pattern is not valid.
    """

    def __init__(self, patterns: Mapping[str, Sequence[str]]) -> None:
        self.patterns = {root: tuple(given) for root, given in patterns.items()}
        self._specs = [(root, _spec(given, root)) for root, given in self.patterns.items() if given]
        self._matched: set[tuple[str, int]] = set()
        self._excludes_folder = lru_cache(maxsize=65_536)(lambda folder: self._excludes(folder, is_folder=True))

    def __bool__(self) -> bool:
        return bool(self._specs)

    def excludes(self, path: str, *, is_folder: bool) -> bool:
        """Whether a file or folder is left out by its own name; its parents are not considered."""
        return bool(self._specs) and self._excludes(path, is_folder=is_folder)

    def excludes_below(self, path: str, *, is_folder: bool = False) -> bool:
        """Whether a file or folder is left out by its own name or by that of a folder that contains it."""
        if not self._specs:
            return False
        if self.excludes(path, is_folder=is_folder):
            return True
        folder = os.path.dirname(path)  # noqa: PTH120 (called for every row of an index)
        while any(is_inside(folder, [root]) for root, _ in self._specs):
            if self._excludes_folder(folder):
                return True
            parent = os.path.dirname(folder)  # noqa: PTH120
            if parent == folder:
                return False
            folder = parent
        return False

    def unmatched(self, root: str) -> tuple[str, ...]:
        """The patterns relative to `root` that have matched nothing so far."""
        return tuple(
            pattern for number, pattern in enumerate(self.patterns.get(root, ())) if (root, number) not in self._matched
        )

    def _excludes(self, path: str, *, is_folder: bool) -> bool:
        for root, spec in self._specs:
            if not is_inside(path, [root]) or path == root:
                continue
            below = path[len(root) :].strip(os.sep).replace(os.sep, "/")
            result = spec.check_file(f"{below}/" if is_folder else below)
            if result.include is not None and result.index is not None:
                self._matched.add((root, result.index))
            if result.include:
                return True
        return False


NOTHING = Exclusions({})
"""No exclusions."""


def _spec(patterns: Iterable[str], root: str) -> GitIgnoreSpec:
    lines = [_as_gitignore(pattern, root) for pattern in patterns]
    for line in lines:  # one by one, so that the error names the pattern
        try:
            GitIgnoreSpec.from_lines([line], backend="simple")
        except ValueError as error:
            raise ConfigError(f"'{line}' is not a pattern as in .gitignore ({error}); change it") from error
    return GitIgnoreSpec.from_lines(lines, backend="simple")


def _as_gitignore(pattern: str, root: str) -> str:
    """A pattern as a line of a `.gitignore` in `root`."""
    taken_back, body = ("!", pattern[1:]) if pattern.startswith("!") else ("", pattern)
    if os.sep != "/":
        body = body.replace(os.sep, "/")
    body = expand_home(body)
    is_relative = body.startswith("./")
    if is_relative or Path(body).is_absolute():
        inside = _below(body, root)
        body = inside if inside is not None else body[1:] if is_relative else body
    elif body.startswith("#"):
        body = f"\\{body}"
    return taken_back + body


def _below(path: str, root: str) -> str | None:
    """A path of the working folder as an anchored pattern below `root`; None if it lies elsewhere."""
    end = "/" if path.endswith("/") else ""
    try:
        forms = spellings(path.rstrip("/"))
    except (OSError, ValueError):
        return None
    for form in forms:
        if form != root and is_inside(form, [root]):
            return "/" + form[len(root) :].strip(os.sep).replace(os.sep, "/") + end
    return None
