"""`diptych caption`: captions of a picture, a folder, a tar, a data set or an index."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import Parameter

from diptych.cli.show import print_table, progress, say

if TYPE_CHECKING:
    from diptych.captioning.many_images import CaptionFunction, CaptionResult
    from diptych.images.decode import Picture

_AT_ONCE = 64  # pictures whose captions are written at once
Pictures = Iterable[tuple[str, "Picture"]]
CaptionBatch = Callable[[Pictures], Iterator["CaptionResult"]]


def caption(
    source: Path | None = None,
    *,
    index: Path | None = None,
    out: Path | None = None,
    sidecar: Annotated[bool, Parameter(negative="")] = False,
    model: str = "mini",
    method: Literal["beam", "greedy", "nucleus"] = "beam",
    beams: int = 3,
    count: int = 1,
    prefix: str = "",
    max_tokens: int = 30,
    temperature: float | None = None,
    top_p: float = 0.9,
    seed: int = 0,
    choose: Annotated[bool, Parameter(negative="")] = False,
    matcher: str | None = None,
    candidates: Path | None = None,
    template: Annotated[tuple[str, ...], Parameter(negative="")] = (),
    keep: int | None = None,
    split: str | None = None,
    again: Annotated[bool, Parameter(negative="")] = False,
    follow_links: Annotated[bool, Parameter(negative="")] = False,
    batch_size: int = 16,
    device: str = "auto",
) -> None:
    """Write captions of pictures, or rank given ones.

    Run again with the same --out, --sidecar or --index, it goes on where it was. Pictures that cannot be decoded are
    told with the reason, and the rest goes on.

    Parameters
    ----------
    source
        A picture, a folder, a tar, or any data set that `diptych data inspect` reads.
    index
        Instead of a source: an index, into which the captions are written; `diptych search --caption` then finds
        their words.
    out
        Write to this file, .jsonl or .csv.
    sidecar
        Write a text file beside each picture: photo.txt for photo.jpg.
    model
        mini, a run or directory of `diptych train caption`, or a hub name: VisionEncoderDecoder (ViT-GPT2), BLIP and
        image-text-to-text models.
    method
        beam (the likeliest of several), greedy (the likeliest word each time), or nucleus (drawn).
    beams
        Captions in the making at once, with beam.
    count
        Captions of each picture.
    prefix
        Words that each caption begins with.
    max_tokens
        Longest caption, in words or tokens.
    temperature
        With nucleus, above 1 is more daring; with --candidates, above the model's own is less sure.
    top_p
        With nucleus, words are drawn from the fewest that have this share of the probability.
    seed
        Seed of the draws.
    choose
        Write --count captions, 5 if not told, order them by captioner and matcher together, and say how likely each is.
    matcher
        The matcher of --choose, when it is not the model itself.
    candidates
        A file of captions, one a line: say how probable each is for each picture, compared with the others.
    template
        With --candidates, a sentence around each, such as "a photo of {}"; given several times, their mean counts.
    keep
        Of --count captions, or of all candidates, write only the best so many; of candidates into an index or text
        files 1 if not told.
    split
        Of a data set, only this split: train, val (also called dev) or test.
    again
        With --index, write captions of all pictures, those that have one too.
    follow_links
        Also read what links in the folder lead to, and pictures of the index that lie elsewhere.
    batch_size
        Pictures that go through the model at once.
    device
        auto, cpu, cuda or mps.
    """
    from diptych.captioning.many_images import caption_images
    from diptych.errors import ConfigError

    if (source is None) == (index is None):
        raise ConfigError("give a picture, a folder, a tar or a data set, or an index with --index, and not both")
    if out is not None and sidecar:
        raise ConfigError("give --out or --sidecar, not both: captions are written to one place")
    if keep is not None and keep < 1:
        raise ConfigError(f"keep is {keep}; keep at least 1 caption, or leave it out to keep all")
    if index is not None:
        _refuse("--index", {"--out": out, "--sidecar": sidecar, "--split": split})
    else:
        _refuse("a source; it is for --index", {"--again": again})
    if candidates is not None:
        written = {"--choose": choose, "--matcher": matcher, "--prefix": prefix, "--count": count != 1}
        _refuse("--candidates", written)
        keep = 1 if keep is None and (index is not None or sidecar) else keep
    else:
        _refuse("captions that are written; it is for --candidates", {"--template": template})
    if candidates is not None:
        describe, size = _ranker(model, candidates, template, temperature, device)
    else:
        settings = {
            **{"method": method, "beams": beams, "prefix": prefix, "max_tokens": max_tokens, "top_p": top_p},
            **{"seed": seed, "temperature": 1.0 if temperature is None else temperature, "batch_size": batch_size},
        }
        describe, size = _writer(model, (matcher or model) if choose or matcher else None, count, settings, device)

    def best(images: list[Any]) -> list[list[Any]]:
        return [texts[:keep] for texts in describe(images)]

    def described(pictures: Pictures) -> Iterator[CaptionResult]:
        return caption_images(pictures, best, image_size=size, batch_size=batch_size)

    if index is not None:
        _into_index(index, again, follow_links, described)
        return
    assert source is not None
    pictures, lost = _pictures_of(source, split, follow_links)
    if out is not None or sidecar:
        _into_files(pictures, lost, out, described)
    elif source.is_file() and len(pictures) == 1 and not lost:
        _show_one(pictures, described)
    else:
        _show(itertools.chain(lost, described(pictures)))


def _refuse(what: str, told: dict[str, Any]) -> None:
    """Refuse flags that do nothing."""
    from diptych.errors import ConfigError

    if names := [name for name, value in told.items() if value]:
        raise ConfigError(f"{' and '.join(names)} cannot be had with {what}; leave out one of them")


def _writer(
    model: str, matcher: str | None, count: int, settings: dict[str, Any], device: str
) -> tuple[CaptionFunction, int | None]:
    """Captions by a model, chosen by a matcher if one is named."""
    from diptych.captioning.candidates import choose
    from diptych.captioning.captioner import load_captioner
    from diptych.matching.matcher import load_matcher

    captioner = load_captioner(model, device)
    if matcher is None:
        return lambda images: captioner.caption(images, count=count, **settings), captioner.image_size
    judge, several = load_matcher(matcher, device=device), count if count > 1 else 5
    sizes = (captioner.image_size, judge.encoder.image_size)
    size = max(filter(None, sizes), default=None) if all(sizes) else None
    return lambda images: choose(images, captioner, judge, count=several, **settings), size


def _ranker(
    model: str, candidates: Path, templates: tuple[str, ...], temperature: float | None, device: str
) -> tuple[CaptionFunction, int | None]:
    """Given captions, ranked by a dual encoder."""
    from diptych.captioning.candidates import Ranker
    from diptych.data.formats.encoding import open_text
    from diptych.models.dual_encoder import load

    with open_text(candidates) as file:
        texts = [line.strip() for line in file if line.strip()]
    encoder = load(model, device)
    return Ranker(texts, encoder, templates=templates or ("{}",), temperature=temperature), encoder.image_size


def _pictures_of(
    source: Path, split: str | None, follow_links: bool
) -> tuple[list[tuple[str, Picture]], list[CaptionResult]]:
    """(path, picture) of a picture file, or of all in a folder, a tar or a data set, and those that cannot be read."""
    from diptych.captioning.many_images import CaptionResult
    from diptych.data.formats.read import read_pairs
    from diptych.images.paths import to_text
    from diptych.images.roots import ANYWHERE
    from diptych.images.skipped import Skipped
    from diptych.images.walk import is_image_file
    from diptych.search.sources import source_of

    if source.is_file() and is_image_file(source.name):
        _refuse("a picture; it is for data sets", {"--split": split})
        return [(to_text(source), source)], []
    pictures: list[tuple[str, Picture]] = []
    lost: list[CaptionResult] = []
    roots = ANYWHERE if follow_links else None
    found = source_of(read_pairs(source).with_val().split(split) if split else source, roots=roots)
    for item in found.items():
        if isinstance(item, Skipped):
            lost.append(CaptionResult(item.path, reason=item.reason, message=item.detail))
        else:
            pictures.append((item.path, item.picture))
    return pictures, lost


def _show_one(pictures: Pictures, describe_all: CaptionBatch) -> None:
    """A table of one picture's texts, with their scores."""
    from diptych.captioning.sinks import SCORES
    from diptych.errors import ImageError
    from diptych.images.paths import from_text

    for described in describe_all(pictures):
        if described.reason:
            raise ImageError(described.reason, str(described.message))
        names = [name for name in SCORES if any(hasattr(text, name) for text in described.texts)]
        rows = [{**{n: f"{getattr(text, n):.3f}" for n in names}, "caption": text.text} for text in described.texts]
        print_table(str(from_text(described.path)), rows)


