"""Image and text towers: lists of sentence-transformers modules that are applied in order.

A tower's name is resolved in this order: `pypi/NAME` (weights from a PyPI package), a local directory, then the hub
(`timm/NAME` through timm, any other through transformers). With `pretrained=False` nothing is downloaded, and the
architecture is built from its configuration with random weights.
"""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Iterable
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sentence_transformers.base.modules import Module, Transformer
from sentence_transformers.sentence_transformer.modules import Pooling
from torch import nn

from diptych.errors import ConfigError, ModelError, did_you_mean, require
from diptych.models.bundled import PYPI_IMAGE_TOWERS, PYPI_TEXT_TOWERS, packaged_model
from diptych.models.checkpoints import fetched_directory, refuse_unsafe
from diptych.models.heads import EMBEDDING
from diptych.models.hub_access import quick_offline
from diptych.models.loading import LOCAL, WEIGHTS, Arguments
from diptych.runtime.quiet import quiet

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedTokenizerFast, ViTImageProcessor


def image_tower(
    name: str,
    pretrained: bool = True,
    *,
    image_size: int | None = None,
    crop: str | None = None,
    pooling: str | None = None,
    arguments: Arguments | None = None,
) -> list[Module]:
    """Modules from images to pooled features, (batch, width).

    Args:
        name: Name of the tower.
        pretrained: Load its weights.
        image_size: Input side in pixels; by default as for the weights.
        crop: `center` (crop the middle square) or `squash` (resize to a square without keeping the aspect ratio); by
            default as for the weights.
        pooling: `mean`, `cls` or `max`, for transformers towers; timm towers pool themselves.
        arguments: Arguments of the architecture.

    Raises:
        ModelError: The name is unknown, or the weights cannot be loaded.
        ConfigError: The crop is unknown.
    """
    if name.startswith("pypi/"):
        return _timm_tower(packaged_model(PYPI_IMAGE_TOWERS, name), image_size, crop)
    if Path(name).is_dir():
        refuse_unsafe(Path(name))
        return _image_transformer(name, pooling)
    if name.startswith("timm/"):
        return _timm_tower(_timm_network(name, pretrained, arguments or {}), image_size, crop, arguments)
    with tempfile.TemporaryDirectory() as folder:
        try:
            _write_image_transformer(folder, name, pretrained, image_size, arguments)
        except (OSError, ValueError, KeyError) as error:
            raise ModelError(_no_tower(name, pretrained, error)) from error
        return _image_transformer(folder, pooling)


def _timm_network(name: str, pretrained: bool, arguments: Arguments) -> nn.Module:
    """A network of timm, `timm/NAME`, without its classifier."""
    timm = require("timm", "train")
    own_name = name.removeprefix("timm/")
    try:
        if not timm.is_model(own_name):  # a source such as `hf-hub:`
            raise ValueError("timm has no such model of its own; give the hub name of another model without 'timm/'")
        with quick_offline(name) if pretrained else nullcontext():
            network: nn.Module = timm.create_model(own_name, pretrained=pretrained, num_classes=0, **arguments)
    except (RuntimeError, OSError, ValueError, ModelError) as error:
        raise ModelError(_no_tower(name, pretrained, error)) from error
    return network


def _write_image_transformer(
    folder: str, name: str, pretrained: bool, image_size: int | None, arguments: Arguments | None
) -> None:
    """Write an image model of transformers with its preprocessing: downloaded, or with random weights."""
    from transformers import AutoImageProcessor, AutoModel

    if pretrained:
        path = _fetched(name)
        AutoModel.from_pretrained(path, **WEIGHTS).save_pretrained(folder)
        AutoImageProcessor.from_pretrained(path, **LOCAL).save_pretrained(folder)
        return
    config = config_alone(name, arguments)
    with quiet():
        AutoModel.from_config(config).save_pretrained(folder)
    default_image_processor(config, image_size).save_pretrained(folder)


def text_tower(
    name: str,
    pretrained: bool = True,
    *,
    pooling: str = "mean",
    max_length: int | None = 64,
    arguments: Arguments | None = None,
    captions: Iterable[str] | None = None,
) -> list[Module]:
    """Modules from texts to pooled features, (batch, width).

    Args:
        name: Name of the tower.
        pretrained: Load its weights.
        pooling: `mean`, `cls` or `max`.
        max_length: Maximum number of tokens of a text.
        arguments: Arguments of the architecture, with `pretrained=False`.
        captions: Captions to learn a WordPiece vocabulary from, required with `pretrained=False`.

    Raises:
        ModelError: The name is unknown, or the weights cannot be loaded.
        ConfigError: `pretrained=False` without captions.
    """
    if name.startswith("pypi/"):
        with quiet():
            return _text_transformer(packaged_model(PYPI_TEXT_TOWERS, name), pooling, max_length)
    if Path(name).is_dir():
        refuse_unsafe(Path(name))
    if Path(name).is_dir() or pretrained:
        path = name if Path(name).is_dir() else _fetched(name)
        try:
            return _text_transformer(path, pooling, max_length)
        except (OSError, ValueError) as error:
            raise ModelError(_no_tower(name, pretrained, error)) from error
    if captions is None:
        raise ConfigError(f"text tower '{name}' with pretrained=False needs captions to learn a vocabulary from")
    from transformers import AutoModel

    tokenizer = learn_tokenizer(captions)
    config = config_alone(name, {"vocab_size": len(tokenizer), **(arguments or {})})
    config.pad_token_id = tokenizer.pad_token_id
    with quiet(), tempfile.TemporaryDirectory() as folder:
        AutoModel.from_config(config).save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        return _text_transformer(folder, pooling, max_length)


