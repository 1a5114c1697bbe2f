"""Models of open_clip (CLIP, MobileCLIP, SigLIP and others) as an image tower and a text tower of ours.

They come with the extra `open-clip`. Each tower is open_clip's own network with its own preprocessing or tokenizer, so
the vectors are open_clip's. Weights are read from safetensors alone.
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
from diptych.models.loading import LOCAL
from diptych.models.open_clip.names import CONFIG, PREFIX, WEIGHTS, fetch_named

TEXT_CONFIG = "text_config"
"""The folder, in a model's own, of the configuration of a text tower that transformers builds."""

_TOKENIZERS = (
    "tokenizer.json",
    "vocab.txt",
    "vocab.json",
    "spiece.model",
    "tokenizer.model",
    "sentencepiece.bpe.model",
)
_HUB_ARGUMENTS = ("subfolder", "token", "cache_folder", "revision", "local_files_only")


class OpenClipModule(InputModule):
    """One side of an open_clip model; its folder is one that open_clip's own readers understand."""

    config_file_name = CONFIG
    config_keys: list[str] = ["model_cfg", "preprocess_cfg"]  # noqa: RUF012 - as the base class has it
    save_in_root = False

    network: Any

    def __init__(self, network: nn.Module, model_cfg: dict[str, Any], preprocess_cfg: dict[str, Any]) -> None:
        super().__init__()
        self.network, self.model_cfg, self.preprocess_cfg = network, model_cfg, preprocess_cfg

    def get_embedding_dimension(self) -> int:
        return int(self.model_cfg["embed_dim"])

    def save(self, output_path: str, *args: Any, safe_serialization: bool = True, **kwargs: Any) -> None:
        self.save_config(output_path)
        self.save_torch_weights(output_path, safe_serialization=True)


class OpenClipImage(OpenClipModule):
    """The image tower: (batch, 3, height, width) to (batch, dim)."""

    def __init__(self, network: nn.Module, model_cfg: dict[str, Any], preprocess_cfg: dict[str, Any]) -> None:
        from open_clip.transform import PreprocessCfg, image_transform_v2

        super().__init__(network, model_cfg, preprocess_cfg)
        self._transform = image_transform_v2(PreprocessCfg(**preprocess_cfg), is_train=False)

    @property
    def modalities(self) -> list:
        return ["image"]

    @property
    def image_size(self) -> int:
        """The shorter side in pixels of what the tower sees."""
        size = self.preprocess_cfg["size"]
        return int(size if isinstance(size, int) else min(size))

    def preprocess(self, inputs: Sequence[Any], prompt: str | None = None, **kwargs: Any) -> dict[str, Any]:
        pictures: list[Image.Image] = [picture["image"] if isinstance(picture, dict) else picture for picture in inputs]
        return {"pixel_values": torch.stack([self._transform(picture) for picture in pictures]), "modality": "image"}

    def forward(self, features: dict[str, Any], **kwargs: Any) -> dict[str, Any]:
        features["sentence_embedding"] = self.network(features["pixel_values"])
        return features

    @classmethod
    def load(cls, model_name_or_path: str, *args: Any, **kwargs: Any) -> OpenClipImage:
        folder, config = _saved(cls, model_name_or_path, kwargs)
        tower = cls(_network(_without_text(config["model_cfg"]), folder).visual, **config)
        return _with_weights(tower, folder)


class OpenClipText(OpenClipModule):
    """The text tower: (batch, tokens) to (batch, dim); what of the model is not its image tower."""

    tokenizer: Any

    def __init__(
        self, network: nn.Module, model_cfg: dict[str, Any], preprocess_cfg: dict[str, Any], tokenizer: Any
    ) -> None:
        super().__init__(network, model_cfg, preprocess_cfg)
        self.tokenizer = tokenizer

    @property
    def modalities(self) -> list:
        return ["text"]

    @property
    def max_seq_length(self) -> int:
        return int(self.tokenizer.context_length)

    def token_counts(self, texts: Sequence[str]) -> list[int]:
        """The number of tokens of each text, uncut, start and end tokens included."""
        inner = getattr(self.tokenizer, "tokenizer", None)  # transformers' own
        if inner is None:
            return [len(self.tokenizer.encode(text)) + 2 for text in texts]
        cleaned = [self.tokenizer.clean_fn(text) for text in texts]
        return [len(ids) for ids in inner(cleaned, truncation=False, padding=False, verbose=False)["input_ids"]]

    def preprocess(self, inputs: Sequence[Any], prompt: str | None = None, **kwargs: Any) -> dict[str, Any]:
        texts = [text["text"] if isinstance(text, dict) else text for text in inputs]
        return {"input_ids": self.tokenizer([(prompt or "") + text for text in texts]), "modality": "text"}

    def forward(self, features: dict[str, Any], **kwargs: Any) -> dict[str, Any]:
        features["sentence_embedding"] = self.network.encode_text(features["input_ids"])
        return features

    def save(self, output_path: str, *args: Any, safe_serialization: bool = True, **kwargs: Any) -> None:
        super().save(output_path)
        if hasattr(self.tokenizer, "save_pretrained"):
            self.tokenizer.save_pretrained(output_path)
        self.save_text_config(Path(output_path))

    def save_text_config(self, folder: Path) -> None:
        """Write the configuration of a text tower that transformers builds: open_clip would fetch it from the hub."""
        if self.model_cfg["text_cfg"].get("hf_model_name"):
            self.network.text.config.save_pretrained(folder / TEXT_CONFIG)

    @classmethod
    def load(cls, model_name_or_path: str, *args: Any, **kwargs: Any) -> OpenClipText:
        folder, config = _saved(cls, model_name_or_path, kwargs)
        network = _network(config["model_cfg"], folder)
        _take_off(network)
        return _with_weights(cls(network, **config, tokenizer=read_tokenizer(folder)), folder)


