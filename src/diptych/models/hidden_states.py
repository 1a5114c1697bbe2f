"""What the towers know of the parts: a state for each patch of a picture and each token of a text."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from diptych.errors import ModelError
from diptych.models.dual_encoder import DualEncoder
from diptych.models.embedding_cache import VectorFile, write_vectors
from diptych.models.heads import EMBEDDING
from diptych.runtime.progress import Progress, silent

_INPUTS = {"image": "pixel_values", "text": "input_ids"}
_WHOLE = {"image": "vision_model", "text": "text_model"}  # the towers inside a whole CLIP or SigLIP


@dataclass
class HiddenStates:
    """A batch of pictures or texts: their unit vectors, and the states of their parts.

    `vectors` is (batch, dim), as `DualEncoder.embed` gives them; `states` is (batch, length, width), zero in the places
    that pad a text.
    """

    vectors: Tensor
    states: Tensor

    @property
    def mask(self) -> Tensor:
        """(batch, length) bool: which places are patches or tokens, and not padding."""
        return self.states.ne(0).any(-1)

    def to(self, device: torch.device) -> HiddenStates:
        return HiddenStates(self.vectors.to(device), self.states.to(device))


def compute_hidden_states(model: DualEncoder, features: dict[str, Any]) -> HiddenStates:
    """Preprocessed pictures or texts through their tower, once: their vectors, and the states of patches or tokens.

    Patches are those of the image tower's last layer. Tokens are the text tower's word embeddings: its later states
    know the training captions by heart where it was fine-tuned on them, and a head that learns from them learns little
    that holds for others.

    Raises:
        ModelError: the tower does not show its states (open_clip's do not).
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
        caught: list[Any] = []
        hook = tower.register_forward_hook(lambda module, inputs, output: caught.append(output.last_hidden_state))
        try:
            features = trunk(features)
        finally:
            hook.remove()
        states = caught[0]
    elif modality == "image" and rest and network is not None:
        features = trunk(features)
        states = features["token_embeddings"]
    else:
        kind = type(trunk).__name__
        raise ModelError(
            f"a {kind} does not show the states of its {modality} tower; take another model, "
            "or, for a matcher, train the head 'pair' alone"
        )
    for module in rest:
        features = module(features)
    if states.ndim == 4:  # a convolutional grid: (batch, width, rows, columns)
        states = states.flatten(2).transpose(1, 2)
    return HiddenStates(functional.normalize(features[EMBEDDING].float(), dim=-1), states.float())


class StoredHiddenStates:
    """Vectors and states of many pictures or texts on disk, written once and memory-mapped.

    States are kept in half precision, cut to `length` places or padded with zeros: 0.1 MB for a picture of 36 patches.
    With `length` 0 only the vectors are kept.
    """

    def __init__(self, folder: Path, items: int, dim: int, length: int = 0, width: int = 0) -> None:
        self._vectors = VectorFile(folder / "vectors", (items, dim))
        self._states = VectorFile(folder / "states", (items, length, width), "float16") if length else None
        self.length = length

    def write(
        self,
        model: DualEncoder,
        items: Sequence[Any],
        prepare: Callable[[Sequence[Any]], dict[str, Any]],
        *,
        progress: Progress = silent,
        label: str,
    ) -> None:
        """Embed what is not yet written."""
        if self._states is None:
            write_vectors(self._vectors, items, prepare, partial(_vectors_of, model), progress=progress, label=label)
            return
        self._vectors.done = self._states.done  # a kill between the two leaves one batch too many there

        @torch.inference_mode()
        def forward(features: dict[str, Any]) -> np.ndarray:
            batch = compute_hidden_states(model, features)
            self._vectors.append(batch.vectors.cpu().numpy())
            states = batch.states[:, : self.length].cpu().numpy().astype(np.float16)
            return np.pad(states, ((0, 0), (0, self.length - states.shape[1]), (0, 0)))

        write_vectors(self._states, items, prepare, forward, progress=progress, label=label)

    @property
    def vectors(self) -> np.ndarray:
        """(items, dim) float32."""
        return self._vectors.read()

    def take(self, rows: np.ndarray) -> HiddenStates:
        """The items at `rows`, in that order, in memory; texts without the places that all of them pad."""
        vectors = torch.from_numpy(self.vectors[rows])
        if self._states is None:
            return HiddenStates(vectors, vectors.new_zeros(len(rows), 0, 0))
        states = torch.from_numpy(self._states.read()[rows].astype(np.float32))
        used = int(states.ne(0).any(-1).sum(-1).max())
        return HiddenStates(vectors, states[:, :used])


@torch.inference_mode()
def _vectors_of(model: DualEncoder, features: dict[str, Any]) -> np.ndarray:
    return model.embed(features).cpu().numpy()