def _fetched(name: str) -> str:
    """The local copy of a tower on the hub, checked like every model directory."""
    try:
        path = fetched_directory(name)
    except ModelError as error:
        raise ModelError(_no_tower(name, True, error)) from error
    refuse_unsafe(path)
    return str(path)


def width_of(tower: list[Module]) -> int:
    """Output width of a tower."""
    return tower[-1].get_embedding_dimension()


def learn_tokenizer(captions: Iterable[str], vocab_size: int = 8192) -> PreTrainedTokenizerFast:
    """A lower-casing WordPiece tokenizer with BERT's special tokens.

    The vocabulary holds all letters and the most frequent words, in an order that depends on the captions only. The
    trainer of `tokenizers` breaks ties at random, and a resumed run must use the same token ids.
    """
    from tokenizers import BertWordPieceTokenizer
    from transformers import PreTrainedTokenizerFast

    splitter = BertWordPieceTokenizer(lowercase=True)._tokenizer
    words: Counter[str] = Counter()
    for caption in captions:
        normal = splitter.normalizer.normalize_str(caption)
        words.update(word for word, _ in splitter.pre_tokenizer.pre_tokenize_str(normal))
    letters = sorted(set("".join(words)))
    frequent = sorted(words, key=lambda word: (-words[word], word))
    names = {"pad": "[PAD]", "unk": "[UNK]", "cls": "[CLS]", "sep": "[SEP]", "mask": "[MASK]"}
    tokens = [*names.values(), *letters, *(f"##{letter}" for letter in letters), *frequent]
    vocabulary = {token: number for number, token in enumerate(list(dict.fromkeys(tokens))[:vocab_size])}
    tokenizer = BertWordPieceTokenizer(vocab=vocabulary, lowercase=True)._tokenizer
    special = {f"{name}_token": token for name, token in names.items()}
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **special)


@quiet()
def _timm_tower(
    network: Any, image_size: int | None, crop: str | None, arguments: Arguments | None = None
) -> list[Module]:
    """A timm network as a transformers `TimmWrapperModel`, with its preprocessing in the configuration."""
    from transformers import TimmWrapperConfig, TimmWrapperModel

    preprocessing = dict(network.pretrained_cfg)
    if image_size:
        preprocessing |= {"input_size": (3, image_size, image_size), "crop_pct": 1.0}
    if crop:
        if crop not in ("center", "squash"):
            raise ConfigError(f"unknown crop '{crop}'; {did_you_mean(crop, ('center', 'squash'))}")
        preprocessing["crop_mode"] = crop
        if crop == "squash":
            preprocessing["crop_pct"] = 1.0
    extra: Arguments = {
        "pretrained_cfg": preprocessing,
        "num_features": network.num_features,  # sentence-transformers reads the width of a timm tower from it
    }
    config = TimmWrapperConfig(architecture=preprocessing["architecture"], model_args=arguments, **extra)
    wrapper = TimmWrapperModel(config)
    wrapper.timm_model.load_state_dict(network.state_dict())
    with tempfile.TemporaryDirectory() as folder:
        wrapper.save_pretrained(folder)
        return _image_transformer(folder, None)


@quiet()
def _image_transformer(path: str, pooling: str | None) -> list[Module]:
    from transformers import AutoConfig

    is_timm = AutoConfig.from_pretrained(path, **LOCAL).model_type == "timm_wrapper"
    output = "pooler_output" if is_timm else "last_hidden_state"
    trunk = Transformer(
        path,
        model_kwargs=dict(WEIGHTS),
        processor_kwargs=dict(LOCAL),
        config_kwargs=dict(LOCAL),
        modality_config={"image": {"method": "forward", "method_output_name": output}},
        module_output_name=EMBEDDING if is_timm else "token_embeddings",
    )
    if is_timm:
        return [trunk]
    return [trunk, Pooling(trunk.get_embedding_dimension(), pooling or "mean")]


def _text_transformer(path: str, pooling: str, max_length: int | None) -> list[Module]:
    local = {"processor_kwargs": dict(LOCAL), "config_kwargs": dict(LOCAL)}
    trunk = Transformer(path, max_seq_length=max_length, model_kwargs=dict(WEIGHTS), **local)
    return [trunk, Pooling(trunk.get_embedding_dimension(), pooling)]


def config_alone(name: str, arguments: Arguments | None) -> PretrainedConfig:
    """The default configuration of the architecture that begins a name, as `distilbert` begins `distilbert-base`.

    Raises:
        ModelError: No architecture of transformers matches.
    """
    from transformers import CONFIG_MAPPING, AutoConfig

    base = name.rsplit("/", 1)[-1].lower()
    known = [key for key in CONFIG_MAPPING if base == key or base.startswith((f"{key}-", f"{key}_"))]
    if not known:
        raise ModelError(
            f"'{base}' does not begin with an architecture of transformers; "
            f"{did_you_mean(base.split('-')[0], list(CONFIG_MAPPING))}"
        )
    return AutoConfig.for_model(max(known, key=len), **(arguments or {}))


def default_image_processor(config: PretrainedConfig, image_size: int | None) -> ViTImageProcessor:
    """A ViT image processor with the given input side, that of the configuration, or 224 pixels."""
    from transformers import ViTImageProcessor

    size = int(image_size or getattr(config, "image_size", None) or 224)
    return ViTImageProcessor(size={"height": size, "width": size})


def _no_tower(name: str, pretrained: bool, error: Exception) -> str:
    reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    step = "check the name and the network, or pass a local directory" if pretrained else "check the name"
    return f"cannot load tower '{name}': {reason}; {step}, or set pretrained=False to build it with random weights"
