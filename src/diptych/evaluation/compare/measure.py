"""Measures one model by a suite: all that it can do, and what it costs."""

from __future__ import annotations

import importlib.metadata
import time
from collections.abc import Callable
from typing import Any, TypeVar

import numpy as np
from torch import nn

from diptych.captioning.captioner import Captioner, load_captioner
from diptych.data.templates import templates
from diptych.errors import ModelError
from diptych.evaluation.compare.cost import bytes_on_disk, encoder_cost, machine, memory_now, memory_peak, parameters_of
from diptych.evaluation.compare.measurements import Measured
from diptych.evaluation.compare.suite import Suite
from diptych.evaluation.compositional.checks import evaluate_checks
from diptych.evaluation.evaluators import embed_classes
from diptych.evaluation.metrics.captions import score_captions
from diptych.evaluation.metrics.matching import matching_metrics
from diptych.evaluation.metrics.paired import auc_of
from diptych.evaluation.metrics.retrieval import retrieval_ranks, scores_from_ranks
from diptych.evaluation.probe import Classifier, class_ranks, cross_validated, fit_adapter, fit_probe
from diptych.matching.matcher import Matcher, load_matcher
from diptych.models.checkpoints import model_directory
from diptych.models.dual_encoder import DualEncoder, load
from diptych.models.embedding_cache import decode_all, picture_vectors
from diptych.runtime.background import prefetch
from diptych.runtime.device import pick_device
from diptych.runtime.progress import Progress, silent

NEAREST = 6
_PICTURES, _TEXTS, _CAPTIONED = 32, 128, 16  # of one batch when speed is measured; captioned at once
_LEARNT = 10_000  # labelled pictures, up to which classifiers are fitted on them

LoadedModels = TypeVar("Loaded")


def measure(
    model: str, suite: Suite, *, name: str = "", device: str = "auto", fresh: bool = False, progress: Progress = silent
) -> Measured:
    """Load `model` in each way that it can be loaded, and ask it all that the suite holds for that.

    `fresh` says that this process has done nothing else, so that its memory tells what the model takes.

    Raises:
        ModelError: it is no dual encoder, and neither a matcher nor a captioner that could be asked something.
    """
    measured = Measured(name or model, model, {"absent": {}, "machine": machine(pick_device(device))})
    measured.told["machine"]["diptych"] = importlib.metadata.version("diptych")
    measured.told["machine"]["date"] = time.strftime("%Y-%m-%d")
    before = memory_now()
    encoder, reason = _loaded(lambda: load(model, device), measured, "encoder")
    if encoder is not None:
        _price(measured, encoder, suite)
        if fresh and before is not None:
            measured.told["cost"]["peak_memory"] = (memory_peak() or 0) - before
        _ask_encoder(measured, encoder, suite, progress)
    if suite.pairs is not None:
        _ask_matcher(measured, model, encoder, suite, device, progress)
        del encoder
        _ask_captioner(measured, model, suite, device, progress, before if fresh else None)
    if reason is not None and not {"captions", "matching"} & measured.told.keys():
        raise reason
    measured.told["cost"]["bytes_on_disk"] = bytes_on_disk(model_directory(model))
    return measured


def _loaded(
    work: Callable[[], LoadedModels], measured: Measured, what: str
) -> tuple[LoadedModels, None] | tuple[None, ModelError]:
    """What `work` loads, its time noted; or why it cannot be."""
    began = time.perf_counter()
    try:
        loaded = work()
    except ModelError as error:
        measured.told["absent"][what] = str(error)
        return None, error
    measured.told.setdefault("cost", {}).setdefault("load_seconds", time.perf_counter() - began)
    return loaded, None


def _price(measured: Measured, encoder: DualEncoder, suite: Suite) -> None:
    pairs = suite.pairs if suite.pairs is not None else suite.labelled
    assert pairs is not None
    images, _ = decode_all((row.image for row in pairs[:_PICTURES]), encoder.image_size)
    texts = pairs.flat_captions()[0][:_TEXTS]
    measured.told["cost"] |= encoder_cost(encoder, images, texts)


