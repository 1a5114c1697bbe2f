"""Measuring one model on a suite: retrieval, classification, matching, checks, captions, and cost."""

from __future__ import annotations

import importlib.metadata
import time
from collections.abc import Callable
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from torch import nn

from diptych.captioning.captioner import Captioner, load_captioner
from diptych.data.templates import templates
from diptych.errors import ModelError
from diptych.evaluation.classifiers import (
    EmbeddingClassifier,
    LinearProbe,
    TipAdapter,
    class_ranks,
    cross_validated_probabilities,
)
from diptych.evaluation.compare.cost import bytes_on_disk, encoder_cost, machine, memory_now, memory_peak, parameters_of
from diptych.evaluation.compare.measurements import Measured, Summary
from diptych.evaluation.compare.suite import Suite
from diptych.evaluation.compositional.checks import evaluate_checks
from diptych.evaluation.evaluators import embed_classes
from diptych.evaluation.metrics.bootstrap import auc_statistic
from diptych.evaluation.metrics.captions import score_captions
from diptych.evaluation.metrics.matching import matching_metrics
from diptych.evaluation.metrics.retrieval import retrieval_ranks, scores_from_ranks
from diptych.matching.matcher import Matcher, load_matcher
from diptych.models.checkpoints import model_directory
from diptych.models.cosine import top_k
from diptych.models.dual_encoder import DualEncoder, load
from diptych.models.embedding_cache import dataset_image_embeddings, decode_all
from diptych.runtime.background import prefetch
from diptych.runtime.device import pick_device
from diptych.runtime.progress import Progress, silent

NEAREST = 6
_IMAGES, _TEXTS, _CAPTIONED = 32, 128, 16  # batch sizes: throughput of images and of texts, and captioning
_FITTED = 10_000  # largest number of labelled images that classifiers are fitted on

Loaded = TypeVar("Loaded")


def measure(
    model: str, suite: Suite, *, name: str = "", device: str = "auto", fresh: bool = False, progress: Progress = silent
) -> Measured:
    """Load a model as dual encoder, matcher and captioner, as far as it is one, and measure each on the suite.

    Args:
        model: path or hub name of the model.
        suite: the data.
        name: name in the report; `model` by default.
        device: auto, cpu, cuda or mps.
        fresh: whether this process has done nothing else, so that its memory is the model's.
        progress: reports progress.

    Raises:
        ModelError: it is neither a dual encoder, nor a matcher or captioner that the suite has data for.
    """
    measured = Measured(name or model, model, {"absent": {}, "machine": machine(pick_device(device))})
    measured.summary["machine"]["diptych"] = importlib.metadata.version("diptych")
    measured.summary["machine"]["date"] = time.strftime("%Y-%m-%d")
    before = memory_now()
    encoder, reason = _loaded(lambda: load(model, device), measured, "encoder")
    if encoder is not None:
        _measure_cost(measured, encoder, suite)
        if fresh and before is not None:
            measured.summary["cost"]["peak_memory"] = (memory_peak() or 0) - before
        _measure_encoder(measured, encoder, suite, progress)
    if suite.pairs is not None:
        _measure_matcher(measured, model, encoder, suite, device, progress)
        del encoder
        _measure_captioner(measured, model, suite, device, progress, before if fresh else None)
    if reason is not None and not {"captions", "matching"} & measured.summary.keys():
        raise reason
    measured.summary["cost"]["bytes_on_disk"] = bytes_on_disk(model_directory(model))
    return measured


def _loaded(work: Callable[[], Loaded], measured: Measured, what: str) -> tuple[Loaded, None] | tuple[None, ModelError]:
    """The model that `work` loads, with its load time recorded; or the error, recorded under `what`."""
    began = time.perf_counter()
    try:
        loaded = work()
    except ModelError as error:
        measured.summary["absent"][what] = str(error)
        return None, error
    measured.summary.setdefault("cost", {}).setdefault("load_seconds", time.perf_counter() - began)
    return loaded, None