def _show(found: Iterable[CaptionResult]) -> None:
    """A line a caption, as they come."""
    from diptych.images.paths import from_text

    without: Counter[str] = Counter()
    for described in found:
        without.update([described.reason] if described.reason else [])
        for text in described.texts:
            say(from_text(described.path), text.text)
    _say_without(without)


def _into_files(
    pictures: list[tuple[str, Picture]], lost: list[CaptionResult], out: Path | None, describe_all: CaptionBatch
) -> None:
    """Into one file, or beside the pictures, those that an earlier run wrote left out."""
    from diptych.captioning.sinks import CaptionFile, Sidecars

    sink = CaptionFile(out) if out is not None else Sidecars()
    left = [(path, picture) for path, picture in pictures if not sink.done(path)]
    if len(left) < len(pictures):
        say(f"{len(pictures) - len(left):,} pictures have captions already")
    untold = [each for each in lost if out is None or not sink.done(each.path)]
    found = itertools.chain(untold, describe_all(left))
    count, without = _write(found, len(untold) + len(left), sink.write)
    say(f"{count:,} pictures captioned: {out if out is not None else 'in text files beside them'}")
    _say_without(without)


def _into_index(folder: Path, again: bool, follow_links: bool, describe_all: CaptionBatch) -> None:
    from diptych.images.roots import ANYWHERE
    from diptych.search.captions import IndexCaptions
    from diptych.search.index import index_folder
    from diptych.search.store import Store

    sink = IndexCaptions(Store.open(index_folder(folder)), again=again)
    sink.readable = ANYWHERE if follow_links else sink.readable
    paths = sink.paths()
    count, without = _write(describe_all(sink.pictures(paths)), len(paths), sink.write)
    without.update(each.reason for each in sink.skipped)
    say(f"{count:,} pictures captioned in {sink.store.folder}; `diptych search --caption WORDS` finds them")
    _say_without(without)


def _write(
    described: Iterable[CaptionResult], total: int, write: Callable[[list[CaptionResult]], None]
) -> tuple[int, Counter[str]]:
    """Write as captions come, some at once: how many pictures were captioned, and why the others were not."""
    without: Counter[str] = Counter()
    waiting: list[CaptionResult] = []
    count = 0
    for each in progress(described, total, "captioning"):
        count += not each.reason
        without.update([each.reason] if each.reason else [])
        waiting.append(each)
        if len(waiting) == _AT_ONCE:
            write(waiting)
            waiting = []
    if waiting:
        write(waiting)
    return count, without


def _say_without(reasons: Counter[str]) -> None:
    if reasons:
        told = ", ".join(f"{reason} {count:,}" for reason, count in reasons.most_common())
        say(f"{reasons.total():,} pictures without a caption: {told}")