def _ask_encoder(measured: Measured, encoder: DualEncoder, suite: Suite, progress: Progress) -> None:
    measured.told["logit_scale"] = encoder.logit_scale
    if suite.pairs is not None:
        captions, owner = suite.pairs.flat_captions()
        images = picture_vectors(encoder, suite.pairs, progress=progress)
        texts = encoder.encode_texts(captions)
        ranks = retrieval_ranks(images, texts, owner)
        measured.told["retrieval"] = scores_from_ranks(ranks).as_dict()
        measured.arrays |= {"found_captions": ranks.image_to_text, "found_pictures": ranks.text_to_image}
        measured.arrays["nearest"] = nearest_pictures(images, texts)
        _ask_checks(measured, encoder, suite, progress)
        if suite.judged is not None:
            rows, columns = suite.few[suite.judged.rows], _columns(suite, owner)[suite.judged.texts]
            measured.arrays["match_scores"] = np.einsum("nd,nd->n", images[rows], texts[columns])
            measured.told["matching"] = _auc_alone(measured.arrays["match_scores"], suite)
    if suite.labelled is not None:
        _ask_classes(measured, encoder, suite, progress)


def _ask_classes(measured: Measured, encoder: DualEncoder, suite: Suite, progress: Progress) -> None:
    assert suite.labelled is not None
    evaluator = suite.evaluator
    images = np.asarray(picture_vectors(encoder, suite.labelled, progress=progress))
    by_name = embed_classes(encoder, evaluator.classes.names, templates(suite.prompts), progress=progress)
    measured.told["classes"] = evaluator(images, by_name).as_dict()
    measured.arrays["class_ranks"] = retrieval_ranks(by_name, images, evaluator.labels).text_to_image
    measured.arrays["class_found"] = (images @ by_name.T).argmax(axis=1)
    labels = evaluator.labels
    if len(labels) > _LEARNT or np.unique(labels, return_counts=True)[1].min() < 2:
        return  # too many for a sweep, or a class of which nothing would be left to judge by
    by_examples: dict[str, Callable[[np.ndarray, np.ndarray], Classifier]] = {
        "adapter": lambda some, of: fit_adapter(some, of, by_name, encoder.logit_scale),
        "probe": lambda some, of: fit_probe(some, of, len(by_name), seed=suite.seed),
    }
    for method, fit in by_examples.items():
        chances = cross_validated(fit, images, labels, seed=suite.seed)
        measured.arrays[f"{method}_ranks"] = class_ranks(chances, labels)


def _ask_checks(measured: Measured, encoder: DualEncoder, suite: Suite, progress: Progress) -> None:
    if suite.checks is None:
        return
    scores = evaluate_checks(encoder, suite.checks, progress=progress)
    measured.told["checks"] = {"mean": scores.mean, "kinds": scores.rows()}
    measured.arrays["checks_right"] = scores.right


def _ask_matcher(
    measured: Measured, model: str, encoder: DualEncoder | None, suite: Suite, device: str, progress: Progress
) -> None:
    """Probabilities in place of cosines, where the model has a matcher."""
    if suite.judged is None:
        return
    matcher, _ = _loaded(lambda: load_matcher(model, None, device), measured, "matcher")
    if matcher is None:
        return
    images = matcher.encode_pictures(suite.some, progress=progress)
    texts = matcher.encode_texts(suite.some.flat_captions()[0])
    began = time.perf_counter()
    found = matcher.probabilities(images, texts, suite.judged.rows, suite.judged.texts)
    rate = len(found) / (time.perf_counter() - began)
    measured.arrays["match_scores"] = found
    sets = {
        name: matching_metrics(found[at], suite.judged.labels[at]).as_dict() for name, at in suite.judged.sets.items()
    }
    measured.told["matching"] = {"head": matcher.name, "calibrated": True, "pairs_per_second": rate, "sets": sets}
    if encoder is None:  # BLIP: a matcher alone
        measured.told["cost"]["parameters"] = _matcher_parameters(matcher)


