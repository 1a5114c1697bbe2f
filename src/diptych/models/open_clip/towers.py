"""open_clip models (CLIP, MobileCLIP, SigLIP and others) as an image tower and a text tower.

They need the extra `open-clip`. Each tower is open_clip's network with its preprocessing or tokenizer, so embeddings
equal open_clip's. Weights are read from safetensors only.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from copy import deepcopy
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from sentence_transformers.base.modules import InputModule
from torch import nn

from diptych.errors import ModelError, require
from diptych.models.heads import Features
from diptych.models.loading import LOCAL
from diptych.models.open_clip.names import CONFIG, PREFIX, WEIGHTS, fetch_named

TEXT_CONFIG = "text_config"
"""Subfolder with the configuration of a text tower that transformers builds."""

_TOKENIZERS = (
    "tokenizer.json",
    "vocab.txt",
    "vocab.json",
    "spiece.model",
    "tokenizer.model",
    "sentencepiece.bpe.model",
)
_HUB_ARGUMENTS = ("subfolder", "token", "cache_folder", "revision", "local_files_only")


Settings = dict[str, Any]
"""A section of open_clip's JSON configuration."""


class OpenClipModule(InputModule):
    """One tower of an open_clip model; open_clip can read its folder too."""

    config_file_name = CONFIG
    config_keys: list[str] = ["model_cfg", "preprocess_cfg"]  # noqa: RUF012 - as the base class has it
    save_in_root = False

    network: Any

    def __init__(self, network: nn.Module, model_cfg: Settings, preprocess_cfg: Settings) -> None:
        super().__init__()
        self.network, self.model_cfg, self.preprocess_cfg = network, model_cfg, preprocess_cfg

    def get_embedding_dimension(self) -> int:
        """Dimension of the embeddings."""
        return int(self.model_cfg["embed_dim"])

    def save(self, output_path: str, *_args: object, **_kwargs: object) -> None:
        """Write configuration and weights, always as safetensors."""
        self.save_config(output_path)
        self.save_torch_weights(output_path, safe_serialization=True)


class OpenClipImage(OpenClipModule):
    """An image tower: (batch, 3, height, width) to (batch, dim)."""

    def __init__(self, network: nn.Module, model_cfg: Settings, preprocess_cfg: Settings) -> None:
        from open_clip.transform import PreprocessCfg, image_transform_v2

        super().__init__(network, model_cfg, preprocess_cfg)
        self._transform = image_transform_v2(PreprocessCfg(**preprocess_cfg), is_train=False)

    @property
    def modalities(self) -> list[str]:  # type: ignore[override]
        """The modalities that sentence-transformers may pass to this module."""
        return ["image"]

    @property
    def image_size(self) -> int:
        """Shorter side of the tower's input in pixels."""
        size = self.preprocess_cfg["size"]
        return int(size if isinstance(size, int) else min(size))

    def preprocess(
        self,
        inputs: Sequence[Any],
        prompt: str | None = None,  # noqa: ARG002 - the base class has it
        **_kwargs: object,
    ) -> Features:
        """Images to pixels, (batch, 3, height, width), by open_clip's transform."""
        images: list[Image.Image] = [item["image"] if isinstance(item, dict) else item for item in inputs]
        return {"pixel_values": torch.stack([self._transform(image) for image in images]), "modality": "image"}

    def forward(self, features: Features, **_kwargs: object) -> Features:
        """Add `sentence_embedding` to `features`: (batch, 3, height, width) to (batch, dim)."""
        features["sentence_embedding"] = self.network(features["pixel_values"])
        return features

    @classmethod
    def load(cls, model_name_or_path: str, *_args: object, **kwargs: Any) -> OpenClipImage:
        """Read a tower that `save` wrote."""
        folder, config = _saved(cls, model_name_or_path, kwargs)
        tower = cls(_network(_without_text(config["model_cfg"]), folder).visual, **config)
        return _with_weights(tower, folder)


