"""Model fingerprints: a hash that is stored with embeddings and identifies the model that made them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from typing import Any

import torch
from sentence_transformers.base.modules import Module
from tokenizers import Tokenizer


def modules_fingerprint(modules: Sequence[Module]) -> str:
    """A hash (16 hexadecimal digits) of the weights and configurations of modules, preprocessing included."""
    digest = hashlib.sha256()
    for module in modules:
        digest.update(type(module).__name__.encode())
        digest.update(json.dumps(module.get_config_dict(), sort_keys=True, default=str).encode())
        for processor in (getattr(module, "processor", None), getattr(module, "tokenizer", None)):
            digest.update(_describe(processor).encode())
        for name, tensor in module.state_dict().items():
            digest.update(name.encode())
            digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()[:16]


def _describe(processor: Any) -> str:
    if hasattr(processor, "data_config"):  # timm's
        return json.dumps(processor.data_config, sort_keys=True, default=str)
    if hasattr(processor, "backend_tokenizer"):
        # Padding and truncation are state of the tokenizer that every batch sets, not part of the model.
        tokenizer = Tokenizer.from_str(processor.backend_tokenizer.to_str())
        tokenizer.no_padding()
        tokenizer.no_truncation()
        return f"{processor.model_max_length} {tokenizer.to_str()}"
    return processor.to_json_string() if hasattr(processor, "to_json_string") else ""
