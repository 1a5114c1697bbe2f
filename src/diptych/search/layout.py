"""Layout of an index on disk: the names of its files, where it lies, and errors of damaged or unusable folders."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from diptych.errors import DataError, DiptychError, NextStep, StorageError
from diptych.runtime.atomic import is_storage_failure, is_temporary

METADATA_FILE = "index.json"
HIDDEN = ".diptych"  # the index of a library, inside it
SKIPPED = "skipped.json"
LOCK, HOLDER = "write.lock", "writer.json"
TABLE = "pictures"
TABLE_FOLDER = f"{TABLE}.lance"

_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_NOT_WRITABLE = re.compile(r"os error (1|13|30)\b|Permission denied|Read-only file system")
_is_junction: Callable[[str], bool] = getattr(os.path, "isjunction", os.path.islink)  # Windows, Python 3.12 on
_LIBRARIES = ("lancedb", "lance")
_OPTIONS = re.compile("Invalid user input|Schema error")  # Lance's words for a condition that is not valid


class IndexDamaged(DataError):  # noqa: N818 - it names what is the matter
    """Files of an index are missing or damaged."""


def is_index(folder: Path) -> bool:
    """Whether a folder is an index."""
    return (folder / METADATA_FILE).is_file()


def has_rows_only(folder: Path) -> bool:
    """Whether a folder holds the rows of an index whose metadata is lost: its model, exclusions and volumes.

    A table without rows is what an interrupted creation leaves.
    """
    data = folder / TABLE_FOLDER / "data"
    return not (folder / METADATA_FILE).exists() and data.is_dir() and any(data.iterdir())


def no_metadata(folder: Path) -> DataError:
    """The error for a folder without metadata: it is no index, or a damaged one."""
    if has_rows_only(folder):
        return damaged(folder, f"{METADATA_FILE} is missing")
    return DataError(f"'{folder}' contains no index; make one with `diptych index FOLDER`")


def find_index(start: str | Path = ".") -> Path:
    """The index folder of the library that contains `start`: in `start` or its nearest parent with one, as in git.

    Raises:
        DataError: neither `start` nor a parent has an index.
    """
    start = Path(start).expanduser().resolve()
    for folder in (start, *start.parents):
        for candidate in (folder / HIDDEN, folder):
            if is_index(candidate) or has_rows_only(candidate):
                return candidate
    raise DataError(f"neither '{start}' nor a folder above it has an index; make one with `diptych index FOLDER`")


def index_folder(path: str | Path) -> Path:
    """The folder of the index called `path`, which need not exist yet.

    It is `path` itself if that is an index, what remains of one, an empty folder, or missing; otherwise `path` is a
    library, whose index is `path/.diptych`.
    """
    path = Path(path).expanduser().resolve()
    if is_index(path) or not path.exists() or (path.name != HIDDEN and _holds_only_own_files(path)):
        return path
    return path if path.name == HIDDEN else path / HIDDEN


def check_name(folder: Path) -> None:
    """Check that the database can store an index in a folder of this name.

    Raises:
        DataError: the path is not UTF-8, or contains a control character such as a line break.
    """
    path = str(folder.absolute())
    reason = "contains a control character" if _CONTROL.search(path) else None
    try:
        path.encode()
    except UnicodeEncodeError:
        reason = "is not UTF-8"
    if reason:
        raise DataError(
            f"an index cannot be stored in {path!r}, whose name {reason}; rename the folder, or store the index in "
            "another",
            steps=[NextStep("name that folder", "index")],
        )


def make_folder(folder: Path) -> None:
    """Make a folder for an index.

    Raises:
        DataError: it cannot be made.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DataError(
            f"'{folder}' cannot be made ({error.strerror}); store the index in another folder",
            steps=[NextStep("name that folder", "index")],
        ) from error


def refuse_links(folder: Path) -> None:
    """Refuse an index that contains links: writing through them, even a lock, would overwrite files elsewhere.

    Raises:
        DataError: there is one.
    """
    folders = [str(folder)]
    while folders:
        try:
            with os.scandir(folders.pop()) as entries:
                for entry in entries:
                    if entry.is_symlink() or _is_junction(entry.path):
                        raise DataError(f"'{entry.path}' is a link, and an index contains none; remove the link")
                    if entry.is_dir(follow_symlinks=False):
                        folders.append(entry.path)
        except FileNotFoundError:  # removed by a writer in the meantime
            continue
        except OSError as error:
            raise DataError(f"'{folder}' cannot be listed ({error.strerror}); check its permissions") from error


def check_own_files(folder: Path) -> None:
    """Check that a folder holds nothing but what remains of an index.

    Raises:
        DataError: it holds other files.
    """
    if folder.exists() and not _holds_only_own_files(folder):
        raise DataError(f"'{folder}' holds other files and no index; name a new folder")


def _holds_only_own_files(folder: Path) -> bool:
    ours = (METADATA_FILE, LOCK, HOLDER, "skipped.", TABLE_FOLDER)
    return all(entry.name.startswith(ours) or is_temporary(entry) for entry in folder.iterdir())


def discard(folder: Path) -> None:
    """Remove the table and the metadata of an index, so that it can be made again. The caller holds its lock.

    Raises:
        DataError: the folder holds other files than those of an index.
    """
    check_own_files(folder)
    (folder / METADATA_FILE).unlink(missing_ok=True)  # first: an index with metadata is complete
    table = folder / TABLE_FOLDER
    if table.is_dir() and not table.is_symlink():
        shutil.rmtree(table)
    else:
        table.unlink(missing_ok=True)


def damaged(folder: Path, reason: str) -> IndexDamaged:
    """The error for a damaged index, with the command that makes it again."""
    command = (
        f"diptych index {shlex.quote(str(folder.parent))} --rebuild"
        if folder.name == HIDDEN
        else f"diptych index FOLDER --index {shlex.quote(str(folder))} --rebuild"
    )
    return IndexDamaged(f"the index in '{folder}' is damaged ({reason}); index the images again: {command}")


@contextmanager
def guarded(folder: Path) -> Iterator[None]:
    """Translate errors of LanceDB, Lance and Arrow while an index is read or written.

    Raises:
        IndexDamaged: files of the index are missing or damaged.
        StorageError: the folder cannot be written.
    """
    try:
        yield
    except DiptychError:
        raise
    except (OSError, RuntimeError, ValueError) as error:
        if is_storage_failure(error):
            raise
        if isinstance(error, PermissionError) or _NOT_WRITABLE.search(str(error)):
            raise StorageError(
                f"the index in '{folder}' cannot be written ({first_line(error)}); make the folder writable, or store "
                "the index in another",
                steps=[NextStep("name that folder", "index")],
            ) from error
        if not _is_of_the_database(error) or _OPTIONS.search(str(error)):
            raise
        raise damaged(folder, first_line(error)) from error


def _is_of_the_database(error: BaseException) -> bool:
    """Whether an error comes from the libraries that store the table."""
    if "lance" in str(error).lower():
        return True
    modules = (frame.f_globals.get("__name__", "") for frame, _ in traceback.walk_tb(error.__traceback__))
    return any(module.split(".")[0] in _LIBRARIES for module in modules)


def first_line(error: Exception) -> str:
    """The first line of an error's message, or its type's name, without positions in the source of a library."""
    line = (str(error).splitlines() or [type(error).__name__])[0]
    return re.split(r", \S+\.rs:\d+", line)[0].removeprefix("lance error: ")[:300]
