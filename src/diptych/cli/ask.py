"""`diptych search`: what the pictures of an index show."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from diptych.cli.show import print_json, print_paths, print_table, say, warn
from diptych.search.cutoff import KEEP
from diptych.search.filters import Filters
from diptych.search.retrieval import Sort

if TYPE_CHECKING:
    from diptych.reports.gallery import Gallery
    from diptych.search.index import Index
    from diptych.search.results import Results

Several = Annotated[tuple[str, ...], Parameter(negative="")]
Flag = Annotated[bool, Parameter(negative="")]
Json = Annotated[bool, Parameter("--json", negative="")]


def search(
    *texts: str,
    image: Annotated[tuple[Path, ...], Parameter(negative="")] = (),
    like: Several = (),
    unwanted: Annotated[tuple[str, ...], Parameter("--not", negative="")] = (),
    unwanted_image: Annotated[tuple[Path, ...], Parameter("--not-image", negative="")] = (),
    unwanted_like: Annotated[tuple[str, ...], Parameter("--not-like", negative="")] = (),
    filters: Annotated[Filters, Parameter(name="*")] = Filters(),  # noqa: B008 - frozen
    k: Annotated[int, Parameter(("--k", "-k"))] = 20,
    page: int = 1,
    sort: Sort = "score",
    keep: float = KEEP,
    nearest: Flag = False,
    fold: bool = True,
    rerank: int = 0,
    out: Path | None = None,
    paths: Flag = False,
    null: Annotated[bool, Parameter(("--null", "-0"), negative="")] = False,
    as_json: Json = False,
    index: Path | None = None,
    model: str | None = None,
    device: str = "auto",
) -> None:
    """Search an index: by text, by picture, by what is not wanted, or by all of these.

    A text that matches nothing finds nothing, and says so. In a library or below it, the library's index is found as
    git finds a repository.

    Parameters
    ----------
    texts
        What the pictures should show; several are added. A number after ^ weighs one: "a dog^2".
    image
        A picture file that the pictures should be like; this and the next four may be given several times.
    like
        A picture of the index, by its path or id, that the pictures should be like.
    unwanted
        What they should not show; counts half unless weighed.
    unwanted_image
        A picture file that they should not be like.
    unwanted_like
        A picture of the index that they should not be like.
    k
        Pictures a page.
    page
        Which page, from 1.
    sort
        score, or by date: newest, oldest.
    keep
        Share of the queries with a match that still find one: less is stricter, 1 the most lenient.
    nearest
        Show the nearest pictures, whether they match or not.
    fold
        Show copies of one picture once.
    rerank
        Look again at so many of the first pictures with the model's matcher, and put those in its order: 50, say.
    out
        Also write the pictures to an HTML page (.html) or a contact sheet (.png).
    paths
        Print paths alone, one a line, for other programs. A path with a line break is left out, with a warning; --null
        prints it too.
    null
        With --paths, end each with a NUL byte: for `xargs -0`.
    as_json
        Print the results as JSON.
    index
        The library or index folder to search; else the one that the working folder lies in.
    model
        The model that made the index, by another name or place; also lets an index of somebody else load its model.
    device
        auto, cpu, cuda or mps.
    """
    from diptych.reports.gallery import gallery_of
    from diptych.search.query import Query

    query = Query.of(
        texts,
        image=image,
        like=like,
        unwanted=unwanted,
        unwanted_image=unwanted_image,
        unwanted_like=unwanted_like,
    )
    library = open_index(index, device, model)
    results = library.search(
        query, k=k, page=page, filters=filters, sort=sort, keep=None if nearest else keep, fold=fold, rerank=rerank
    )
    written = save_if_asked(gallery_of(results), out, library)
    if as_json:
        print_json(results.to_dict())
    elif paths or null:
        print_paths((hit.path for hit in results), b"\0" if null else b"\n")
        if not results.hits:
            warn(results.message)
    else:
        _print_results(results, written)


def open_index(folder: Path | None, device: str = "auto", model: str | None = None) -> Index:
    from diptych.errors import DataError
    from diptych.search.index import Index, Store, find_index, index_folder

    folder = folder if folder is not None else find_index()
    if model is not None and not Store.is_one(index_folder(folder)):
        raise DataError(f"'{folder}' holds no index; make one with `diptych index FOLDER`")
    return Index(folder, model, device=device)


def _print_results(results: Results, written: list[Path]) -> None:
    rows: list[dict[str, Any]] = [
        {
            "rank": rank,
            "picture": shown(hit.path) + (f" (+{len(hit.copies)})" if hit.copies else ""),
            "taken": f"{hit.taken:%Y-%m-%d}" if hit.taken else "",
            "size": f"{hit.width} × {hit.height}" if hit.width else "",
            "caption": (hit.caption or "").split("\n")[0],
            "score": f"{hit.score:.3f}",
            "P(match)": "" if hit.match is None else f"{hit.match:.3f}",
        }
        for rank, hit in enumerate(results, results.first_rank)
    ]
    if rows:
        empty = [name for name in rows[0] if not any(row[name] for row in rows)]
        print_table(results.message, [{name: row[name] for name in row if name not in empty} for row in rows])
    else:
        say(results.message)
    if results.more or results.total >= results.first_rank + len(results) > results.first_rank:
        say(f"the next page: --page {results.page + 1}")
    hint = "; --nearest shows the nearest whatever they show" if results.nothing_found else ""
    say(f"({results.cutoff}{hint})")
    say_written(written)


def save_if_asked(gallery: Gallery, out: Path | None, library: Index) -> list[Path]:
    from diptych.reports.gallery import save_gallery

    return save_gallery(gallery, out, roots=library.readable) if out else []


def say_written(files: list[Path]) -> None:
    if files:
        more = f" and {len(files) - 1} more" if len(files) > 1 else ""
        say(f"pictures: {files[0]}{more}")


def shown(path: str) -> str:
    """A path for people: relative where it lies below the working folder."""
    from diptych.images.paths import from_text

    whole = from_text(path)
    here = Path.cwd()
    return str(whole.relative_to(here) if whole.is_relative_to(here) else whole)
