"""`diptych eval caption`: the COCO caption metrics and CLIPScore."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import Parameter

from diptych.cli.options import (
    COMMON,
    OUTPUT_NAMES,
    Common,
    Count,
    Format,
    OptionalInputPath,
    Split,
    TableFile,
    check_inputs,
    output_file,
)
from diptych.cli.show import echo, note_files, note_left_out, print_json, print_table, progress, set_quiet

if TYPE_CHECKING:
    from diptych.data.doctor.inspect import Report
    from diptych.data.pairs import Pairs
    from diptych.evaluation.captions import CaptionReport, Scorer

References = Annotated[
    Path | None,
    Parameter(
        validator=check_inputs,
        help="With --captions: a file with the reference captions of each image, instead of --data.",
    ),
]


def caption(
    model: str = "mini",
    *,
    data: str | None = None,
    captions: OptionalInputPath = None,
    references: References = None,
    split: Split = "test",
    method: Literal["beam", "greedy", "nucleus"] = "beam",
    beams: Count = 3,
    max_tokens: Count = 30,
    clip: str = "mini",
    tokenizer: Literal["auto", "ptb", "fallback"] = "auto",
    output: Annotated[Path | None, Parameter(OUTPUT_NAMES, validator=output_file(".html", ".htm"))] = None,
    table: TableFile = None,
    format: Format = None,
    common: Common = COMMON,
) -> None:
    """Evaluate captions with the COCO caption metrics and CLIPScore.

    The metrics are BLEU, METEOR, ROUGE-L, CIDEr-D and SPICE, computed as in coco-caption. METEOR and SPICE need Java
    and the extra `captions`; SPICE also needs its parser's model. Unavailable metrics are listed. Without Java, a
    built-in tokenizer replaces the PTB tokenizer, and the report says so.

    Parameters
    ----------
    model
        A captioner: a run or directory of `diptych train caption`, the name of a transformers model, or mini.
    data
        Data set to evaluate on. Its captions are the references.
    captions
        Instead of a model: a file with one caption per image (a JSON object from id to caption, a COCO result list,
        CSV, TSV or JSON lines).

    method
        Decoding strategy: beam search, greedy or nucleus sampling.
    beams
        Beam width of beam search.
    max_tokens
        Maximum caption length, in the model's own units (words or tokens).
    clip
        Dual encoder for CLIPScore and RefCLIPScore, or none to skip them. Published scores use open_clip/ViT-B-32.
    tokenizer
        Tokenizer: ptb (needs Java), fallback (built in), or auto (ptb if Java is installed).
    output
        HTML page to write: the scores, and the images with the worst and the best captions.
    table
        CSV file to write: the scores of each image.
    """
    from diptych.errors import ConfigError

    set_quiet(common.quiet, common.as_json)
    left_out: Report | None = None
    if captions and references and data is None:
        title = str(captions)
        report = _evaluate_files(captions, references, tokenizer)
    elif data is not None and references is None:
        title = f"{captions or model}, {split} split"
        setup = _read_setup(data, format, split, clip, common.device, tokenizer)
        if captions:
            report, left_out = _evaluate_captions(captions, setup)
        else:
            report, left_out = _evaluate_model(model, setup, method, beams, max_tokens, common.device)
    else:
        raise ConfigError("give --data, a data set with captions, or two files: --captions and --references")
    from diptych.evaluation.captions_page import save_page, save_table

    if output:
        save_page(report, f"Captions: {title}", output)
    if table:
        save_table(report, table)
    if common.as_json:
        print_json(report.to_dict() | {"left_out": left_out.bad_images if left_out else 0})
        return
    if left_out:
        note_left_out(left_out)
    _print(report, title)
    for file in filter(None, (output, table)):
        note_files([file])


@dataclass(frozen=True)
class _Setup:
    """What captions are evaluated on and with."""

    pairs: Pairs
    training: Sequence[str] | None  # training captions, for the share of novel captions
    scorer: Scorer | None
    tokenizer: str


def _read_setup(data: str, format: str | None, split: str, clip: str, device: str, tokenizer: str) -> _Setup:
    from diptych.data.formats.read import read_pairs

    pairs = read_pairs(data, format).with_val()
    evaluated = pairs.split(split)
    from diptych.evaluation.captions import Scorer
    from diptych.models.dual_encoder import load

    has_training = split not in ("train", "training", "all") and "train" in pairs.split_sizes
    return _Setup(
        evaluated,
        pairs.split("train").flat_captions()[0] if has_training else None,
        None if clip == "none" else Scorer(clip, load(clip, device)),
        tokenizer,
    )


def _evaluate_files(captions: Path, references: Path, tokenizer: str) -> CaptionReport:
    from diptych.captioning.caption_files import one_each, read_caption_file, read_references
    from diptych.evaluation.captions import CaptionEvaluator

    pairs = read_references(references)
    candidates = one_each(read_caption_file(captions), pairs.image_ids, captions, aliases=pairs.source_ids)
    return CaptionEvaluator(pairs, tokenizer=tokenizer)(candidates)


def _evaluate_captions(captions: Path, setup: _Setup) -> tuple[CaptionReport, Report]:
    from diptych.captioning.caption_files import one_each, read_caption_file
    from diptych.evaluation.captions import evaluate_captions

    pairs = setup.pairs
    candidates = one_each(read_caption_file(captions), pairs.image_ids, captions, aliases=pairs.source_ids)
    return evaluate_captions(
        candidates,
        setup.pairs,
        training=setup.training,
        scorer=setup.scorer,
        tokenizer=setup.tokenizer,
        progress=progress,
    )


def _evaluate_model(
    model: str, setup: _Setup, method: str, beams: int, max_tokens: int, device: str
) -> tuple[CaptionReport, Report]:
    from diptych.captioning.captioner import load_captioner
    from diptych.captioning.strategies import GenerationConfig
    from diptych.evaluation.captions import evaluate_captioner

    return evaluate_captioner(
        load_captioner(model, device),
        setup.pairs,
        training=setup.training,
        scorer=setup.scorer,
        tokenizer=setup.tokenizer,
        generation=GenerationConfig(method, beams, max_tokens=max_tokens),
        progress=progress,
    )


def _print(report: CaptionReport, title: str) -> None:
    from diptych.evaluation.captions_page import variety_rows
    from diptych.evaluation.metrics.captions import NAMES
    from diptych.evaluation.metrics.ptb import TOKENIZERS

    echo(f"{title}: {len(report.captions):,} images")
    rows = [(report.name(key), f"{value:.4f}") for key, value in report.corpus.items()] + variety_rows(report)
    print_table("", [{"measure": name, "value": value} for name, value in rows])
    echo(f"tokenizer: {TOKENIZERS[report.tokenizer]}")
    for key, reason in report.missing.items():
        echo(f"{NAMES[key]} is not available: {reason}")
