"""from_pretrained, save_pretrained and push_to_hub of the four models, and the embedding calls of a dual encoder."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import diptych
from diptych.errors import ConfigError, ModelError
from diptych.models.hidden_states import compute_hidden_states
from diptych.models.model_upload import upload_model, uploaded_files
from tests.export.test_hub import files_of, hub  # noqa: F401 - a fixture
from tests.hub_server import Hub
from tests.model_directories import (
    make_blip_itm,
    make_dual,
    make_graphs,
    make_matcher,
    make_prompter,
    make_vit_gpt2,
)

TEXTS = ["a red circle", "sun", "two small blue squares left of a tree"]


def make_images(count: int = 3) -> list[Image.Image]:
    random = np.random.default_rng(0)
    return [Image.fromarray(random.integers(0, 256, (40 + n, 50, 3), dtype=np.uint8)) for n in range(count)]


def make_captioner(folder: Path) -> Path:
    """A dual encoder with a decoder that fits its image tower."""
    from diptych.captioning.decoder import CaptionDecoder
    from diptych.captioning.grid_captioner import GridCaptionModel, save_captioner
    from diptych.captioning.vocabulary import Words

    encoder = diptych.DualEncoder.from_pretrained(make_dual(folder), device="cpu")
    states = compute_hidden_states(encoder, encoder.preprocess_images(make_images(1))).states  # (1, places, width)
    settings = {"places": states.shape[1], "image_width": states.shape[2], "vector_dim": 16, "dim": 16, "layers": 1}
    words = Words(["a", "dog", "on", "grass"])
    decoder = CaptionDecoder(len(words), **settings)
    save_captioner(GridCaptionModel(encoder, decoder, words, settings, {"length_penalty": 0.5}), folder)
    return folder


def make_whole_captioner(folder: Path) -> Path:
    make_vit_gpt2(folder)
    return folder


def embeddings(model: diptych.DualEncoder) -> np.ndarray:
    return np.concatenate([model.encode_images(make_images()), model.encode_texts(TEXTS)])


def probabilities(model: diptych.Matcher) -> np.ndarray:
    return model.predict(make_images(), TEXTS)


def scores(model: diptych.Captioner) -> np.ndarray:
    return np.array([group[0].score for group in model.caption(make_images(), max_tokens=5)])


def predictions(model: diptych.Prompter) -> np.ndarray:
    return model.predict(make_images())


# kind of model: (class, maker of a directory, its output)
KINDS: dict[str, tuple[Any, Callable[[Path], Path], Callable[[Any], np.ndarray]]] = {
    "dual encoder": (diptych.DualEncoder, make_dual, embeddings),
    "exported dual encoder": (diptych.DualEncoder, lambda folder: make_graphs(folder, "onnx"), embeddings),
    "matcher": (diptych.Matcher, make_matcher, probabilities),
    "BLIP matcher": (diptych.Matcher, make_blip_itm, probabilities),
    "captioner": (diptych.Captioner, make_captioner, scores),
    "ViT-GPT2": (diptych.Captioner, make_whole_captioner, scores),
    "prompter": (diptych.Prompter, make_prompter, predictions),
}


@pytest.mark.parametrize("kind", KINDS)
def test_what_save_pretrained_writes_from_pretrained_reads_with_the_same_output(kind: str, tmp_path: Path) -> None:
    cls, make, output = KINDS[kind]
    model = cls.from_pretrained(make(tmp_path / "model"), device="cpu")
    assert type(model) is cls
    model.save_pretrained(tmp_path / "copy")
    assert not [*(tmp_path / "copy").rglob("*.bin")]
    copy = cls.from_pretrained(str(tmp_path / "copy"), device="cpu")
    np.testing.assert_allclose(output(copy), output(model), atol=1e-6)


@pytest.mark.parametrize("kind", ["dual encoder", "matcher", "captioner", "prompter"])
def test_what_push_to_hub_uploads_from_pretrained_fetches_by_its_name(kind: str, hub: Hub, tmp_path: Path) -> None:  # noqa: F811
    cls, make, output = KINDS[kind]
    model = cls.from_pretrained(make(tmp_path / "model"), device="cpu")
    address = model.push_to_hub("somebody/tiny", licence="mit", commit_message="first")
    assert address == f"{hub.url}/somebody/tiny"
    files = files_of(hub, "somebody/tiny")
    assert b"license: mit" in files["README.md"]
    assert {Path(name).suffix for name in files} <= {".json", ".safetensors", ".txt", ".md", ".gitattributes", ""}
    np.testing.assert_allclose(output(cls.from_pretrained("somebody/tiny", device="cpu")), output(model), atol=1e-6)


def test_a_push_without_a_licence_is_refused_before_a_request(hub: Hub, tmp_path: Path) -> None:  # noqa: F811
    model = diptych.DualEncoder.from_pretrained(make_dual(tmp_path), device="cpu")
    with pytest.raises(ModelError, match="would have no licence"):
        model.push_to_hub("somebody/tiny")
    assert "somebody/tiny" not in hub.repositories


def test_a_push_without_a_login_says_how_to_log_in(
    hub: Hub,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_wrong")
    model = diptych.DualEncoder.from_pretrained(make_dual(tmp_path), device="cpu")
    with pytest.raises(ModelError, match="hf auth login"):
        model.push_to_hub("somebody/tiny", licence="mit")


def test_a_saved_model_keeps_its_model_card_and_metadata(tmp_path: Path) -> None:
    make_dual(tmp_path / "model")
    metadata = json.loads((tmp_path / "model" / "diptych.json").read_text())
    metadata |= {"cutoff": {"bias": -5.0}, "matcher": {"cosine": {}}, "kind": "matcher", "logit_scale": 7.5}
    (tmp_path / "model" / "diptych.json").write_text(json.dumps(metadata))
    (tmp_path / "model" / "README.md").write_text("---\nlicense: mit\n---\nmine\n")
    diptych.DualEncoder.from_pretrained(tmp_path / "model", device="cpu").save_pretrained(tmp_path / "copy")
    copied = json.loads((tmp_path / "copy" / "diptych.json").read_text())
    assert copied == {"kind": "dual", "logit_scale": 7.5, "logit_bias": 0.0, "cutoff": {"bias": -5.0}}
    assert (tmp_path / "copy" / "README.md").read_text() == "---\nlicense: mit\n---\nmine\n"


def test_code_pickles_and_hidden_files_are_not_uploaded(tmp_path: Path) -> None:
    for name in ("model.safetensors", "README.md", "a.py", "x.bin", "graph.bin", ".secret", "half.tmp", "sub/b.json"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("")
    names = [file.relative_to(tmp_path).as_posix() for file in uploaded_files(tmp_path)]
    assert names == ["README.md", "graph.bin", "model.safetensors", "sub/b.json"]


def test_a_model_that_saves_a_pickle_is_not_uploaded() -> None:
    def save(folder: Path) -> None:
        folder.mkdir()
        (folder / "config.json").write_text("{}")
        torch.save({}, folder / "pytorch_model.bin")

    with pytest.raises(ModelError, match="pickle"):
        upload_model(save, "somebody/tiny", licence="mit")


# embedding


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> diptych.DualEncoder:
    return diptych.DualEncoder.from_pretrained(make_dual(tmp_path_factory.mktemp("dual")), device="cpu")


def test_one_image_and_one_text_are_the_rows_of_several(model: diptych.DualEncoder) -> None:
    first, text = make_images()[0], TEXTS[2]
    assert model.encode_image(first).shape == model.encode_text(text).shape == (16,)
    np.testing.assert_allclose(model.encode_image(first), model.encode_images(make_images())[0], atol=1e-5)
    np.testing.assert_allclose(model.encode_text(text), model.encode_texts(TEXTS)[2], atol=1e-5)


def test_embeddings_come_as_numpy_or_as_a_tensor_of_the_models_device(model: diptych.DualEncoder) -> None:
    for array, tensor in (
        (model.encode_images(make_images()), model.encode_images(make_images(), convert_to="tensor")),
        (model.encode_texts(TEXTS), model.encode_texts(TEXTS, convert_to="tensor")),
        (model.encode_text("sun"), model.encode_text("sun", convert_to="tensor")),
        (model.encode_images([]), model.encode_images([], convert_to="tensor")),
        (model.encode_texts([]), model.encode_texts([], convert_to="tensor")),
    ):
        assert array.dtype == np.float32
        assert tensor.dtype == torch.float32
        assert tensor.device == model.device
        np.testing.assert_array_equal(tensor.numpy(), array)
    with pytest.raises(ConfigError, match="must be 'numpy' or 'tensor'"):
        model.encode_texts(TEXTS, convert_to="list")  # type: ignore[call-overload]


def test_a_progress_bar_is_shown_on_stderr_when_asked_for(model, capsys: pytest.CaptureFixture[str]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # tqdm's own, in an environment without widgets
        quiet = model.encode_images(make_images(), batch_size=1)
        assert capsys.readouterr().err == ""
        embeddings = model.encode_images(make_images(), batch_size=1, show_progress=True)
    assert "3/3" in capsys.readouterr().err
    np.testing.assert_array_equal(embeddings, quiet)


def test_a_batch_size_below_one_is_refused(model: diptych.DualEncoder) -> None:
    for call in (
        lambda: model.encode_images(make_images(), batch_size=0),
        lambda: model.encode_texts(TEXTS, batch_size=0),
    ):
        with pytest.raises(ConfigError, match="batch_size is 0"):
            call()


def test_similarity_of_embeddings_is_their_cosine(model: diptych.DualEncoder) -> None:
    x, y = np.eye(16, dtype=np.float32)[:2]
    images = np.stack([3 * x, 3 * x + 4 * y, 0 * x])
    expected = [[1.0, 0.0], [0.6, 0.8], [0.0, 0.0]]  # (3, 4) has the length 5
    np.testing.assert_allclose(model.similarity(images, np.stack([x, 2 * y])), expected, atol=1e-6)
    tensors = torch.from_numpy(images), torch.from_numpy(np.stack([x, 2 * y]))
    np.testing.assert_allclose(model.similarity(*tensors), expected, atol=1e-6)
    np.testing.assert_allclose(model.similarity(3 * x + 4 * y, y), [[0.8]], atol=1e-6)


def test_similarity_embeds_images_and_texts_itself(model: diptych.DualEncoder) -> None:
    images, texts = model.encode_images(make_images()), model.encode_texts(TEXTS)
    expected = images @ texts.T
    assert expected.shape == (3, 3)
    for first, second in ((make_images(), TEXTS), (images, TEXTS), (make_images(), texts)):
        np.testing.assert_allclose(model.similarity(first, second), expected, atol=1e-5)
    np.testing.assert_allclose(model.similarity(make_images()[0], "sun"), expected[:1, 1:2], atol=1e-5)


def test_embeddings_of_another_dimension_are_refused(model: diptych.DualEncoder) -> None:
    with pytest.raises(ConfigError, match=r"text embeddings have the shape \(2, 3\); it must be \(items, 16\)"):
        model.similarity(make_images(), np.zeros((2, 3), np.float32))
