"""`diptych search`: search an index of images by text and by example."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter, validators

from diptych.cli.options import (
    COMMON,
    Common,
    Count,
    Flag,
    Index,
    IndexModel,
    InputImages,
    K,
    Null,
    PageOutput,
    Several,
    Share,
)
from diptych.cli.show import (
    echo,
    note,
    note_files,
    print_json,
    print_paths,
    print_table,
    relative_path,
    set_quiet,
    warn,
)
from diptych.search.cutoff import KEEP
from diptych.search.filters import Filters
from diptych.search.retrieval import Sort

if TYPE_CHECKING:
    from diptych.reports.gallery import Gallery
    from diptych.search.index import Index as SearchIndex
    from diptych.search.results import Hit, Results


def search(
    *texts: str,
    image: InputImages = (),
    like: Several = (),
    unwanted: Annotated[tuple[str, ...], Parameter("--not", negative="")] = (),
    unwanted_image: Annotated[InputImages, Parameter("--not-image")] = (),
    unwanted_like: Annotated[tuple[str, ...], Parameter("--not-like", negative="")] = (),
    filters: Annotated[Filters, Parameter(name="*")] = Filters(),  # noqa: B008 - frozen
    k: K = 20,
    page: Count = 1,
    sort: Sort = "score",
    cutoff: Share = KEEP,
    nearest: Flag = False,
    fold: bool = True,
    rerank: Annotated[int, Parameter(validator=validators.Number(gte=0, lte=5000))] = 0,
    output: PageOutput = None,
    paths: Flag = False,
    null: Null = False,
    index: Index = None,
    model: IndexModel = None,
    common: Common = COMMON,
) -> None:
    """Search an index by text, by example image, or both.

    If nothing in the index matches the query, nothing is shown. Inside a library (a folder with an index), the index is
    found automatically, the way git finds its repository. Put texts first: options such as --not take every value that
    follows them.

    Parameters
    ----------
    texts
        What the images should show. Several texts are combined; ^ sets a weight: "a dog^2".
    image
        Image files that results should resemble.
    like
        Images of the index, by path or id, that results should resemble.
    unwanted
        What results should not show. Negative terms have a weight of 0.5 by default.
    unwanted_image
        Image files that results should not resemble.
    unwanted_like
        Images of the index that results should not resemble.
    k
        Results per page.
    page
        Page of results, counted from 1.
    sort
        Order of results: by score, or by date, newest or oldest first.
    cutoff
        Relevance cutoff, from 0 to 1: the share of queries with a true match that still return one. Lower values hide
        more results; 1 hides the fewest.
    nearest
        Show the nearest images even if they are below the relevance cutoff.
    fold
        Show only one of several copies of the same image.
    rerank
        Rerank this many of the best results with the model's matcher, such as 50; 0 for none.
    output
        Also write the results to an HTML page (.html) or a contact sheet (.png).
    paths
        Print only paths, one per line, for other programs. Paths that contain a line break are left out with a
        warning; --null prints them too.
    null
        Like --paths, but end each path with a NUL byte, for `xargs -0`.
    """
    from diptych.reports.gallery import gallery_of
    from diptych.search.query import Query

    set_quiet(common.quiet, common.as_json)
    query = Query.of(
        texts,
        image=image,
        like=like,
        unwanted=unwanted,
        unwanted_image=unwanted_image,
        unwanted_like=unwanted_like,
    )
    opened = open_index(index, common.device, model)
    results = opened.search(
        query, k=k, page=page, filters=filters, sort=sort, keep=None if nearest else cutoff, fold=fold, rerank=rerank
    )
    written = save_index_gallery(gallery_of(results), output, opened)
    if common.as_json:
        print_json(results.to_dict())
    elif paths or null:
        print_paths((hit.path for hit in results), b"\0" if null else b"\n")
        if not results.hits:
            warn(results.message)
    else:
        _print_results(results)
        note_files(written)


def open_index(folder: Path | None, device: str = "auto", model: str | None = None) -> SearchIndex:
    """The index of a library or index folder, or of the library that contains the working folder.

    Raises:
        DataError: there is no index.
    """
    from diptych.errors import DataError
    from diptych.search.index import Index, Store, find_index, index_folder

    folder = folder if folder is not None else find_index()
    if model is not None and not Store.is_index(index_folder(folder)):
        raise DataError(f"'{folder}' has no index; create one with `diptych index FOLDER`")
    opened = Index(folder, model, device=device)
    if opened.store.moved_from is not None:
        warn(
            f"the library was moved from '{opened.store.moved_from}', and the index has the old paths; "
            f"`diptych index '{opened.store.root}'` corrects them"
        )
    return opened


def save_index_gallery(gallery: Gallery, path: Path | None, index: SearchIndex) -> list[Path]:
    """Write a gallery of indexed images, and return the files; none if `path` is None."""
    from diptych.reports.gallery import save_gallery

    return save_gallery(gallery, path, roots=index.readable) if path else []


def _print_results(results: Results) -> None:
    rows = [_row(rank, hit) for rank, hit in enumerate(results, results.first_rank)]
    if rows:
        used = [name for name in rows[0] if any(row[name] for row in rows)]
        print_table(results.message, [{name: row[name] for name in used} for row in rows])
    else:
        echo(results.message)
    if results.more or results.total >= results.first_rank + len(results) > results.first_rank:
        note(f"next page: --page {results.page + 1}")
    if not results.searched:  # there was nothing that a cutoff could leave out
        return
    hint = "; --nearest shows the nearest images anyway" if results.nothing_found else ""
    note(f"({results.cutoff}{hint})")


def _row(rank: int, hit: Hit) -> dict[str, str]:
    return {
        "rank": f"{rank}",
        "image": relative_path(hit.path) + (f" (+{len(hit.copies)})" if hit.copies else ""),
        "taken": f"{hit.taken:%Y-%m-%d}" if hit.taken else "",
        "size": f"{hit.width} × {hit.height}" if hit.width else "",
        "caption": (hit.caption or "").split("\n")[0],
        "score": f"{hit.score:.3f}",
        "P(match)": "" if hit.match is None else f"{hit.match:.3f}",
    }
