"""Weights that were saved under earlier parameter names load into the current modules."""

from __future__ import annotations

import re
from collections.abc import Sequence

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from diptych.captioning.decoder import CaptionDecoder
from diptych.captioning.grid_captioner import WEIGHTS as CAPTIONER_WEIGHTS
from diptych.matching.heads import CrossHead, PairHead
from diptych.matching.storage import WEIGHTS as MATCHER_WEIGHTS
from diptych.models.checkpoints import BUNDLED
from diptych.models.hidden_states import HiddenStates
from diptych.models.key_map import load_renamed, renamed_keys

# (current name, name before 0.1): the key map turned round by hand.
DECODER = (
    (r"image_projection\.patch_proj\.(.*)", r"picture.patches.\1"),
    (r"image_projection\.embedding_proj\.(.*)", r"picture.vector.\1"),
    (r"image_projection\.positions", r"picture.places"),
    (r"image_projection\.norm\.(.*)", r"picture.norm.\1"),
    (r"(.*)\.norm1\.(.*)", r"\1.own_norm.\2"),
    (r"(image_layers\.\d+)\.norm2\.(.*)", r"\1.last_norm.\2"),
    (r"(layers\.\d+)\.norm2\.(.*)", r"\1.cross_norm.\2"),
    (r"(layers\.\d+)\.norm3\.(.*)", r"\1.last_norm.\2"),
    (r"(.*)\.mlp\.fc1\.(.*)", r"\1.wide.\2"),
    (r"(.*)\.mlp\.fc2\.(.*)", r"\1.narrow.\2"),
    (r"(.*)\.self_attn\.(.*)", r"\1.own.\2"),
    (r"(.*)\.cross_attn\.(.*)", r"\1.cross.\2"),
    (r"(.*)\.q_proj\.(.*)", r"\1.ask.\2"),
    (r"(.*)\.out_proj\.(.*)", r"\1.out.\2"),
)
HEAD = (
    (r"mlp\.(.*)", r"body.\1"),
    (r"(sides\.\w+)\.proj\.(.*)", r"\1.project.\2"),
    (r"(sides\.\w+)\.weight_proj\.(.*)", r"\1.weigh.\2"),
    (r"(sides\.\w+)\.conv\.(.*)", r"\1.context.\2"),
)


def decoder(seed: int) -> CaptionDecoder:
    torch.manual_seed(seed)
    return CaptionDecoder(20, 4, 6, 5, dim=16, layers=2, image_layers=1, heads=2, max_tokens=12).eval()


def old_weights(module: nn.Module, names: Sequence[tuple[str, str]]) -> dict[str, Tensor]:
    """The module's weights as the code before 0.1 saved them: keys and values were one layer, `tell`."""
    weights = renamed_keys(module.state_dict(), names)
    for key in [key for key in weights if ".k_proj." in key]:
        both = weights.pop(key), weights.pop(key.replace("k_proj", "v_proj"))
        weights[key.replace("k_proj", "tell")] = torch.cat(both)
    return weights


def test_a_decoder_saved_under_the_old_names_gives_the_same_logits() -> None:
    saved, loaded = decoder(0), decoder(1)
    old = old_weights(saved, DECODER)
    assert {"layers.1.own.tell.weight", "layers.0.cross.ask.bias", "image_layers.0.last_norm.weight"} <= set(old)
    assert not [key for key in old if re.search(r"_proj|_attn|mlp|norm\d", key)]
    loaded.load_state_dict(old)
    states, words = HiddenStates(torch.randn(2, 5), torch.randn(2, 4, 6)), torch.tensor([[1, 5, 6], [1, 7, 8]])
    with torch.inference_mode():
        torch.testing.assert_close(loaded(loaded.encode(states), words), saved(saved.encode(states), words))


@pytest.mark.parametrize("kind", [lambda: PairHead(8, hidden=16), lambda: CrossHead(16, 12, dim=8)])
def test_a_matching_head_saved_under_the_old_names_has_the_same_weights(kind) -> None:
    torch.manual_seed(0)
    saved, loaded = kind(), kind()
    for weight in (*saved.parameters(), *loaded.parameters()):
        torch.nn.init.normal_(weight) if weight.ndim else weight.data.normal_()
    old = old_weights(saved, HEAD)
    assert set(old) != set(saved.state_dict())
    loaded.load_state_dict(old)
    for name, weight in saved.state_dict().items():
        torch.testing.assert_close(loaded.state_dict()[name], weight)


def test_weights_under_the_current_names_load_as_they_are() -> None:
    saved, loaded = decoder(0), decoder(1)
    loaded.load_state_dict(saved.state_dict())
    for name, weight in saved.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], weight)


def test_a_key_that_neither_the_module_nor_the_map_knows_is_an_error() -> None:
    loaded = decoder(1)
    with pytest.raises(RuntimeError, match="unknown"):
        loaded.load_state_dict({**loaded.state_dict(), "unknown": torch.zeros(1)})


def test_a_renamed_module_inside_another_finds_its_own_keys() -> None:
    inner = nn.Linear(2, 2)
    load_renamed(inner, [(r"old_weight", r"weight")])
    outer = nn.ModuleDict({"inner": inner, "other": nn.Linear(2, 2)})
    state = {
        f"inner.{'old_weight' if name == 'weight' else name}": tensor for name, tensor in inner.state_dict().items()
    }
    state |= {f"other.{name}": tensor for name, tensor in outer["other"].state_dict().items()}
    assert "inner.old_weight" in state
    outer.load_state_dict(state)


def test_a_parameter_that_became_two_is_cut_in_equal_parts() -> None:
    module = nn.ModuleDict({"k": nn.Linear(1, 2, bias=False), "v": nn.Linear(1, 2, bias=False)})
    load_renamed(module, [(r"both\.(.*)", r"kv.\1")], split={"kv": ("k", "v")})
    module.load_state_dict({"both.weight": torch.tensor([[1.0], [2.0], [3.0], [4.0]])})
    assert module["k"].weight.flatten().tolist() == [1.0, 2.0]
    assert module["v"].weight.flatten().tolist() == [3.0, 4.0]


def test_the_bundled_model_still_has_its_old_names_and_loads() -> None:
    """The files that diptych ships were not rewritten, so this test runs the key map on real weights."""
    weights = load_file(BUNDLED / "mini" / CAPTIONER_WEIGHTS)
    assert "layers.0.cross.tell.weight" in weights
    heads = load_file(BUNDLED / "mini" / MATCHER_WEIGHTS)
    assert "cross.sides.text.weigh.weight" in heads
    head = CrossHead(1280, 384)
    head.load_state_dict(
        {key.removeprefix("cross."): value for key, value in heads.items() if key.startswith("cross.")}
    )
    torch.testing.assert_close(head.sides["text"].weight_proj.weight, heads["cross.sides.text.weigh.weight"].float())