def _matcher_parameters(matcher: Matcher) -> int:
    return parameters_of(matcher.encoder.model) + parameters_of(matcher.head)


def _auc_alone(scores: np.ndarray, suite: Suite) -> dict[str, Any]:
    """A cosine is no probability: only its order can be measured."""
    assert suite.judged is not None
    owner, labels, weights = suite.judged.owner, suite.judged.labels, np.ones(len(suite.few))
    sets = {name: {"auc": auc_of(scores[at], labels[at], owner[at])(weights)} for name, at in suite.judged.sets.items()}
    return {"head": "cosine of the dual encoder", "calibrated": False, "sets": sets}


def _ask_captioner(
    measured: Measured, model: str, suite: Suite, device: str, progress: Progress, before: int | None
) -> None:
    captioner, _ = _loaded(lambda: load_captioner(model, device), measured, "captioner")
    if captioner is None:
        return
    written, seconds = _written(captioner, suite, progress)
    scores = score_captions(written, {row.image_id: list(row.captions) for row in suite.some})
    measured.told["captions"] = {
        "scores": scores.corpus,
        "tokenizer": scores.tokenizer,
        "missing": scores.missing,
        "captions_per_second": len(written) / seconds,
        "written": written,
    }
    for metric in next(iter(scores.per_picture.values())):
        values = [scores.per_picture[image_id][metric] for image_id in suite.some.image_ids]
        measured.arrays[f"caption_{metric}"] = np.array(values)
    module = getattr(captioner.model, "model", None)
    if "parameters" not in measured.told["cost"] and isinstance(module, nn.Module):
        measured.told["cost"]["parameters"] = parameters_of(module)
    if before is not None and "peak_memory" not in measured.told["cost"]:
        measured.told["cost"]["peak_memory"] = (memory_peak() or 0) - before


def _written(captioner: Captioner, suite: Suite, progress: Progress) -> tuple[dict[str, str], float]:
    """A caption for each of `some`, by the captioner's own habits, and the seconds that writing alone took."""
    written: dict[str, str] = {}
    seconds = 0.0
    starts = range(0, len(suite.some), _CAPTIONED)
    batches = prefetch(starts, lambda start: _decoded(suite, start))
    for ids, images in progress(batches, len(starts), "captioning pictures"):
        began = time.perf_counter()
        found = captioner.caption(images, batch_size=_CAPTIONED)
        seconds += time.perf_counter() - began
        written |= {image_id: best[0].text if best else "" for image_id, best in zip(ids, found, strict=True)}
    return written, seconds


def _decoded(suite: Suite, start: int) -> tuple[list[str], list[Any]]:
    rows = list(suite.some[start : start + _CAPTIONED])
    images, good = decode_all((row.image for row in rows), 384)
    return [row.image_id for row, there in zip(rows, good, strict=True) if there], images


def _columns(suite: Suite, owner: np.ndarray) -> np.ndarray:
    """Where the captions of `some` stand among all captions."""
    return np.flatnonzero(np.isin(owner, suite.few))


def nearest_pictures(images: np.ndarray, texts: np.ndarray, count: int = NEAREST, block: int = 1024) -> np.ndarray:
    """The rows of the pictures that each text finds first, best first: (texts, count) int64, fewer of few pictures."""
    count = min(count, len(images))
    parts = []
    for start in range(0, len(texts), block):
        scores = texts[start : start + block] @ images.T  # (block, pictures)
        top = np.argpartition(-scores, count - 1, axis=1)[:, :count]
        order = np.argsort(-np.take_along_axis(scores, top, axis=1), axis=1, kind="stable")
        parts.append(np.take_along_axis(top, order, axis=1))
    return np.concatenate(parts)