def is_open_clip(folder: Path) -> bool:
    """Whether a folder is an open_clip model that transformers cannot read as one."""
    if not (folder / CONFIG).exists():
        return False
    config = folder / "config.json"
    return not config.exists() or "model_type" not in json.loads(config.read_text("utf-8"))


def open_clip_towers(source: str | Path) -> tuple[OpenClipImage, OpenClipText, float, float]:
    """The towers of an open_clip model, its logit scale (a multiplier) and its logit bias.

    `source` is a folder with `open_clip_config.json` and safetensors, or `open_clip/NAME` or `open_clip/NAME@TAG` for
    one of open_clip's own, which is fetched from the hub; without a tag it is `openai`'s, or the only one.

    Raises:
        MissingExtra: open_clip is not installed.
        ModelError: there is no such model, or its weights are not safetensors or do not fit.
    """
    require("open_clip", "open-clip")
    if str(source).startswith(PREFIX):
        model_cfg, preprocess_cfg, weights, tokenizer = fetch_named(str(source).removeprefix(PREFIX))
        folder = None  # open_clip's own configuration, which may name a text model of the hub
    else:
        folder = Path(source)
        config = json.loads((Path(source) / CONFIG).read_text("utf-8"))
        model_cfg, preprocess_cfg = config["model_cfg"], config.get("preprocess_cfg", {})
        weights, tokenizer = _weights_in(Path(source)), read_tokenizer(Path(source))
    return _towers(_network(model_cfg, folder), model_cfg, preprocess_cfg, weights, tokenizer)


def _towers(
    network: Any, model_cfg: dict[str, Any], preprocess_cfg: dict[str, Any], weights: Path, tokenizer: Any
) -> tuple[OpenClipImage, OpenClipText, float, float]:
    import open_clip
    from open_clip.transform import PreprocessCfg, merge_preprocess_dict

    open_clip.load_checkpoint(network, str(weights), strict=True)
    size = {"size": network.visual.image_size} if hasattr(network.visual, "image_size") else {}
    preprocess_cfg = merge_preprocess_dict(asdict(PreprocessCfg()), {**preprocess_cfg, **size})
    image = OpenClipImage(network.visual, model_cfg, preprocess_cfg)
    scale, bias = _take_off(network)
    return image, OpenClipText(network, model_cfg, preprocess_cfg, tokenizer), scale, bias


def _network(model_cfg: dict[str, Any], folder: Path | None) -> Any:
    """The architecture with random weights, as open_clip's `create_model` builds it, but without a download of weights.

    The configuration of a text tower of transformers lies in the model's folder; where there is no folder, it is one of
    open_clip's own models, which the user named, and comes from the hub.
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
    """Where the configuration of a text tower lies that open_clip would fetch from the hub by its name."""
    if not (folder / TEXT_CONFIG / "config.json").is_file():
        raise ModelError(
            f"'{folder / CONFIG}' builds its text tower like '{name}' (hf_model_name), which is not fetched, since the "
            f"file says so and not you; if you trust '{name}', put its config.json into '{folder / TEXT_CONFIG}'"
        )
    return str(folder / TEXT_CONFIG)


def _without_text(model_cfg: dict[str, Any]) -> dict[str, Any]:
    """The configuration with the smallest text tower in the place of one of transformers, which images do not need."""
    if not model_cfg["text_cfg"].get("hf_model_name"):
        return model_cfg
    small = {"context_length": 8, "vocab_size": 8, "width": 8, "heads": 1, "layers": 1}
    return {**model_cfg, "custom_text": True, "text_cfg": small}


def _take_off(network: Any) -> tuple[float, float]:
    """Leave a whole model its text side alone; the scale and bias of its logits, which a dual encoder keeps itself."""
    scale, bias = float(network.logit_scale.detach().exp()), network.logit_bias
    network.visual = nn.Identity()
    network.logit_scale = network.logit_bias = None
    return scale, 0.0 if bias is None else float(bias.detach())


def _weights_in(folder: Path) -> Path:
    for name in WEIGHTS:
        if (folder / name).exists():
            return folder / name
    raise ModelError(
        f"'{folder}' has none of {', '.join(WEIGHTS)}; weights as a pickle can run code and are not read: convert "
        "them with safetensors.torch.save_file"
    )


def read_tokenizer(folder: Path) -> Any:
    """open_clip's tokenizer for the model in a folder, from that folder alone.

    Raises:
        ModelError: its configuration names a tokenizer of the hub, of which the folder has no copy.
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