class OpenClipText(OpenClipModule):
    """A text tower: (batch, tokens) to (batch, dim); all of the model but its image tower."""

    tokenizer: Any

    def __init__(self, network: nn.Module, model_cfg: Settings, preprocess_cfg: Settings, tokenizer: Any) -> None:
        super().__init__(network, model_cfg, preprocess_cfg)
        self.tokenizer = tokenizer

    @property
    def modalities(self) -> list[str]:  # type: ignore[override]
        """The modalities that sentence-transformers may pass to this module."""
        return ["text"]

    @property
    def max_seq_length(self) -> int:
        """Maximum number of tokens of a text, start and end included."""
        return int(self.tokenizer.context_length)

    def token_counts(self, texts: Sequence[str]) -> list[int]:
        """The number of tokens of each text before truncation, start and end included."""
        inner = getattr(self.tokenizer, "tokenizer", None)  # transformers' own
        if inner is None:
            return [len(self.tokenizer.encode(text)) + 2 for text in texts]
        cleaned = [self.tokenizer.clean_fn(text) for text in texts]
        return [len(ids) for ids in inner(cleaned, truncation=False, padding=False, verbose=False)["input_ids"]]

    def preprocess(self, inputs: Sequence[Any], prompt: str | None = None, **_kwargs: object) -> Features:
        """Texts to token ids, (batch, tokens), by open_clip's tokenizer."""
        texts = [text["text"] if isinstance(text, dict) else text for text in inputs]
        return {"input_ids": self.tokenizer([(prompt or "") + text for text in texts]), "modality": "text"}

    def forward(self, features: Features, **_kwargs: object) -> Features:
        """Add `sentence_embedding` to `features`: (batch, tokens) to (batch, dim)."""
        features["sentence_embedding"] = self.network.encode_text(features["input_ids"])
        return features

    def save(self, output_path: str, *_args: object, **_kwargs: object) -> None:
        """Write configuration, weights (always as safetensors) and tokenizer."""
        super().save(output_path)
        if hasattr(self.tokenizer, "save_pretrained"):
            self.tokenizer.save_pretrained(output_path)
        self.save_text_config(Path(output_path))

    def save_text_config(self, folder: Path) -> None:
        """Write the configuration of a text tower that transformers builds; open_clip would fetch it from the hub."""
        if self.model_cfg["text_cfg"].get("hf_model_name"):
            self.network.text.config.save_pretrained(folder / TEXT_CONFIG)

    @classmethod
    def load(cls, model_name_or_path: str, *_args: object, **kwargs: Any) -> OpenClipText:
        """Read a tower that `save` wrote."""
        folder, config = _saved(cls, model_name_or_path, kwargs)
        network = _network(config["model_cfg"], folder)
        _strip_to_text(network)
        return _with_weights(cls(network, **config, tokenizer=read_tokenizer(folder)), folder)


def is_open_clip(folder: Path) -> bool:
    """Whether a folder holds an open_clip model that transformers cannot load."""
    if not (folder / CONFIG).exists():
        return False
    config = folder / "config.json"
    return not config.exists() or "model_type" not in json.loads(config.read_text("utf-8"))


def open_clip_towers(source: str | Path) -> tuple[OpenClipImage, OpenClipText, float, float]:
    """Load the towers of an open_clip model, its logit scale (a multiplier) and its logit bias.

    Args:
        source: A folder with `open_clip_config.json` and safetensors, or `open_clip/NAME` or `open_clip/NAME@TAG`,
            which is downloaded. Without a tag the weights are `openai`'s or the only ones.

    Raises:
        MissingExtra: open_clip is not installed.
        ModelError: There is no such model, or its weights are not safetensors or do not fit.
    """
    require("open_clip", "open-clip")
    if str(source).startswith(PREFIX):
        model_cfg, preprocess_cfg, weights, tokenizer = fetch_named(str(source).removeprefix(PREFIX))
        folder = None  # open_clip's own configurations may name a text model on the hub
    else:
        folder = Path(source)
        config = json.loads((Path(source) / CONFIG).read_text("utf-8"))
        model_cfg, preprocess_cfg = config["model_cfg"], config.get("preprocess_cfg", {})
        weights, tokenizer = _weights_in(Path(source)), read_tokenizer(Path(source))
    return _towers(_network(model_cfg, folder), model_cfg, preprocess_cfg, weights, tokenizer)


def _towers(
    network: Any, model_cfg: Settings, preprocess_cfg: Settings, weights: Path, tokenizer: Any
) -> tuple[OpenClipImage, OpenClipText, float, float]:
    import open_clip
    from open_clip.transform import PreprocessCfg, merge_preprocess_dict

    open_clip.load_checkpoint(network, str(weights), strict=True)
    size = {"size": network.visual.image_size} if hasattr(network.visual, "image_size") else {}
    preprocess_cfg = merge_preprocess_dict(asdict(PreprocessCfg()), {**preprocess_cfg, **size})
    image = OpenClipImage(network.visual, model_cfg, preprocess_cfg)
    scale, bias = _strip_to_text(network)
    return image, OpenClipText(network, model_cfg, preprocess_cfg, tokenizer), scale, bias