def _measure_cost(measured: Measured, encoder: DualEncoder, suite: Suite) -> None:
    pairs = suite.pairs if suite.pairs is not None else suite.labelled
    assert pairs is not None
    images, _ = decode_all((row.image for row in pairs[:_IMAGES]), encoder.image_size)
    texts = pairs.flat_captions()[0][:_TEXTS]
    measured.summary["cost"] |= encoder_cost(encoder, images, texts)


def _measure_encoder(measured: Measured, encoder: DualEncoder, suite: Suite, progress: Progress) -> None:
    measured.summary["logit_scale"] = encoder.logit_scale
    if suite.pairs is not None:
        captions, owner = suite.pairs.flat_captions()
        images = dataset_image_embeddings(encoder, suite.pairs, progress=progress)
        texts = encoder.encode_texts(captions)
        ranks = retrieval_ranks(images, texts, owner)
        measured.summary["retrieval"] = scores_from_ranks(ranks).to_dict()
        measured.arrays |= {"found_captions": ranks.image_to_text, "found_images": ranks.text_to_image}
        measured.arrays["nearest"] = top_k(texts, np.asarray(images), NEAREST)[0]
        _measure_checks(measured, encoder, suite, progress)
        if suite.labelled_pairs is not None:
            rows = suite.subset_rows[suite.labelled_pairs.rows]
            columns = _caption_rows(suite, owner)[suite.labelled_pairs.texts]
            measured.arrays["match_scores"] = np.einsum("nd,nd->n", images[rows], texts[columns])
            measured.summary["matching"] = _auc_alone(measured.arrays["match_scores"], suite)
    if suite.labelled is not None:
        _measure_classes(measured, encoder, suite, progress)


def _measure_classes(measured: Measured, encoder: DualEncoder, suite: Suite, progress: Progress) -> None:
    assert suite.labelled is not None
    evaluator = suite.evaluator
    images = np.asarray(dataset_image_embeddings(encoder, suite.labelled, progress=progress))
    by_name = embed_classes(encoder, evaluator.classes.names, templates(suite.prompts), progress=progress)
    measured.summary["classes"] = evaluator(images, by_name).to_dict()
    measured.arrays["class_ranks"] = retrieval_ranks(by_name, images, evaluator.labels).text_to_image
    measured.arrays["class_found"] = (images @ by_name.T).argmax(axis=1)
    labels = evaluator.labels
    if len(labels) > _FITTED or np.unique(labels, return_counts=True)[1].min() < 2:
        return  # too many to fit, or a class too small to cross-validate
    classifiers: dict[str, EmbeddingClassifier] = {
        "adapter": TipAdapter(by_name, logit_scale=encoder.logit_scale),
        "probe": LinearProbe(range(len(by_name)), random_state=suite.seed),
    }
    for method, classifier in classifiers.items():
        probabilities = cross_validated_probabilities(classifier, images, labels, seed=suite.seed)
        measured.arrays[f"{method}_ranks"] = class_ranks(probabilities, labels)


def _measure_checks(measured: Measured, encoder: DualEncoder, suite: Suite, progress: Progress) -> None:
    if suite.checks is None:
        return
    scores = evaluate_checks(encoder, suite.checks, progress=progress)
    measured.summary["checks"] = scores.to_dict()
    measured.arrays["checks_right"] = scores.right


