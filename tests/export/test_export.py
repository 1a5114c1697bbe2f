"""Exported models: they give the original embeddings, every command loads them, and a wrong graph is refused."""

from __future__ import annotations

import importlib.metadata
import json
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from huggingface_hub.utils import filter_repo_objects
from PIL import Image

pytest.importorskip("onnxscript")
pytest.importorskip("onnxruntime")

import diptych
from diptych.captioning.decoder import CaptionDecoder
from diptych.captioning.graph_captioner import load_graph_model
from diptych.captioning.grid_captioner import GridCaptionModel, save_captioner
from diptych.captioning.vocabulary import Words
from diptych.cli import main
from diptych.data.formats.read import read_pairs
from diptych.data.pairs import Pairs
from diptych.errors import ConfigError, DataError, ModelError
from diptych.export.exporter import Export, export_model
from diptych.export.parity import Parity, Tolerance, check_parity
from diptych.images.decode import decode
from diptych.models.checkpoints import FETCHED
from diptych.models.hidden_states import compute_hidden_states
from diptych.models.onnx.engines import open_onnx
from diptych.models.onnx.exported_tower import ExportedTower
from diptych.models.onnx.graphs import traced_as
from tests.models.test_families import save_clip

pytestmark = pytest.mark.timeout(900)  # tracing a network takes seconds each, and more on a busy machine

TEXTS = ["a red circle", "Two small blue squares left of a tree", "sun", ""]
FORMS = [("onnx", "fp32"), ("onnx", "int8"), ("openvino", "fp32"), ("openvino", "int8")]
# A tiny network with random weights is further off in eight bits than a trained one.
LOOSE = Tolerance(min_cosine=0.5, mean_cosine=0.8, largest_difference=1.0)


@pytest.fixture(scope="module")
def pairs(scenes: Path) -> Pairs:
    return read_pairs(scenes)[:12]


