"""Per-architecture differences: padding, truncation, input and output sizes."""

from __future__ import annotations

from typing import Any

from sentence_transformers.base.modules import Module, Transformer
from tokenizers import normalizers

SIGLIP = ("siglip", "siglip2")


def configure_tokenizer(module: Module) -> None:
    """Set up a module's tokenizer as its architecture was trained, in place; other modules are not changed.

    Texts are truncated at the number of position embeddings. SigLIP's texts are padded to that length on the right,
    without an attention mask, because its tower pools the last position (Zhai et al. 2023; big_vision). SigLIP 2 was
    trained on lower-cased texts; transformers lower-cases them for the NaFlex models only (its pull request 43101). The
    settings are saved with the module, so plain sentence-transformers then gives the same embeddings.
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
    """Output width of a module; of SigLIP the width of its projection, which can differ from its hidden size."""
    if isinstance(module, Transformer) and module.config.model_type in SIGLIP:
        return int(_text_config(module).projection_size)
    return module.get_embedding_dimension()


def input_size(trunk: Module) -> int | None:
    """Side in pixels of an image trunk's input, or None if its preprocessing does not fix one."""
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