def _measure_matcher(
    measured: Measured, model: str, encoder: DualEncoder | None, suite: Suite, device: str, progress: Progress
) -> None:
    """Replace cosines by match probabilities if the model has a matcher."""
    pairs = suite.labelled_pairs
    if pairs is None:
        return
    matcher, _ = _loaded(lambda: load_matcher(model, None, device), measured, "matcher")
    if matcher is None:
        return
    images = matcher.encode_dataset(suite.subset, progress=progress)
    texts = matcher.encode_texts(suite.subset.flat_captions()[0])
    began = time.perf_counter()
    probabilities = matcher.probabilities(images, texts, pairs.rows, pairs.texts)
    rate = len(probabilities) / (time.perf_counter() - began)
    measured.arrays["match_scores"] = probabilities
    sets = {
        name: matching_metrics(probabilities[rows], pairs.labels[rows]).to_dict() for name, rows in pairs.sets.items()
    }
    measured.summary["matching"] = {"head": matcher.name, "calibrated": True, "pairs_per_second": rate, "sets": sets}
    if encoder is None:  # BLIP: a matcher alone
        measured.summary["cost"]["parameters"] = _matcher_parameters(matcher)


def _matcher_parameters(matcher: Matcher) -> int:
    return parameters_of(matcher.encoder.model) + parameters_of(matcher.head)


def _auc_alone(scores: NDArray[np.floating], suite: Suite) -> Summary:
    """Metrics of cosines, which are not probabilities: AUC alone."""
    assert suite.labelled_pairs is not None
    owner, labels, weights = suite.labelled_pairs.owner, suite.labelled_pairs.labels, np.ones(len(suite.subset_rows))
    sets = {
        name: {"auc": auc_statistic(scores[rows], labels[rows], owner[rows])(weights)}
        for name, rows in suite.labelled_pairs.sets.items()
    }
    return {"head": "cosine of the dual encoder", "calibrated": False, "sets": sets}


def _measure_captioner(
    measured: Measured, model: str, suite: Suite, device: str, progress: Progress, before: int | None
) -> None:
    captioner, _ = _loaded(lambda: load_captioner(model, device), measured, "captioner")
    if captioner is None:
        return
    captions, seconds = _generate(captioner, suite, progress)
    scores = score_captions(captions, {row.image_id: list(row.captions) for row in suite.subset})
    measured.summary["captions"] = {
        "scores": scores.corpus,
        "tokenizer": scores.tokenizer,
        "missing": scores.missing,
        "captions_per_second": len(captions) / seconds,
        "written": captions,
    }
    for metric in next(iter(scores.per_image.values())):
        values = [scores.per_image[image_id][metric] for image_id in suite.subset.image_ids]
        measured.arrays[f"caption_{metric}"] = np.array(values)
    module = getattr(captioner.model, "model", None)
    if "parameters" not in measured.summary["cost"] and isinstance(module, nn.Module):
        measured.summary["cost"]["parameters"] = parameters_of(module)
    if before is not None and "peak_memory" not in measured.summary["cost"]:
        measured.summary["cost"]["peak_memory"] = (memory_peak() or 0) - before


def _generate(captioner: Captioner, suite: Suite, progress: Progress) -> tuple[dict[str, str], float]:
    """A caption for each image of the subset, with default settings, and the seconds of generation alone."""
    captions: dict[str, str] = {}
    seconds = 0.0
    starts = range(0, len(suite.subset), _CAPTIONED)
    batches = prefetch(starts, lambda start: _decoded(suite, start))
    for ids, images in progress(batches, len(starts), "captioning images"):
        began = time.perf_counter()
        results = captioner.caption(images, batch_size=_CAPTIONED)
        seconds += time.perf_counter() - began
        captions |= {image_id: best[0].text if best else "" for image_id, best in zip(ids, results, strict=True)}
    return captions, seconds


def _decoded(suite: Suite, start: int) -> tuple[list[str], list[Image.Image]]:
    rows = list(suite.subset[start : start + _CAPTIONED])
    images, good = decode_all((row.image for row in rows), 384)
    return [row.image_id for row, decoded in zip(rows, good, strict=True) if decoded], images


def _caption_rows(suite: Suite, owner: NDArray[np.int64]) -> NDArray[np.int64]:
    """Rows of the subset's captions among all captions."""
    return np.flatnonzero(np.isin(owner, suite.subset_rows))
