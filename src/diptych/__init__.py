"""diptych: train, measure, search, caption and serve image-text models.

Public names are imported on first use, so `import diptych` loads only the standard library.
"""

from __future__ import annotations

import importlib
import os
from typing import TYPE_CHECKING, Any

# If the package `kernels` is installed, transformers downloads native code from the hub for some architectures. It
# reads this variable on import; set it to YES before to allow that.
os.environ.setdefault("USE_HUB_KERNELS", "NO")

if TYPE_CHECKING:
    from diptych.captioning.candidates import choose, rank_candidates
    from diptych.captioning.captioner import Captioner, load_captioner
    from diptych.captioning.strategies import Caption
    from diptych.data.doctor.inspect import inspect
    from diptych.data.formats.read import read_pairs
    from diptych.data.pairs import Pairs, Row
    from diptych.errors import ConfigError, DataError, DiptychError, ImageError, MissingExtra, ModelError
    from diptych.evaluation.evaluators import RetrievalEvaluator
    from diptych.evaluation.metrics.captions import score_captions
    from diptych.export.exporter import export_model
    from diptych.export.hub import push
    from diptych.matching.matcher import Matcher, load_matcher
    from diptych.models.builder import build
    from diptych.models.dual_encoder import DualEncoder, load
    from diptych.prompting.prompter import Prompter, load_prompter
    from diptych.runtime.progress import progress_bar
    from diptych.search.filters import Filters
    from diptych.search.find_matches import Match, find_matches
    from diptych.search.index import Index
    from diptych.search.query import Query
    from diptych.serving.client import Client
    from diptych.serving.pipelines.factory import pipeline
    from diptych.serving.service import Service
    from diptych.training.caption.config import CaptionRecipe
    from diptych.training.caption.train import train_captioner
    from diptych.training.contrastive.config import ContrastiveRecipe
    from diptych.training.contrastive.train import train
    from diptych.training.match.config import MatchRecipe
    from diptych.training.match.train import train_matcher
    from diptych.training.prompt.config import PromptRecipe
    from diptych.training.prompt.train import train_prompter

_HOMES = {
    "choose": "captioning.candidates",
    "rank_candidates": "captioning.candidates",
    "Captioner": "captioning.captioner",
    "load_captioner": "captioning.captioner",
    "Client": "serving.client",
    "Caption": "captioning.strategies",
    "inspect": "data.doctor.inspect",
    "DualEncoder": "models.dual_encoder",
    "build": "models.builder",
    "load": "models.dual_encoder",
    "ConfigError": "errors",
    "DataError": "errors",
    "DiptychError": "errors",
    "ImageError": "errors",
    "MissingExtra": "errors",
    "ModelError": "errors",
    "RetrievalEvaluator": "evaluation.evaluators",
    "export_model": "export.exporter",
    "read_pairs": "data.formats.read",
    "push": "export.hub",
    "Index": "search.index",
    "Filters": "search.filters",
    "Query": "search.query",
    "Matcher": "matching.matcher",
    "load_matcher": "matching.matcher",
    "score_captions": "evaluation.metrics.captions",
    "Pairs": "data.pairs",
    "Row": "data.pairs",
    "pipeline": "serving.pipelines.factory",
    "load_prompter": "prompting.prompter",
    "Prompter": "prompting.prompter",
    "CaptionRecipe": "training.caption.config",
    "train_captioner": "training.caption.train",
    "ContrastiveRecipe": "training.contrastive.config",
    "train": "training.contrastive.train",
    "MatchRecipe": "training.match.config",
    "train_matcher": "training.match.train",
    "PromptRecipe": "training.prompt.config",
    "train_prompter": "training.prompt.train",
    "progress_bar": "runtime.progress",
    "Match": "search.find_matches",
    "find_matches": "search.find_matches",
    "Service": "serving.service",
}

__all__ = [  # noqa: RUF022 - in the order of the imports above
    "choose",
    "rank_candidates",
    "Captioner",
    "load_captioner",
    "Client",
    "Caption",
    "inspect",
    "DualEncoder",
    "build",
    "load",
    "ConfigError",
    "DataError",
    "DiptychError",
    "ImageError",
    "MissingExtra",
    "ModelError",
    "RetrievalEvaluator",
    "export_model",
    "read_pairs",
    "push",
    "Index",
    "Filters",
    "Query",
    "Matcher",
    "load_matcher",
    "score_captions",
    "Pairs",
    "Row",
    "pipeline",
    "load_prompter",
    "Prompter",
    "CaptionRecipe",
    "train_captioner",
    "ContrastiveRecipe",
    "train",
    "MatchRecipe",
    "train_matcher",
    "PromptRecipe",
    "train_prompter",
    "progress_bar",
    "Match",
    "find_matches",
    "Service",
    "__version__",
]


def __getattr__(name: str) -> Any:
    if name == "__version__":
        return importlib.import_module("importlib.metadata").version("diptych")
    if name not in _HOMES:
        raise AttributeError(f"module 'diptych' has no attribute '{name}'")
    return getattr(importlib.import_module(f"diptych.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