@pytest.fixture(scope="module")
def trained(scenes: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A convolutional image tower, a text transformer, a captioner, and other entries of `diptych.json`."""
    captions = [caption for row in read_pairs(scenes) for caption in row.captions]
    torch.manual_seed(0)  # with some weights it writes one caption for all pictures
    model = diptych.build(
        "timm/test_resnet",
        "distilbert",
        pretrained=False,
        text_arguments={"dim": 32, "n_layers": 1, "n_heads": 2, "hidden_dim": 64},
        image_size=32,
        dim=16,
        captions=captions,
        device="cpu",
    )
    folder = tmp_path_factory.mktemp("trained")
    model.save(folder, {"cutoff": {"bias": 1.0}, "matcher": {"pair": {}}}, "# A card\n")
    save_captioner(captioner(model), folder)
    return folder


def captioner(model: diptych.DualEncoder) -> GridCaptionModel:
    torch.manual_seed(1)
    with torch.inference_mode():
        seen = compute_hidden_states(model, model.preprocess_images([Image.new("RGB", (40, 40))]))
    words = Words(["a", "red", "blue", "circle", "square", "'s", "on", "the", "sea"])
    settings = {"places": seen.states.shape[1], "image_width": seen.states.shape[2], "vector_dim": 16}
    settings |= {"dim": 16, "layers": 2, "heads": 2, "max_tokens": 12}
    decoder = CaptionDecoder(len(words), **settings)
    for weight in decoder.parameters():  # the usual random weights give nearly equal logits
        if weight.ndim > 1:
            torch.nn.init.normal_(weight, std=0.6)
    return GridCaptionModel(model, decoder, words, settings, {"length_penalty": 0.9})


def close(exported: Path, original: Path, pairs: Pairs, atol: float) -> None:
    before, after = diptych.load(original, "cpu"), diptych.load(exported, "cpu")
    images = [decode(row.image) for row in pairs]
    np.testing.assert_allclose(after.encode_images(images), before.encode_images(images), atol=atol)
    np.testing.assert_allclose(after.encode_texts(TEXTS), before.encode_texts(TEXTS), atol=atol)
    assert (after.dim, after.image_size) == (before.dim, before.image_size)
    assert (after.logit_scale, after.logit_bias) == (before.logit_scale, before.logit_bias)


@pytest.fixture(scope="module")
def exports(trained: Path, pairs: Pairs, tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, str], Export]:
    out = tmp_path_factory.mktemp("exports")
    done = {}
    for engine, precision in FORMS:
        if engine == "openvino":
            pytest.importorskip("openvino")
        tolerance = LOOSE if precision == "int8" else None
        done[engine, precision] = export_model(
            trained, out / f"{engine}-{precision}", data=pairs, engine=engine, precision=precision, tolerance=tolerance
        )
    return done


@pytest.mark.parametrize("engine", ["onnx", "openvino"])
def test_an_fp32_graph_gives_the_embeddings_of_the_model(
    engine: str, exports: dict[tuple[str, str], Export], trained: Path, pairs: Pairs
) -> None:
    done = exports[engine, "fp32"]
    close(done.out, trained, pairs, atol=1e-4)
    assert [graph.name for graph in done.graphs] == ["image", "text", "captioner"]
    assert all(tower.min_cosine > 0.9999 and tower.rate_after > 0 for tower in done.graphs)
    assert done.graphs[0].checked == len(pairs)


@pytest.mark.parametrize("engine", ["onnx", "openvino"])
def test_int8_is_close_and_smaller_and_is_checked_on_images_that_did_not_calibrate_it(
    engine: str, exports: dict[tuple[str, str], Export], pairs: Pairs
) -> None:
    whole, small = exports[engine, "fp32"], exports[engine, "int8"]
    assert all(0.8 < tower.mean_cosine < 0.9999999 for tower in small.graphs)
    assert small.graphs[0].checked == len(pairs) / 2
    assert weights(small.out) < 0.5 * weights(whole.out)


def weights(folder: Path) -> int:
    """The bytes of the image tower's graph; OpenVINO's description of it does not count."""
    return sum(file.stat().st_size for file in folder.glob("image*/graph.*") if file.suffix != ".xml")


def test_commands_accept_an_exported_model(
    exports: dict[tuple[str, str], Export], scenes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = exports["onnx", "fp32"].out
    with pytest.raises(SystemExit) as ended:
        main(
            ["find", str(out), "a red circle", "--data", str(scenes), "-k", "3", "--grid", str(tmp_path / "found.png")]
        )
    assert not ended.value.code
    assert "scene-0-" in capsys.readouterr().out


def test_it_keeps_the_metadata_except_that_of_heads_which_are_not_exported(
    exports: dict[tuple[str, str], Export], trained: Path
) -> None:
    out = exports["openvino", "int8"].out
    metadata = json.loads((out / "diptych.json").read_text())
    assert metadata["cutoff"] == {"bias": 1.0}
    assert "matcher" not in metadata
    assert metadata["captioner"]["graphs"]["engine"] == "openvino"
    assert metadata["exported"]["of"] == diptych.load(trained, "cpu").fingerprint()
    readme = (out / "README.md").read_text()
    assert readme.startswith("# A card")
    assert "| image | 6 |" in readme


def test_it_has_its_own_identity_which_saving_preserves(
    exports: dict[tuple[str, str], Export], trained: Path, tmp_path: Path
) -> None:
    model = diptych.load(exports["onnx", "int8"].out, "cpu")
    assert model.fingerprint() != diptych.load(trained, "cpu").fingerprint()
    model.save(tmp_path)
    again = diptych.load(tmp_path, "cpu")
    assert again.fingerprint() == model.fingerprint()
    np.testing.assert_array_equal(again.encode_texts(TEXTS), model.encode_texts(TEXTS))


@pytest.mark.parametrize("engine", ["onnx", "openvino"])
def test_threads_can_embed_concurrently(engine: str, exports: dict[tuple[str, str], Export]) -> None:
    model = diptych.load(exports[engine, "fp32"].out, "cpu")
    alone = [model.encode_texts([text]) for text in TEXTS[:3]]
    with ThreadPoolExecutor(3) as pool:
        together = list(pool.map(lambda text: model.encode_texts([text]), TEXTS[:3] * 5))
    for i, embedding in enumerate(together):
        np.testing.assert_allclose(embedding, alone[i % 3], atol=1e-6)


def test_a_graph_that_was_changed_after_the_check_is_refused(
    exports: dict[tuple[str, str], Export], tmp_path: Path
) -> None:
    shutil.copytree(exports["onnx", "fp32"].out, tmp_path / "changed")
    graph = next((tmp_path / "changed").glob("image*/graph.onnx"))
    graph.write_bytes(graph.read_bytes() + b"\0")
    with pytest.raises(ModelError, match=r"graph.onnx.*export it again"):
        diptych.load(tmp_path / "changed", "cpu")


@pytest.mark.parametrize("engine", ["onnx", "openvino"])
@pytest.mark.parametrize(
    "settings", [{"method": "beam", "count": 3}, {"method": "greedy"}, {"method": "nucleus", "seed": 3}]
)
def test_an_exported_captioner_writes_the_same_captions(
    engine: str, settings: dict[str, Any], exports: dict[tuple[str, str], Export], trained: Path, pairs: Pairs
) -> None:
    images = [decode(row.image) for row in pairs][:5]
    before = diptych.load_captioner(trained, "cpu").caption(images, prefix="a", batch_size=3, **settings)
    after = diptych.load_captioner(exports[engine, "fp32"].out, "cpu").caption(
        images, prefix="a", batch_size=3, **settings
    )
    assert [[c.text for c in captions] for captions in after] == [[c.text for c in captions] for captions in before]
    scores = [[c.score for captions in results for c in captions] for results in (before, after)]
    assert scores[1] == pytest.approx(scores[0], abs=1e-3)
    assert len({captions[0].text for captions in before}) > 1


def test_a_captioners_graph_that_was_changed_is_refused(exports: dict[tuple[str, str], Export], tmp_path: Path) -> None:
    shutil.copytree(exports["onnx", "int8"].out, tmp_path / "changed")
    graph = tmp_path / "changed" / "captioner" / "step" / "graph.onnx"
    graph.write_bytes(graph.read_bytes() + b"\0")
    with pytest.raises(ModelError, match="export it again"):
        diptych.load_captioner(tmp_path / "changed", "cpu")


def test_the_hub_fetches_every_file_of_an_exported_model(exports: dict[tuple[str, str], Export]) -> None:
    for done in exports.values():
        files = [file.relative_to(done.out).as_posix() for file in done.out.rglob("*") if file.is_file()]
        fetched = filter_repo_objects(files, allow_patterns=list(FETCHED))
        assert set(files) - set(fetched) == {"README.md"}


def test_it_has_no_hidden_states_and_cannot_be_exported_again(
    exports: dict[tuple[str, str], Export], pairs: Pairs, tmp_path: Path
) -> None:
    from diptych.models.hidden_states import compute_hidden_states

    out = exports["onnx", "fp32"].out
    model = diptych.load(out, "cpu")
    assert isinstance(model.route("image")[0], ExportedTower)
    with pytest.raises(ModelError):
        compute_hidden_states(model, model.preprocess_images([decode(pairs[0].image)]))
    with pytest.raises(ModelError, match="already an exported model"):
        export_model(out, tmp_path / "again", data=pairs)


def test_a_whole_clip_becomes_two_graphs(pairs: Pairs, tmp_path: Path) -> None:
    (tmp_path / "clip").mkdir()
    save_clip(tmp_path / "clip")
    export_model(tmp_path / "clip", tmp_path / "out", data=pairs)
    close(tmp_path / "out", tmp_path / "clip", pairs, atol=1e-4)


def test_an_open_clip_model_can_be_exported(pairs: Pairs, tmp_path: Path) -> None:
    pytest.importorskip("open_clip")
    from tests.models.test_open_clip import ARCHITECTURES, save

    (tmp_path / "mobileclip").mkdir()
    save(tmp_path / "mobileclip", ARCHITECTURES["mobileclip"])
    export_model(tmp_path / "mobileclip", tmp_path / "out", data=pairs)
    close(tmp_path / "out", tmp_path / "mobileclip", pairs, atol=1e-4)


def parity(least: float, mean: float, difference: float) -> Parity:
    return Parity("image", 10, least, mean, difference, 1.0, 2.0)


@pytest.mark.parametrize(
    "off",
    [parity(0.98, 0.999, 0.01), parity(0.995, 0.99, 0.01), parity(0.999, 0.999, 0.2), parity(*[float("nan")] * 3)],
)
def test_a_graph_outside_any_limit_is_refused_with_the_numbers(off: Parity) -> None:
    tolerance = Tolerance(min_cosine=0.99, mean_cosine=0.995, largest_difference=0.1)
    check_parity(parity(0.99, 0.995, 0.1), tolerance)
    with pytest.raises(ModelError, match=r"minimum cosine .*limit 0.99\).*limit 0.995\).*limit 0.1\)"):
        check_parity(off, tolerance)


def test_a_failed_check_leaves_nothing_behind(
    trained: Path, pairs: Pairs, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--precision", "int8", "--least-cosine", "0.9999999", "--data", str(pairs[0].image.parent.parent)]
    with pytest.raises(SystemExit) as ended:
        main(["export", "onnx", str(trained), "--out", str(tmp_path / "out"), *arguments])
    assert ended.value.code == 1
    assert "does not reproduce the model's embeddings" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_invalid_arguments_are_refused_before_any_work(trained: Path, pairs: Pairs, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="did you mean 'onnx'"):
        export_model(trained, tmp_path / "out", data=pairs, engine="onxx")
    with pytest.raises(ConfigError, match="valid: fp32, int8"):
        export_model(trained, tmp_path / "out", data=pairs, precision="fp4")
    with pytest.raises(ConfigError, match="exists already"):
        export_model(trained, tmp_path, data=pairs)
    with pytest.raises(DataError, match="at least 4"):
        export_model(trained, tmp_path / "out", data=pairs[:3])


@pytest.mark.parametrize(
    "metadata", [[], {}, {"captioner": []}, {"captioner": {"settings": {}, "graphs": {"sha256": 3}}}]
)
def test_damaged_metadata_of_an_exported_captioner_raises_a_model_error(tmp_path: Path, metadata: Any) -> None:
    (tmp_path / "modules.json").write_text("[]")
    (tmp_path / "model.safetensors").touch()
    (tmp_path / "diptych.json").write_text(json.dumps(metadata))
    with pytest.raises(ModelError, match=r"cannot load the captioner|diptych.json' is damaged"):
        load_graph_model(tmp_path, "cpu")


class Difference(torch.nn.Module):
    def forward(self, *tensors: torch.Tensor) -> torch.Tensor:
        return tensors[0] - tensors[1]


def test_a_cached_graph_is_not_reused_for_other_inputs_or_by_another_version(monkeypatch: pytest.MonkeyPatch) -> None:
    left, right = torch.ones(2, 3), torch.ones(2, 3)
    first = traced_as("difference", Difference(), {"left": left, "right": right})
    assert traced_as("difference", Difference(), {"left": left, "right": right}) == first
    other = traced_as("difference", Difference(), {"right": right, "left": left})
    inputs = {"left": left.numpy() * 5, "right": right.numpy()}
    for graph, answer in ((first, 4.0), (other, -4.0)):
        np.testing.assert_array_equal(open_onnx(graph)(inputs), answer)
    real = importlib.metadata.version
    monkeypatch.setattr("importlib.metadata.version", lambda name: "0.0.1" if name == "diptych" else real(name))
    assert traced_as("difference", Difference(), {"left": left, "right": right}) != first
