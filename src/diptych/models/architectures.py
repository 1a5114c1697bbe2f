"""What modules of each family do not say alike: how texts are padded and cut, and the sizes of input and output."""

from __future__ import annotations

from typing import Any

from sentence_transformers.base.modules import Module, Transformer
from tokenizers import normalizers

SIGLIP = ("siglip", "siglip2")


def settle(module: Module) -> None:
    """Make a module that was just loaded treat texts as its family was trained to; other modules stay as they are.

    Texts are cut where the text tower's positions end. SigLIP's texts are padded to that full length, on the right and
    without an attention mask: its tower reads the last position, padding or not, and saw nothing else in training
    (Zhai et al. 2023; big_vision). SigLIP 2 read lower case alone, which transformers sees to for the NaFlex models
    but not for those of a fixed resolution (its pull request 43101). The settings are saved with the module, so that
    plain sentence-transformers then gives the same vectors.
    """
    if not isinstance(module, Transformer) or module.tokenizer is None:
        return
    limit = getattr(_text_config(module), "max_position_embeddings", None)
    if limit and "text" in module.modalities and module.tokenizer.model_max_length > limit:
        module.tokenizer.model_max_length = limit
    if module.config.model_type in SIGLIP:
        length = {"padding": "max_length", "max_length": limit, "truncation": True}
        padded = {**length, "padding_side": "right", "return_attention_mask": False}
        module.processing_kwargs = {**module.processing_kwargs, "text": padded}
        backend: Any = getattr(module.tokenizer, "backend_tokenizer", None)
        if type(module.tokenizer).__name__ == "GemmaTokenizer" and "Lowercase" not in repr(backend.normalizer):
            backend.normalizer = normalizers.Sequence([normalizers.Lowercase(), backend.normalizer])


def embedding_width(module: Module) -> int | None:
    """The width of what a module returns; of SigLIP that of its projection, which need not be its hidden size."""
    if isinstance(module, Transformer) and module.config.model_type in SIGLIP:
        return int(_text_config(module).projection_size)
    return module.get_embedding_dimension()


def input_size(trunk: Module) -> int | None:
    """The side in pixels of the pictures that an image trunk's preprocessing makes, or None when it does not say."""
    if isinstance(size := getattr(trunk, "image_size", None), int):
        return size
    processor = getattr(trunk, "processor", None)
    processor = getattr(processor, "image_processor", processor)
    if (config := getattr(processor, "data_config", None)) is not None:
        return int(config["input_size"][-1])
    for attribute in ("crop_size", "size"):
        size = getattr(processor, attribute, None) or {}
        for key in ("height", "shortest_edge"):
            if key in size:
                return int(size[key])
    return None


def _text_config(module: Transformer) -> Any:
    return getattr(module.config, "text_config", module.config)
