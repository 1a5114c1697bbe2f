"""diptych: train, measure, search, caption and serve image-text models.

The names below are loaded when they are first used, so that `import diptych` costs nothing.
"""

from __future__ import annotations

import importlib
import os
from typing import TYPE_CHECKING, Any

# Where the package `kernels` is installed, transformers fetches native code from the hub for some architectures, which
# nobody asked for. It reads this when it is imported; set it to YES before to allow that.
os.environ.setdefault("USE_HUB_KERNELS", "NO")

if TYPE_CHECKING:
    from diptych.captions.candidates import choose, rank_candidates
    from diptych.captions.captioner import Captioner, load_captioner
    from diptych.client import Client
    from diptych.decoding.strategies import Caption
    from diptych.doctor import inspect
    from diptych.dual import DualEncoder, build, load
    from diptych.errors import ConfigError, DataError, DiptychError, ImageError, MissingExtra, ModelError
    from diptych.evaluate import RetrievalEvaluator
    from diptych.export import export_model
    from diptych.formats import read_pairs
    from diptych.hub import push
    from diptych.index import Index
    from diptych.index.filters import Filters
    from diptych.index.query import Query
    from diptych.matching.matcher import Matcher
    from diptych.matching.models import load_matcher
    from diptych.metrics.captions import score_captions
    from diptych.pairs import Pairs, Row
    from diptych.pipelines import pipeline
    from diptych.prompting.models import load_prompter
    from diptych.prompting.prompter import Prompter
    from diptych.recipes.caption import CaptionRecipe, train_captioner
    from diptych.recipes.contrastive import ContrastiveRecipe, train
    from diptych.recipes.match import MatchRecipe, train_matcher
    from diptych.recipes.prompt import PromptRecipe, train_prompter
    from diptych.search import Match, find_matches
    from diptych.service import Service

_HOMES = {
    "choose": "captions.candidates",
    "rank_candidates": "captions.candidates",
    "Captioner": "captions.captioner",
    "load_captioner": "captions.captioner",
    "Client": "client",
    "Caption": "decoding.strategies",
    "inspect": "doctor",
    "DualEncoder": "dual",
    "build": "dual",
    "load": "dual",
    "ConfigError": "errors",
    "DataError": "errors",
    "DiptychError": "errors",
    "ImageError": "errors",
    "MissingExtra": "errors",
    "ModelError": "errors",
    "RetrievalEvaluator": "evaluate",
    "export_model": "export",
    "read_pairs": "formats",
    "push": "hub",
    "Index": "index",
    "Filters": "index.filters",
    "Query": "index.query",
    "Matcher": "matching.matcher",
    "load_matcher": "matching.models",
    "score_captions": "metrics.captions",
    "Pairs": "pairs",
    "Row": "pairs",
    "pipeline": "pipelines",
    "load_prompter": "prompting.models",
    "Prompter": "prompting.prompter",
    "CaptionRecipe": "recipes.caption",
    "train_captioner": "recipes.caption",
    "ContrastiveRecipe": "recipes.contrastive",
    "train": "recipes.contrastive",
    "MatchRecipe": "recipes.match",
    "train_matcher": "recipes.match",
    "PromptRecipe": "recipes.prompt",
    "train_prompter": "recipes.prompt",
    "Match": "search",
    "find_matches": "search",
    "Service": "service",
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