def _network(model_cfg: Settings, folder: Path | None) -> Any:
    """The architecture with random weights, as open_clip's `create_model` builds it, without downloading weights.

    The configuration of a transformers text tower is read from the model's folder. Without a folder the model is one of
    open_clip's own, named by the user, and that configuration is downloaded.
    """
    import open_clip

    config = deepcopy(model_cfg)
    custom = config.pop("custom_text", False) or "hf_model_name" in config["text_cfg"]
    if "timm_model_name" in config["vision_cfg"]:
        config["vision_cfg"]["timm_model_pretrained"] = False
    if "hf_model_name" in config["text_cfg"]:
        config["text_cfg"]["hf_model_pretrained"] = False
        if folder is not None:
            config["text_cfg"]["hf_model_name"] = _text_config(folder, config["text_cfg"]["hf_model_name"])
    if not custom:
        return open_clip.CLIP(**config).eval()
    kind = open_clip.CoCa if "multimodal_cfg" in config else open_clip.CustomTextCLIP
    return kind(**config).eval()


def _text_config(folder: Path, name: str) -> str:
    """Folder of a text tower's configuration, which open_clip would fetch from the hub by its name."""
    if not (folder / TEXT_CONFIG / "config.json").is_file():
        raise ModelError(
            f"'{folder / CONFIG}' builds its text tower like '{name}' (hf_model_name), which is not fetched, since the "
            f"file says so and not you; if you trust '{name}', put its config.json into '{folder / TEXT_CONFIG}'"
        )
    return str(folder / TEXT_CONFIG)


def _without_text(model_cfg: Settings) -> Settings:
    """The configuration with a minimal text tower instead of one of transformers; the image tower needs neither."""
    if not model_cfg["text_cfg"].get("hf_model_name"):
        return model_cfg
    small = {"context_length": 8, "vocab_size": 8, "width": 8, "heads": 1, "layers": 1}
    return {**model_cfg, "custom_text": True, "text_cfg": small}


def _strip_to_text(network: Any) -> tuple[float, float]:
    """Remove image tower, logit scale and bias from a model and return scale and bias, which a dual encoder keeps."""
    scale, bias = float(network.logit_scale.detach().exp()), network.logit_bias
    network.visual = nn.Identity()
    network.logit_scale = network.logit_bias = None
    return scale, 0.0 if bias is None else float(bias.detach())


def _weights_in(folder: Path) -> Path:
    for name in WEIGHTS:
        if (folder / name).exists():
            return folder / name
    raise ModelError(
        f"'{folder}' has none of {', '.join(WEIGHTS)}; pickled weights can run code and are not read: convert "
        "them with safetensors.torch.save_file"
    )


def read_tokenizer(folder: Path) -> Any:
    """open_clip's tokenizer for the model in a folder, from that folder only.

    Raises:
        ModelError: The configuration names a tokenizer on the hub of which the folder has no copy.
    """
    import open_clip

    name = json.loads((folder / CONFIG).read_text("utf-8"))["model_cfg"]["text_cfg"].get("hf_tokenizer_name")
    if not name:
        return open_clip.get_tokenizer(f"local-dir:{folder}")
    if not any((folder / file).is_file() for file in _TOKENIZERS):
        raise ModelError(
            f"'{folder / CONFIG}' uses the tokenizer of '{name}' (hf_tokenizer_name), which is not fetched, since the "
            f"file says so and not you; if you trust '{name}', put its tokenizer files into '{folder}'"
        )
    return open_clip.get_tokenizer(f"local-dir:{folder}", **LOCAL)


def _saved(kind: type[OpenClipModule], name: str, arguments: dict[str, Any]) -> tuple[Path, dict[str, Any]]:
    require("open_clip", "open-clip")
    hub = {key: arguments[key] for key in _HUB_ARGUMENTS if key in arguments}
    return Path(str(kind.load_dir_path(name, **hub))), kind.load_config(name, **hub)


def _with_weights(tower: Any, folder: Path) -> Any:
    from safetensors.torch import load_model

    load_model(tower, str(_weights_in(folder)))
    return tower.eval()
