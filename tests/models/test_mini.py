"""The model in the box."""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pytest
import torch
from safetensors import safe_open

import diptych
from diptych.data.samples import photographs
from diptych.models import checkpoints
from diptych.models.embedding_cache import dataset_image_embeddings
from diptych.models.truncation import TextCutWarning
from diptych.models.unknown_words import UnknownWordsWarning

MINI = checkpoints.BUNDLED / "mini"


@pytest.fixture(scope="module")
def mini():
    return diptych.load("mini", device="cpu")


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    pytest.importorskip("skimage")
    return photographs.photographs(tmp_path_factory.mktemp("photographs"))


def test_the_shipped_model_is_small_and_in_half_precision():
    files = [file for file in MINI.rglob("*") if file.is_file()]
    others = ("matcher", "captioner", "prompter")  # what stands on the dual encoder
    assert sum(file.stat().st_size for file in files if not file.name.startswith(others)) <= 32_000_000
    assert sum(file.stat().st_size for file in files) <= 50_000_000
    for file in MINI.rglob("*.safetensors"):
        with safe_open(file, framework="pt") as weights:
            kinds = {weights.get_tensor(name).dtype for name in weights.keys()}  # noqa: SIM118 - not a dict
        assert kinds <= {torch.float16, torch.int64}, file


def test_its_card_says_what_it_learnt_from_and_under_which_terms():
    card = (MINI / "README.md").read_text("utf-8")
    for needed in ("license: apache-2.0", "Flickr8k", "ImageNet", "MiniLM", "Limitations", "research"):
        assert needed in card


def test_plain_sentence_transformers_gives_the_same_vectors_without_diptych_or_a_network(mini, photos, tmp_path):
    texts = ["a cat", "two dogs run through the snow", ""]
    script = tmp_path / "plain.py"
    script.write_text(
        "import sys, json, socket\n"
        "def refuse(*_): raise OSError('no network in this test')\n"
        "socket.socket.connect = refuse\n"
        "from PIL import Image\nfrom sentence_transformers import SentenceTransformer\nimport numpy as np\n"
        "path, out, *pictures = sys.argv[1:]\n"
        "model = SentenceTransformer(path, device='cpu')\n"
        f"texts = model.encode({texts!r})\n"
        "images = model.encode([Image.open(p).convert('RGB') for p in pictures])\n"
        "assert 'diptych' not in sys.modules\n"
        "np.savez(out, texts=texts, images=images)\n",
        "utf-8",
    )
    images = [row.image for row in photos][:2]
    out = tmp_path / "vectors.npz"
    subprocess.run([sys.executable, str(script), str(MINI), str(out), *map(str, images)], check=True, timeout=120)
    plain = np.load(out)
    ours = mini.encode_images([diptych.images.decode.decode(p) for p in images])
    assert np.abs(plain["images"] - ours).max() < 1e-5
    assert np.abs(plain["texts"] - mini.encode_texts(texts)).max() < 1e-5


def test_it_sees_the_whole_picture_squashed_to_a_square(mini):
    assert mini.image_size == 224
    for config in MINI.rglob("config.json"):
        settings = json.loads(config.read_text("utf-8"))
        if "pretrained_cfg" in settings:
            assert settings["pretrained_cfg"]["crop_mode"] == "squash"
            return
    raise AssertionError("no image tower")


def test_most_sample_photographs_come_first_for_their_query(mini, photos):
    vectors = dataset_image_embeddings(mini, photos, cache=False)
    queries = photographs.QUERIES
    first = [name for name in photos.image_ids if name in queries]
    texts = mini.encode_texts([queries[name] for name in first])
    best = [photos.image_ids[index] for index in (texts @ vectors.T).argmax(axis=1)]
    hits = sum(path == name for path, name in zip(best, first, strict=True))
    assert hits >= 12, [(n, b) for n, b in zip(first, best, strict=True) if n != b]


def test_long_and_foreign_and_empty_texts_are_what_its_card_says(mini):
    with pytest.warns(TextCutWarning):
        cut, longer = mini.encode_texts(["a dog " * 40, "a dog " * 50])
    np.testing.assert_array_equal(cut, longer)
    with pytest.warns(UnknownWordsWarning):
        emoji, script, other = mini.encode_texts(["🐕", "犬", "кот"])
    np.testing.assert_allclose(emoji, script, atol=1e-6)
    np.testing.assert_allclose(emoji, other, atol=1e-6)
    assert np.isfinite(mini.encode_texts([""])).all()
