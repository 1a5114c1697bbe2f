"""`diptych caption`: caption images, or rank given captions."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import Parameter

from diptych.cli.options import (
    COMMON,
    OUTPUT_NAMES,
    BatchSize,
    Common,
    Count,
    Flag,
    FollowLinks,
    K,
    OptionalCount,
    OptionalInputPath,
    Overwrite,
    Several,
    check_model,
    output_file,
)
from diptych.cli.show import echo, note, print_json, print_table, progress, set_quiet, warn
from diptych.errors import DataError

if TYPE_CHECKING:
    from PIL import Image

    from diptych.captioning.many_images import CaptionFunction, CaptionResult, Text
    from diptych.captioning.strategies import GenerationConfig
    from diptych.images.decode import ImageSource
    from diptych.images.skipped import Skipped

_WRITTEN_AT_ONCE = 64  # results
_CANDIDATES = 5  # of --choose
Images = Iterable[tuple[str, "ImageSource"]]
Captioning = Callable[[Images], Iterator["CaptionResult"]]


def caption(
    source: Path | None = None,
    *,
    index: Path | None = None,
    output: Annotated[Path | None, Parameter(OUTPUT_NAMES, validator=output_file(".jsonl", ".csv"))] = None,
    sidecar: Flag = False,
    model: Annotated[str, Parameter(validator=check_model)] = "mini",
    method: Literal["beam", "greedy", "nucleus"] = "beam",
    beams: Count = 3,
    k: K = 1,
    prefix: str = "",
    max_tokens: Count = 30,
    temperature: float | None = None,
    top_p: float = 0.9,
    seed: int = 0,
    choose: Flag = False,
    matcher: Annotated[str | None, Parameter(validator=check_model)] = None,
    candidates: OptionalInputPath = None,
    template: Several = (),
    keep: OptionalCount = None,
    split: str | None = None,
    overwrite: Overwrite = False,
    follow_links: FollowLinks = False,
    batch_size: BatchSize = 16,
    common: Common = COMMON,
) -> None:
    """Caption images, or rank given captions.

    Run it again with the same --output, --sidecar or --index to continue: images that already have captions are
    skipped. Images that cannot be decoded are reported with the reason.

    Parameters
    ----------
    source
        An image, a folder, a tar file, or any data set that `diptych data inspect` can read.
    index
        Instead of a source: caption the images of this index and store the captions in it. `diptych search --caption`
        searches their words.
    output
        Write the captions to this file (.jsonl or .csv).
    sidecar
        Write a text file next to each image: photo.txt for photo.jpg.
    model
        A captioner: mini, a run or directory of `diptych train caption`, or the hub name of a
        VisionEncoderDecoder (such as ViT-GPT2), BLIP or image-text-to-text model. With --candidates, a dual encoder.
    method
        Decoding strategy: beam search, greedy or nucleus sampling.
    beams
        Beam width of beam search.
    k
        Captions per image. With --choose, the number of candidates to rank, 5 by default.
    prefix
        Text that every caption starts with.
    max_tokens
        Maximum caption length, in the model's own units (words or tokens).
    temperature
        Sampling temperature of nucleus sampling; default: 1. With --candidates, the temperature of the probabilities;
        default: the model's own.
    top_p
        Nucleus sampling: sample from the smallest set of words with this total probability.
    seed
        Random seed of nucleus sampling.
    choose
        Rank the generated captions by the combined scores of captioner and matcher, and report how confident the choice
        is.
    matcher
        Matcher that ranks the captions; implies --choose. Default: the one that comes with the model.
    candidates
        Instead of generating captions, rank those in this file (one per line) for each image, with probabilities.
    template
        With --candidates, sentences to put each candidate into, such as "a photo of {}". Several templates are
        averaged.
    keep
        Keep only this many of the best captions per image. Default: all, or 1 for --candidates written to an index or
        to sidecar files.
    split
        Caption only this split of a data set: train, val (or dev) or test.
    overwrite
        With --index, also caption images that already have captions.
    """
    set_quiet(common.quiet, common.as_json)
    _check_places(source, index, output, sidecar, split, overwrite)
    _reject(
        {"--json": common.as_json and (output is not None or sidecar or index is not None)},
        "prints captions; leave it out",
    )
    if candidates is not None:
        unused = {"--choose": choose, "--matcher": matcher, "--prefix": prefix, "-k": k != 1}
        _reject(unused, "cannot be combined with --candidates")
    else:
        _reject({"--template": template}, "requires --candidates")
    images, unreadable = _images_of(source, split, follow_links) if source is not None else ([], [])
    _check_images(source, index, len(images) + len(unreadable))
    if candidates is not None:
        keep = 1 if keep is None and (index is not None or sidecar) else keep
        generate, size = _ranker(model, candidates, template, temperature, common.device)
    else:
        from diptych.captioning.strategies import GenerationConfig

        judge = (matcher or model) if choose or matcher else None
        count = k if k > 1 or judge is None else _CANDIDATES
        temperature = 1.0 if temperature is None else temperature
        generation = GenerationConfig(method, beams, count, max_tokens, temperature, top_p, seed)
        generate, size = _generator(model, judge, generation, prefix, batch_size, common.device)

    def best(images: list[Image.Image]) -> list[Sequence[Text]]:
        return [texts[:keep] for texts in generate(images)]

    from diptych.captioning.many_images import caption_images

    def captioning(images: Images) -> Iterator[CaptionResult]:
        return caption_images(images, best, image_size=size, batch_size=batch_size)

    if index is not None:
        _write_to_index(index, overwrite, follow_links, captioning)
        return
    assert source is not None
    failed = [_as_result(file) for file in unreadable]
    if output is not None or sidecar:
        _write_to_files(images, failed, output, captioning)
    elif common.as_json:
        _print_json(itertools.chain(failed, captioning(images)))
    elif source.is_file() and len(images) == 1 and not unreadable:
        _print_one(images, captioning)
    else:
        _print_all(itertools.chain(failed, captioning(images)))


def _check_images(source: Path | None, folder: Path | None, found: int) -> None:
    """Raise if the source contains no images, or if there is no index in the folder."""
    from diptych.search.index import index_folder
    from diptych.search.store import Store

    if folder is None and not found:
        raise DataError(f"'{source}' contains no images")
    if folder is not None and not Store.is_index(index_folder(folder)):
        raise DataError(f"'{folder}' has no index; create one with `diptych index FOLDER`")


def _as_result(skipped: Skipped) -> CaptionResult:
    from diptych.captioning.many_images import CaptionResult

    return CaptionResult(skipped.path, reason=skipped.reason, message=skipped.detail)


def _check_places(
    source: Path | None, index: Path | None, output: Path | None, sidecar: bool, split: str | None, overwrite: bool
) -> None:
    """Raise if the flags do not name one source and at most one place to write to."""
    from diptych.errors import ConfigError

    if (source is None) == (index is None):
        raise ConfigError("give either a source (an image, a folder, a tar file or a data set) or --index")
    if output is not None and sidecar:
        raise ConfigError("give either --output or --sidecar: captions are written to one place")
    if index is not None:
        _reject({"--output": output, "--sidecar": sidecar, "--split": split}, "cannot be combined with --index")
    else:
        _reject({"--overwrite": overwrite}, "requires --index")


def _reject(flags: Mapping[str, object], reason: str) -> None:
    """Raise if any of these flags is set: it would have no effect."""
    from diptych.errors import ConfigError

    if names := [name for name, value in flags.items() if value]:
        raise ConfigError(f"{' and '.join(names)} {reason}")


def _generator(
    model: str, matcher: str | None, generation: GenerationConfig, prefix: str, batch_size: int, device: str
) -> tuple[CaptionFunction, int | None]:
    """Captions generated by a model, ranked by a matcher if one is named; and the image size that they need."""
    from diptych.captioning.candidates import choose
    from diptych.captioning.captioner import load_captioner
    from diptych.matching.matcher import load_matcher

    captioner = load_captioner(model, device)
    if matcher is None:
        generate = partial(captioner.caption_with, config=generation, prefix=prefix, batch_size=batch_size)
        return generate, captioner.image_size
    judge = load_matcher(matcher, device=device)
    sizes = (captioner.image_size, judge.encoder.image_size)
    size = max(filter(None, sizes), default=None) if all(sizes) else None
    return lambda images: choose(images, captioner, judge, generation, prefix=prefix, batch_size=batch_size), size


def _ranker(
    model: str, candidates: Path, templates: tuple[str, ...], temperature: float | None, device: str
) -> tuple[CaptionFunction, int | None]:
    """Given captions, ranked by a dual encoder; and the image size that it needs."""
    from diptych.captioning.candidates import Ranker
    from diptych.data.formats.encoding import open_text
    from diptych.models.dual_encoder import load

    with open_text(candidates) as file:
        texts = [line.strip() for line in file if line.strip()]
    encoder = load(model, device)
    return Ranker(texts, encoder, templates=templates or ("{}",), temperature=temperature), encoder.image_size


def _images_of(
    source: Path, split: str | None, follow_links: bool
) -> tuple[list[tuple[str, ImageSource]], list[Skipped]]:
    """(path, image) of an image file, or of all images in a folder, tar or data set; and those that cannot be read."""
    from diptych.data.formats.read import read_pairs
    from diptych.images.paths import to_text
    from diptych.images.roots import ANYWHERE
    from diptych.images.skipped import Skipped
    from diptych.images.suffixes import is_image_file
    from diptych.search.sources import source_of

    if source.is_file() and is_image_file(source.name):
        _reject({"--split": split}, f"requires a data set; '{source}' is an image")
        return [(to_text(source), source)], []
    images: list[tuple[str, ImageSource]] = []
    unreadable: list[Skipped] = []
    roots = ANYWHERE if follow_links else None
    items = source_of(read_pairs(source).with_val().split(split) if split else source, roots=roots).items()
    for item in items:
        if isinstance(item, Skipped):
            unreadable.append(item)
        else:
            images.append((item.path, item.image))
    return images, unreadable


def _print_one(images: Images, captioning: Captioning) -> None:
    """Print a table of one image's captions with their scores."""
    from diptych.captioning.sinks import SCORES
    from diptych.errors import ImageError
    from diptych.images.paths import from_text

    for result in captioning(images):
        if result.reason:
            raise ImageError(result.reason, str(result.message))
        names = [name for name in SCORES if any(hasattr(text, name) for text in result.texts)]
        rows = [
            {**{name: f"{getattr(text, name):.3f}" for name in names}, "caption": text.text} for text in result.texts
        ]
        print_table(str(from_text(result.path)), rows)


