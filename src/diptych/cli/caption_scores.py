"""`diptych eval caption`: how good captions are."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from diptych.cli.show import print_json, print_table, progress, say, say_left_out

if TYPE_CHECKING:
    from diptych.data.doctor.inspect import Report
    from diptych.data.pairs import Pairs
    from diptych.evaluation.captions import CaptionReport


def caption(
    model: str = "mini",
    *,
    data: str | None = None,
    captions: Path | None = None,
    references: Path | None = None,
    split: str = "test",
    method: str = "beam",
    beams: int = 3,
    max_tokens: int = 30,
    clip: str = "mini",
    tokenizer: str = "auto",
    page: Path | None = None,
    table: Path | None = None,
    format: str | None = None,
    device: str = "auto",
    as_json: Annotated[bool, Parameter("--json", negative="")] = False,
) -> None:
    """Measure captions as coco-caption does: BLEU, METEOR, ROUGE-L, CIDEr-D, SPICE; and CLIPScore.

    METEOR needs Java and the extra `captions`, SPICE its parser's model as well; what is not there is named. Java also
    gives the PTB tokenizer; without it a tokenizer of diptych's own takes its place, and the report says so.

    Parameters
    ----------
    model
        A captioner: the run or directory of `diptych train caption`, a model of transformers by name, or mini.
    data
        Data set to measure on; its captions are the references.
    captions
        Instead of a model: a file of captions, one for each picture (a JSON object from id to caption, COCO's list of
        results, CSV, TSV, JSON lines).
    references
        With --captions and instead of --data: a file of references, several for each picture.
    split
        Split to measure on: test, val (also called dev), train, or all.
    method
        beam, greedy or nucleus.
    beams
        How many ways to go on are followed by beam search.
    max_tokens
        Words or tokens of a caption at most.
    clip
        Dual encoder for CLIPScore and RefCLIPScore; none to leave them out. Published ones are of
        open_clip/ViT-B-32.
    tokenizer
        ptb, fallback, or auto: ptb where Java is.
    page
        HTML page to write: the scores, and the pictures with the worst and the best captions.
    table
        CSV file to write: the scores of each picture.
    format
        The data set's format; recognised by itself when not given.
    device
        auto, cpu, cuda or mps.
    as_json
        Print the scores as JSON.
    """
    from diptych.errors import ConfigError
    from diptych.evaluation.captions_page import save_page, save_table

    settings = {"method": method, "beams": beams, "max_tokens": max_tokens}
    if captions and references and data is None:
        title = str(captions)
        report, left_out = _of_files(captions, references, tokenizer), None
    elif data is not None and references is None:
        title = f"{captions or model}, {split} split"
        measured = _Measured(data, format, split, clip, device, tokenizer)
        report, left_out = measured.given(captions) if captions else measured.written(model, settings)
    else:
        raise ConfigError("give --data, a data set with captions; or --captions and --references, two files")
    if page:
        save_page(report, f"Captions: {title}", page)
    if table:
        save_table(report, table)
    if as_json:
        print_json(report.to_dict() | {"left_out": left_out.bad_pictures if left_out else 0})
        return
    if left_out:
        say_left_out(left_out)
    _print(report, title)
    for file in (page, table):
        if file:
            say(str(file))


def _of_files(captions: Path, references: Path, tokenizer: str) -> CaptionReport:
    from diptych.captioning.caption_files import one_each, read_caption_file
    from diptych.data.pairs import Pairs, Row
    from diptych.evaluation.captions import CaptionEvaluator

    known = read_caption_file(references)
    pairs = Pairs.from_rows(Row(name, Path(name), tuple(texts)) for name, texts in known.items())
    said = one_each(read_caption_file(captions), known, captions)
    return CaptionEvaluator(pairs, tokenizer=tokenizer)(said)


class _Measured:
    """The pictures that are measured on, and with what."""

    def __init__(self, data: str, format: str | None, split: str, clip: str, device: str, tokenizer: str) -> None:
        from diptych.data.formats.read import read_pairs
        from diptych.evaluation.captions import Scorer
        from diptych.models.dual_encoder import load

        everything = read_pairs(data, format).with_val()
        self.pairs, self.device = everything.split(split), device
        scorer = None if clip == "none" else Scorer(clip, load(clip, device))
        training = _training(everything, split)
        self.options: dict[str, Any] = {"training": training, "scorer": scorer, "tokenizer": tokenizer}

    def given(self, captions: Path) -> tuple[CaptionReport, Report]:
        from diptych.captioning.caption_files import one_each, read_caption_file
        from diptych.evaluation.captions import evaluate_captions

        said = one_each(read_caption_file(captions), self.pairs.image_ids, captions)
        return evaluate_captions(said, self.pairs, progress=progress, **self.options)

    def written(self, model: str, settings: dict[str, Any]) -> tuple[CaptionReport, Report]:
        from diptych.captioning.captioner import load_captioner
        from diptych.evaluation.captions import evaluate_captioner

        captioner = load_captioner(model, self.device)
        return evaluate_captioner(captioner, self.pairs, progress=progress, **self.options, **settings)


def _training(everything: Pairs, split: str) -> list[str] | None:
    """The training captions, for the share of novel ones; None where there are none apart from what is measured."""
    if split in ("train", "training", "all") or "train" not in everything.split_sizes:
        return None
    return everything.split("train").flat_captions()[0]


def _print(report: CaptionReport, title: str) -> None:
    from diptych.evaluation.captions_page import variety_rows
    from diptych.evaluation.metrics.captions import NAMES
    from diptych.evaluation.metrics.ptb import TOKENIZERS

    say(f"{title}: {len(report.captions):,} pictures")
    rows = [(report.name(key), f"{value:.4f}") for key, value in report.corpus.items()] + variety_rows(report)
    print_table("", [{"measure": name, "value": value} for name, value in rows])
    say(f"tokenizer: {TOKENIZERS[report.tokenizer]}")
    for key, why in report.missing.items():
        say(f"{NAMES[key]} is not here: {why}")
