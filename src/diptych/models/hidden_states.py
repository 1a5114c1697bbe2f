"""Hidden states: per-patch outputs of an image tower and per-token embeddings of a text tower."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from diptych.errors import ModelError
from diptych.models.dual_encoder import DualEncoder
from diptych.models.embedding_cache import EmbeddingFile, write_embeddings
from diptych.models.heads import EMBEDDING, Features
from diptych.runtime.progress import Progress, silent

Item = TypeVar("Item")

_INPUTS = {"image": "pixel_values", "text": "input_ids"}
_WHOLE = {"image": "vision_model", "text": "text_model"}  # the towers inside a whole CLIP or SigLIP


@dataclass
class HiddenStates:
    """Embeddings and hidden states of a batch of images or texts.

    Attributes:
        embeddings: (batch, dim) embeddings, as from `DualEncoder.embed`.
        states: (batch, length, width) hidden states; zero at padding.
    """

    embeddings: Tensor
    states: Tensor

    @property
    def mask(self) -> Tensor:
        """(batch, length) bool: false at padding."""
        return self.states.ne(0).any(-1)

    def to(self, device: torch.device) -> HiddenStates:
        """The same on another device."""
        return HiddenStates(self.embeddings.to(device), self.states.to(device))


def compute_hidden_states(model: DualEncoder, features: Features) -> HiddenStates:
    """Embeddings and hidden states of preprocessed images or texts, in one forward pass.

    Patch states are those of the image tower's last layer. Token states are the text tower's input embeddings: the
    later layers of a tower that was fine-tuned on captions have memorised them, and a head trained on their outputs
    generalises poorly.

    Raises:
        ModelError: The tower does not expose hidden states (open_clip's do not).
    """
    modality = next(name for name, key in _INPUTS.items() if key in features)
    features = model.to_device(features)
    trunk, *rest = model.route(modality)
    network: Any = getattr(trunk, "model", None)
    tower = getattr(network, _WHOLE[modality], network)
    if modality == "text" and hasattr(tower, "get_input_embeddings"):
        states = tower.get_input_embeddings()(features["input_ids"])
        if "attention_mask" in features:
            states = states * features["attention_mask"].unsqueeze(-1)
        features = trunk(features)
    elif hasattr(network, "timm_model"):
        output = network(pixel_values=features["pixel_values"])
        states, features[EMBEDDING] = output.last_hidden_state, output.pooler_output
    elif tower is not network:
        outputs: list[Tensor] = []
        hook = tower.register_forward_hook(lambda _module, _inputs, output: outputs.append(output.last_hidden_state))
        try:
            features = trunk(features)
        finally:
            hook.remove()
        states = outputs[0]
    elif modality == "image" and rest and network is not None:
        features = trunk(features)
        states = features["token_embeddings"]
    else:
        kind = type(trunk).__name__
        raise ModelError(
            f"a {kind} does not expose the hidden states of its {modality} tower; use another model, "
            "or, for a matcher, train the head 'pair' only"
        )
    for module in rest:
        features = module(features)
    if states.ndim == 4:  # a convolutional grid: (batch, width, rows, columns)
        states = states.flatten(2).transpose(1, 2)
    return HiddenStates(functional.normalize(features[EMBEDDING].float(), dim=-1), states.float())


class StoredHiddenStates:
    """Embeddings and hidden states of many images or texts on disk, written once and memory-mapped.

    States are stored in half precision: 0.1 MB for an image of 36 patches of width 1,280.

    Args:
        folder: Directory of the files.
        items: Number of images or texts.
        dim: Dimension of the embeddings.
        length: Positions stored for each item, truncated or padded with zeros; 0 stores embeddings only.
        width: Width of the states.
    """

    def __init__(self, folder: Path, items: int, dim: int, length: int = 0, width: int = 0) -> None:
        self._embeddings = EmbeddingFile(folder / "vectors", (items, dim))
        self._states = EmbeddingFile(folder / "states", (items, length, width), "float16") if length else None
        self.length = length

    def write(
        self,
        model: DualEncoder,
        items: Sequence[Item],
        prepare: Callable[[Sequence[Item]], Features],
        *,
        progress: Progress = silent,
        label: str,
    ) -> None:
        """Compute the items that are not yet on disk; arguments are those of `embedding_cache.write_embeddings`."""
        if self._states is None:
            write_embeddings(self._embeddings, items, prepare, partial(_embed, model), progress=progress, label=label)
            return
        self._embeddings.done = self._states.done  # a process killed between the two writes leaves one batch too many

        @torch.inference_mode()
        def forward(features: Features) -> NDArray[np.floating]:
            batch = compute_hidden_states(model, features)
            self._embeddings.append(batch.embeddings.cpu().numpy())
            states = batch.states[:, : self.length].cpu().numpy().astype(np.float16)
            return np.pad(states, ((0, 0), (0, self.length - states.shape[1]), (0, 0)))

        write_embeddings(self._states, items, prepare, forward, progress=progress, label=label)

    @property
    def embeddings(self) -> NDArray[np.floating]:
        """The embeddings, (items, dim) float32."""
        return self._embeddings.read()

    def take(self, rows: NDArray[np.integer]) -> HiddenStates:
        """The items at `rows`, in that order, in memory, without positions that are padding in all of them."""
        embeddings = torch.from_numpy(self.embeddings[rows])
        if self._states is None:
            return HiddenStates(embeddings, embeddings.new_zeros(len(rows), 0, 0))
        states = torch.from_numpy(self._states.read()[rows].astype(np.float32))
        used = int(states.ne(0).any(-1).sum(-1).max())
        return HiddenStates(embeddings, states[:, :used])


@torch.inference_mode()
def _embed(model: DualEncoder, features: Features) -> NDArray[np.floating]:
    return model.embed(features).cpu().numpy()