def _print_json(results: Iterable[CaptionResult]) -> None:
    from diptych.captioning.sinks import as_dict

    listed = list(results)
    print_json([as_dict(result) for result in listed])
    _note_failed(Counter(result.reason for result in listed if result.reason), len(listed))


def _print_all(results: Iterable[CaptionResult]) -> None:
    """Print a line per caption, as soon as it is generated."""
    from diptych.images.paths import from_text

    failed: Counter[str] = Counter()
    total = 0
    for total, result in enumerate(results, 1):  # noqa: B007 - the last number is the total
        failed.update([result.reason] if result.reason else [])
        for text in result.texts:
            echo(from_text(result.path), text.text)
    _note_failed(failed, total)


def _write_to_files(
    images: list[tuple[str, ImageSource]], unreadable: list[CaptionResult], output: Path | None, captioning: Captioning
) -> None:
    """Write captions to one file or to sidecar files, except for images that an earlier run captioned."""
    from diptych.captioning.sinks import CaptionFile, Sidecars

    sink = CaptionFile(output) if output is not None else Sidecars()
    left = [(path, image) for path, image in images if not sink.done(path)]
    unreported = [result for result in unreadable if output is None or not sink.done(result.path)]
    if not left and not unreported:
        note(f"all {len(images):,} images were done by an earlier run")
        return
    if len(left) < len(images):
        note(f"{len(images) - len(left):,} images were done by an earlier run")
    results = itertools.chain(unreported, captioning(left))
    count, failed = _write(results, len(unreported) + len(left), sink.write)
    note(f"{count:,} images captioned: {output if output is not None else 'in text files next to them'}")
    _note_failed(failed, len(images) + len(unreadable))


