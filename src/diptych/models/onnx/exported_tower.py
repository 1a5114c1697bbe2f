"""Exported towers: network, pooling and head as one ONNX or OpenVINO graph, with the original preprocessing."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np
import torch
from sentence_transformers.base.modules import InputModule, Module, Transformer
from torch import nn

from diptych.errors import ModelError
from diptych.models import truncation
from diptych.models.architectures import input_size
from diptych.models.heads import EMBEDDING, Features
from diptych.models.loading import LOCAL
from diptych.models.onnx.engines import GRAPHS, open_graph
from diptych.runtime.quiet import quiet

if TYPE_CHECKING:
    from transformers import PretrainedConfig

_HUB_ARGUMENTS = ("subfolder", "token", "cache_folder", "revision", "local_files_only")


class ExportedTower(InputModule):
    """A whole route of a dual encoder as a graph: (batch, ...) to (batch, dim) unit vectors.

    Args:
        folder: Folder with the graph and the preprocessing configuration.
        front: The exported module without its weights, for preprocessing.
        modality: `image` or `text`.
        engine: `onnx` or `openvino`.
        inputs: Names of the tensors that the graph reads.
        dim: Dimension of the embeddings.
        graph_sha256: Hash of the graph when it was exported; not checked if None.

    Raises:
        ModelError: The graph was changed after it was exported.
        MissingExtra: The engine is not installed.
    """

    config_file_name = "exported.json"
    config_keys: list[str] = ["modality", "engine", "inputs", "dim", "graph_sha256"]  # noqa: RUF012 - as the base has it
    save_in_root = False

    def __init__(
        self,
        folder: Path,
        front: InputModule,
        modality: str,
        engine: str,
        inputs: list[str],
        dim: int,
        graph_sha256: str | None = None,
    ) -> None:
        super().__init__()
        self.folder, self.front = Path(folder), front
        self.modality, self.engine, self.inputs, self.dim = modality, engine, inputs, dim
        self.graph_sha256 = graph_hash(self.folder, engine)
        if graph_sha256 not in (None, self.graph_sha256):
            raise ModelError(f"'{self.folder / GRAPHS[engine]}' was changed after export; export it again")
        self.nowhere = nn.Parameter(
            torch.empty(0), requires_grad=False
        )  # gives the model a device; the name is part of its fingerprint
        self._run = open_graph(engine, self.folder)

    # attributes by which others read a module's preprocessing

    @property
    def modalities(self) -> list[str]:  # type: ignore[override]
        """The modality that sentence-transformers may pass to this module."""
        return [self.modality]

    @property
    def processor(self) -> Any:
        """The preprocessor of the exported module, if it has one."""
        return getattr(self.front, "processor", None)

    @property
    def tokenizer(self) -> Any:  # type: ignore[override]
        """The tokenizer of the exported module, if it has one."""
        return getattr(self.front, "tokenizer", None)

    @property
    def max_seq_length(self) -> int | None:
        """Maximum number of tokens of a text."""
        return getattr(self.front, "max_seq_length", None)

    @property
    def image_size(self) -> int | None:
        """Input side in pixels, or None if the preprocessing does not fix one."""
        return input_size(self.front)

    def token_counts(self, texts: Sequence[str]) -> list[int]:
        """The number of tokens of each text before truncation, start and end included."""
        return truncation.token_counts(self.front, texts)

    def get_embedding_dimension(self) -> int:
        """Dimension of the embeddings."""
        return self.dim

    def preprocess(self, inputs: Sequence[object], prompt: str | None = None, **kwargs: object) -> Features:
        """Inputs to tensors, by the exported module's preprocessing."""
        return self.front.preprocess(inputs, prompt=prompt, **kwargs)

    def forward(self, features: Features, **_kwargs: object) -> Features:
        """Add `sentence_embedding` to `features`: (batch, ...) to (batch, dim), by the graph."""
        inputs = {name: np.ascontiguousarray(features[name].cpu().numpy()) for name in self.inputs}
        features[EMBEDDING] = torch.from_numpy(self._run(inputs)).to(self.nowhere.device)
        return features

    # disk

    def save(self, output_path: str, *_args: object, **_kwargs: object) -> None:
        """Copy the graph and its preprocessing to a folder."""
        if Path(output_path).resolve() != self.folder.resolve():
            shutil.copytree(self.folder, output_path, dirs_exist_ok=True)
        self.save_config(output_path)

    @classmethod
    def load(cls, model_name_or_path: str, *_args: object, **kwargs: Any) -> ExportedTower:
        """Read a tower that was exported."""
        hub = {key: kwargs[key] for key in _HUB_ARGUMENTS if key in kwargs}
        folder = Path(str(cls.load_dir_path(model_name_or_path, **hub)))
        config = cls.load_config(model_name_or_path, **hub)
        return cls(folder, read_front(folder, config["modality"]), **config)


class WeightlessTransformer(Transformer):
    """A sentence-transformers `Transformer` that can preprocess but has no network."""

    def _load_model(
        self,
        model_name_or_path: str,  # noqa: ARG002 - the base class has it
        transformer_task: str,  # noqa: ARG002
        config: PretrainedConfig,
        *_args: object,
        **_kwargs: object,
    ) -> Any:
        return _NoNetwork(config)


class _NoNetwork(nn.Module):
    def __init__(self, config: PretrainedConfig) -> None:
        super().__init__()
        self.config = config

    def forward(self, **_inputs: object) -> NoReturn:
        raise ModelError(
            "this tower was exported as a whole: it returns embeddings only, without hidden states of patches or tokens"
        )


@quiet()
def write_front(module: Module, folder: Path) -> None:
    """Write the preprocessing configuration of a route's first module, without weights."""
    if isinstance(module, Transformer):
        module.config.save_pretrained(folder)
        module.processor.save_pretrained(folder)
    elif hasattr(
        getattr(module, "tokenizer", None), "save_pretrained"
    ):  # open_clip; its built-in tokenizer has no files
        module.tokenizer.save_pretrained(str(folder))
    module.save_config(str(folder))


def read_front(folder: Path, modality: str) -> InputModule:
    """Read the preprocessing that `write_front` wrote."""
    from diptych.models.open_clip.names import CONFIG

    if not (folder / CONFIG).exists():
        return WeightlessTransformer.load(str(folder), **LOCAL)
    from diptych.models.open_clip.towers import OpenClipImage, OpenClipText, read_tokenizer

    config = OpenClipImage.load_config(str(folder))
    if modality == "image":
        return OpenClipImage(nn.Identity(), **config)
    return OpenClipText(nn.Identity(), **config, tokenizer=read_tokenizer(folder))


def graph_hash(folder: Path, engine: str) -> str:
    """SHA-256 of the graph's files, weights included."""
    digest = hashlib.sha256()
    for file in sorted(folder.glob(f"{Path(GRAPHS[engine]).stem}.*")):
        digest.update(file.name.encode())
        with file.open("rb") as content:
            while block := content.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()