def _write_to_index(folder: Path, overwrite: bool, follow_links: bool, captioning: Captioning) -> None:
    from diptych.images.roots import ANYWHERE
    from diptych.search.captions import IndexCaptions
    from diptych.search.index import index_folder
    from diptych.search.store import Store

    sink = IndexCaptions(Store.open(index_folder(folder)), again=overwrite)
    sink.readable = ANYWHERE if follow_links else sink.readable
    paths = sink.paths()
    if not paths:
        note("every image of the index has captions already; --overwrite writes them anew")
        return
    count, failed = _write(captioning(sink.images(paths)), len(paths), sink.write)
    failed.update(image.reason for image in sink.skipped)
    note(f"{count:,} images captioned in {sink.store.folder}; search them with `diptych search --caption WORDS`")
    _note_failed(failed, len(paths))


def _write(
    results: Iterable[CaptionResult], total: int, write: Callable[[list[CaptionResult]], None]
) -> tuple[int, Counter[str]]:
    """Write results in batches as they come; the number of captioned images, and the reasons of the others."""
    failed: Counter[str] = Counter()
    waiting: list[CaptionResult] = []
    count = 0
    for result in progress(results, total, "captioning"):
        count += not result.reason
        failed.update([result.reason] if result.reason else [])
        waiting.append(result)
        if len(waiting) == _WRITTEN_AT_ONCE:
            write(waiting)
            waiting = []
    if waiting:
        write(waiting)
    return count, failed


def _note_failed(reasons: Counter[str], total: int) -> None:
    """Say how many of `total` images have no caption, and why.

    Raises:
        DataError: None has one.
    """
    if not reasons:
        return
    counts = ", ".join(f"{reason} {count:,}" for reason, count in reasons.most_common())
    message = f"{reasons.total():,} of {total:,} images have no caption: {counts}"
    if reasons.total() == total:
        raise DataError(message)
    warn(message)
