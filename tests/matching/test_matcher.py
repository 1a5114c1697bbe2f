from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch.nn import functional

from diptych.data.formats.read import read_pairs
from diptych.errors import ConfigError, DataError, ModelError
from diptych.images.decode import decode
from diptych.matching.heads import CosineHead, CrossHead, PairHead
from diptych.matching.hubness import Banks
from diptych.matching.match_table import match_table, read_match_table
from diptych.matching.matcher import Encoded, load_matcher
from diptych.matching.rerank import reranked_ranks
from diptych.matching.storage import heads_of
from diptych.models import dual_encoder as dual
from diptych.models.hidden_states import HiddenStates, StoredHiddenStates, compute_hidden_states
from diptych.search.query import Query
from diptych.training.contrastive.config import ContrastiveRecipe
from diptych.training.contrastive.train import train
from diptych.training.match.config import MatchRecipe
from diptych.training.match.data import HardNegativeSampler
from diptych.training.match.train import train_matcher
from diptych.training.objectives import matching_loss
from tests.conftest import TINY
from tests.models.test_dual import tiny_clip  # noqa: F401 - a fixture


@pytest.fixture(scope="module")
def encoder(scenes: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("dual") / "run"
    train(ContrastiveRecipe(**{**TINY, "data": str(scenes), "out": str(out), "epochs": 12}))
    return out


def recipe(scenes: Path, encoder: Path, out: Path, **settings) -> MatchRecipe:
    base = {"val_fraction": 0.25, "epochs": 2, "batch_size": 8, "dim": 16, "hidden": 16, "device": "cpu"}
    return MatchRecipe(**{"data": str(scenes), "model": str(encoder), "out": str(out), **base, **settings})


@pytest.fixture(scope="module")
def trained(scenes: Path, encoder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("matcher") / "run"
    train_matcher(recipe(scenes, encoder, out, epochs=6))
    return out


# heads


def sides() -> tuple[HiddenStates, HiddenStates]:
    torch.manual_seed(0)
    images = HiddenStates(functional.normalize(torch.randn(3, 8), dim=-1), torch.randn(3, 5, 16))
    texts = HiddenStates(functional.normalize(torch.randn(4, 8), dim=-1), torch.randn(4, 6, 12))
    texts.states[1, 3:] = 0  # the second text has three tokens, the rest pads
    return images, texts


def stirred(head):
    """The head with weights that are all random, none zero, in evaluation mode."""
    torch.manual_seed(1)
    for weight in head.parameters():
        if weight.ndim:
            torch.nn.init.normal_(weight, std=0.5)
    return head.eval()


HEADS = [CosineHead(), stirred(PairHead(8, hidden=16)), stirred(CrossHead(16, 12, dim=8))]


@pytest.mark.parametrize("head", HEADS, ids=lambda head: type(head).__name__)
def test_a_grid_of_images_and_texts_equals_row_by_row_pairs(head) -> None:
    images, texts = sides()
    a, b = head.encode("image", images), head.encode("text", texts)
    rows, columns = torch.arange(3).repeat_interleave(4), torch.arange(4).repeat(3)
    one_by_one = head.pairs(tuple(x[rows] for x in a), tuple(x[columns] for x in b))
    assert one_by_one.std() > 0.01
    torch.testing.assert_close(head.grid(a, b).flatten(), one_by_one, rtol=1e-4, atol=1e-4)


def test_padding_changes_nothing() -> None:
    head = HEADS[2]
    images, texts = sides()
    a = head.encode("image", images)
    short = head.encode("text", HiddenStates(texts.embeddings[1:2], texts.states[1:2, :3]))
    torch.testing.assert_close(head.grid(a, head.encode("text", texts))[:, 1:2], head.grid(a, short))


def test_the_cross_head_equals_a_loop_over_words_and_patches() -> None:
    """The slow twin: mixtures are formed and compared one by one."""
    head = HEADS[2]
    images, texts = sides()
    (patches, image_weights), (tokens, text_weights) = head.encode("image", images), head.encode("text", texts)
    patch_sharp, token_sharp = (float(value) for value in head.sharpness.exp())
    expected = torch.zeros(3, 4)
    for i in range(3):
        for t in range(4):
            count = int((text_weights[t] > 0).sum())
            words = tokens[t, :count]
            cosines = words @ patches[i].T
            for_words = functional.normalize((cosines * patch_sharp).softmax(1) @ patches[i], dim=1)
            for_patches = functional.normalize((cosines.T * token_sharp).softmax(1) @ words, dim=1)
            of_words = ((words * for_words).sum(1) * text_weights[t, :count]).sum()
            of_patches = ((patches[i] * for_patches).sum(1) * image_weights[i]).sum()
            expected[i, t] = head.scales[0] * of_words + head.scales[1] * of_patches + head.bias
    torch.testing.assert_close(
        head.grid((patches, image_weights), (tokens, text_weights)), expected, rtol=1e-4, atol=1e-4
    )


def test_the_untrained_pair_head_is_the_scaled_cosine() -> None:
    images, texts = sides()
    head = PairHead(8).eval()
    grid = head.grid(head.encode("image", images), head.encode("text", texts))
    cosines = images.embeddings @ texts.embeddings.T
    torch.testing.assert_close(grid, head.scale * cosines + head.bias)


def test_the_matching_loss_ignores_pairs_that_are_known_to_match() -> None:
    logits = torch.randn(4, 4, generator=torch.Generator().manual_seed(0), requires_grad=True)
    matching_loss(logits, image_ids=torch.tensor([0, 0, 1, 2]), caption_ids=torch.tensor([5, 6, 7, 6])).backward()
    assert logits.grad is not None
    known = {(0, 1), (1, 0), (1, 3), (3, 1)}  # one picture twice, one text twice
    for row in range(4):
        for column in range(4):
            assert (logits.grad[row, column] == 0) == ((row, column) in known)


# states


def test_hidden_states_come_with_the_embeddings_of_the_dual_encoder(encoder: Path, scenes: Path) -> None:
    model = dual.load(encoder, "cpu")
    pairs = read_pairs(scenes)
    images = [decode(pairs[i].image) for i in range(3)]
    texts = ["a red circle", "two blue squares above a big green star"]
    with torch.inference_mode():
        image_states = compute_hidden_states(model, model.preprocess_images(images))
        text_states = compute_hidden_states(model, model.preprocess_texts(texts))
    np.testing.assert_allclose(image_states.embeddings, model.encode_images(images), atol=1e-6)
    np.testing.assert_allclose(text_states.embeddings, model.encode_texts(texts), atol=1e-6)
    assert image_states.mask.all()
    lengths = [len(model.preprocess_texts([text])["input_ids"][0]) for text in texts]
    assert text_states.mask.sum(1).tolist() == lengths
    assert lengths[0] < lengths[1]


def test_a_whole_clip_exposes_its_hidden_states(tiny_clip: Path) -> None:  # noqa: F811
    model = dual.load(tiny_clip, "cpu")
    with torch.inference_mode():
        text_states = compute_hidden_states(model, model.preprocess_texts(["a cat", "a dog on a boat"]))
    np.testing.assert_allclose(text_states.embeddings, model.encode_texts(["a cat", "a dog on a boat"]), atol=1e-6)
    assert text_states.states.ndim == 3


def test_stored_states_are_those_of_the_towers_and_an_interrupted_write_continues(
    encoder: Path, tmp_path: Path
) -> None:
    model = dual.load(encoder, "cpu")
    texts = [f"{number} red circles" + " and a star" * (number % 4) for number in range(100)]
    with torch.inference_mode():
        live = compute_hidden_states(model, model.preprocess_texts(texts))
    length, width = live.states.shape[1:]

    def store(items: list[str]) -> StoredHiddenStates:
        stored = StoredHiddenStates(tmp_path / "texts", 100, model.dim, length, width)
        stored.write(model, items, model.preprocess_texts, label="")
        return stored

    store(texts[:64])  # as if killed after one batch
    stored = store(texts).take(np.arange(100))
    torch.testing.assert_close(stored.embeddings, live.embeddings, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(stored.states, live.states, atol=1e-2, rtol=1e-2)
    short = StoredHiddenStates(tmp_path / "texts", 100, model.dim, length, width).take(np.array([0]))
    assert short.states.shape[1] < length


# hubness


def test_an_image_that_is_close_to_every_text_has_the_greatest_hubness() -> None:
    texts = functional.normalize(
        torch.randn(50, 4, generator=torch.Generator().manual_seed(0)) + torch.tensor([2.0, 0, 0, 0]), dim=-1
    )
    banks = Banks(torch.eye(4), texts, 20.0)
    hubs = banks.hubness("image", torch.eye(4))
    assert int(hubs.argmax()) == 0
    cosines = torch.eye(4) @ texts.T
    assert ((hubs > cosines.mean(1)) & (hubs < cosines.max(1).values)).all()


# training, and a matcher on disk


def test_a_trained_matcher_loads_with_every_head_and_its_encoder_is_unchanged(trained: Path, encoder: Path) -> None:
    assert heads_of(trained) == ["cosine", "pair", "cross"]
    assert load_matcher(trained).name == "cross"
    assert dual.load(trained, "cpu").fingerprint() == dual.load(encoder, "cpu").fingerprint()
    card = json.loads((trained / "model" / "diptych.json").read_text())
    assert card["kind"] == "matcher"
    calibration = card["matcher"]["cross"]["calibration"]
    assert calibration["prior"] == 0.5
    assert calibration["negatives"] == {"random": 0.5, "hard": 0.5, "hard_share": 0.02}
    assert sorted(path.name for path in (trained / "model").rglob("matcher*")) == ["matcher.safetensors"]


@pytest.mark.parametrize("head", ["cosine", "pair", "cross"])
def test_an_image_and_a_text_get_the_same_probability_in_every_batch(head: str, trained: Path, scenes: Path) -> None:
    matcher = load_matcher(trained, head, "cpu")
    pairs = read_pairs(scenes)[:5]
    images = [decode(row.image) for row in pairs]
    texts = [row.captions[0] for row in pairs]
    together = matcher.predict(images, texts)
    assert together.dtype == np.float64
    assert ((together > 0) & (together < 1)).all()
    alone = [matcher.predict([image], [text])[0] for image, text in zip(images, texts, strict=True)]
    np.testing.assert_allclose(together, alone, atol=2e-3)
    again = matcher.predict([images[2]] * 3, [texts[0], texts[2], texts[0]])
    assert again[1] == pytest.approx(together[2], abs=2e-3)
    assert again[0] == again[2]
    assert (matcher.predict(images, texts, prior=0.9) > together).all()


def test_the_cosine_head_orders_as_the_cosine_does(trained: Path, scenes: Path) -> None:
    matcher = load_matcher(trained, "cosine", "cpu")
    images = [decode(row.image) for row in read_pairs(scenes)[:8]]
    cosines = matcher.encoder.encode_images(images) @ matcher.encoder.encode_texts(["a red circle"])[0]
    probabilities = matcher.predict(images, ["a red circle"] * 8)
    if matcher.calibration.weights:
        assert np.argsort(probabilities).tolist() == np.argsort(cosines).tolist()


def test_only_the_pair_head_accepts_stored_embeddings(trained: Path, scenes: Path) -> None:
    images = [decode(row.image) for row in read_pairs(scenes)[:3]]
    matcher = load_matcher(trained, "pair", "cpu")
    vectors = matcher.encoder.encode_images(images)
    rows = np.arange(3)
    texts = matcher.encode_texts(["a red circle"] * 3)
    found = matcher.probabilities(matcher.from_embeddings("image", vectors), texts, rows, rows)
    np.testing.assert_allclose(found, matcher.predict(images, ["a red circle"] * 3), atol=1e-5)
    with pytest.raises(ConfigError, match="use the head 'pair'"):
        load_matcher(trained, "cross", "cpu").from_embeddings("image", vectors)


def test_what_cannot_be_matched_is_refused(trained: Path, encoder: Path, scenes: Path) -> None:
    matcher = load_matcher(trained, "pair", "cpu")
    image = decode(read_pairs(scenes)[0].image)
    with pytest.raises(ConfigError, match="one text for each image"):
        matcher.predict([image], ["a", "b"])
    with pytest.raises(ConfigError, match="text 1 is empty"):
        matcher.predict([image, image], ["a", " "])
    assert matcher.predict([], []).shape == (0,)
    with pytest.raises(ModelError, match="diptych train match --model"):
        load_matcher(encoder)
    with pytest.raises(ModelError, match="did you mean 'cross'"):
        load_matcher(trained, "cros")


def test_two_runs_give_the_same_heads_and_a_finished_one_is_not_overwritten(
    scenes: Path, encoder: Path, tmp_path: Path
) -> None:
    for name in ("a", "b"):
        train_matcher(recipe(scenes, encoder, tmp_path / name, augment="light", views=2))
    weights = [load_file(tmp_path / name / "model" / "matcher.safetensors") for name in ("a", "b")]
    assert weights[0].keys() == weights[1].keys()
    for name, value in weights[0].items():
        assert torch.equal(value, weights[1][name]), name
    with pytest.raises(ConfigError, match="already holds a run"):
        train_matcher(recipe(scenes, encoder, tmp_path / "a"))


def test_a_run_stopped_between_steps_and_resumed_ends_like_one_left_alone(
    scenes: Path, encoder: Path, tmp_path: Path
) -> None:
    class Stopped(Exception):  # noqa: N818
        pass

    def stopping(items, total, label):
        for number, item in enumerate(items):
            if label.startswith("epoch 2/2") and number == 3:
                raise Stopped
            yield item

    settings = {"save_steps": 1, "heads": ["cross"]}
    train_matcher(recipe(scenes, encoder, tmp_path / "alone", **settings))
    with pytest.raises(Stopped):
        train_matcher(recipe(scenes, encoder, tmp_path / "cut", **settings), progress=stopping)
    assert not (tmp_path / "cut" / "model").exists()
    train_matcher(recipe(scenes, encoder, tmp_path / "cut", **settings), resume=True)
    weights = [load_file(tmp_path / name / "model" / "matcher.safetensors") for name in ("alone", "cut")]
    assert all(torch.equal(value, weights[1][name]) for name, value in weights[0].items())


def test_a_matcher_learns_from_labelled_pairs(scenes: Path, encoder: Path, tmp_path: Path) -> None:
    lines = ["image,caption,label"]
    pairs = read_pairs(scenes)
    for i, row in enumerate(pairs):
        other = pairs[(i + 7) % len(pairs)]
        lines += [
            f'images/{row.image_id},"{row.captions[0]}",match',
            f'images/{row.image_id},"{other.captions[0]}",no-match',
        ]
    folder = tmp_path / "labelled"
    folder.mkdir()
    (folder / "images").symlink_to(Path(pairs[0].image).parent)
    (folder / "pairs.csv").write_text("\n".join(lines))
    result = train_matcher(recipe(folder / "pairs.csv", encoder, tmp_path / "run", epochs=4))
    assert load_matcher(result.model).calibration.negatives == {"labelled": 1.0}
    assert 0 <= result.scores["pair"]["auc"] <= 100


def test_a_batch_holds_each_picture_with_its_hard_negatives_and_a_resumed_epoch_the_same(scenes: Path) -> None:
    pairs = read_pairs(scenes)
    _, owner = pairs.flat_captions()
    near = np.stack([(owner + step) % len(pairs) for step in (1, 2, 3)], axis=1)
    batches = HardNegativeSampler(pairs, 12, 2, near, seed=0)
    whole = list(batches(1, 0))
    assert len(whole) == batches.steps == 4
    for _, rows, captions in whole:
        assert (owner[captions] == rows).all()
        seeds, others = rows[:4], rows[4:].reshape(4, 2)
        assert set(((others - seeds[:, None]) % len(pairs)).ravel()) <= {1, 2, 3}
    for batch, other in zip(whole[2:], batches(1, 2), strict=True):
        np.testing.assert_array_equal(batch[1], other[1])
        np.testing.assert_array_equal(batch[2], other[2])


def test_settings_that_contradict_each_other_are_refused(scenes: Path, encoder: Path, tmp_path: Path) -> None:
    for settings, words in (
        ({"heads": ["pear"]}, "did you mean 'pair'"),
        ({"model": ""}, "no dual encoder"),
        ({"augment": "light"}, "set views"),
        ({"prior": 1.0}, "prior is 1"),
    ):
        with pytest.raises(ConfigError, match=words):
            train_matcher(recipe(scenes, encoder, tmp_path / "x", **settings))


# re-ranking and tables


def test_reranking_gives_the_ranks_of_a_loop_over_candidates(trained: Path, scenes: Path) -> None:
    matcher = load_matcher(trained, "cross", "cpu")
    pairs = read_pairs(scenes)[:20]
    texts, owner = pairs.flat_captions()
    images, encoded_texts = matcher.encode_dataset(pairs), matcher.encode_texts(texts)
    ranks = reranked_ranks(matcher, images, encoded_texts, owner, first=5)
    cosines = (encoded_texts.embeddings @ images.embeddings.T).numpy()
    for start in range(0, len(texts), 7):
        order = np.argsort(-cosines[start], kind="stable")
        first = order[:5]
        logits = matcher.logits(images, encoded_texts, first, np.full(5, start))
        if owner[start] in first:
            expected = 1 + int((logits > logits[list(first).index(owner[start])]).sum())
        else:
            expected = 1 + int((cosines[start] > cosines[start, owner[start]]).sum())
        assert ranks[start] == expected


def test_a_search_puts_its_first_hits_in_the_order_of_the_matcher(trained: Path, scenes: Path, tmp_path: Path) -> None:
    from diptych.search.index import Index

    index = Index(tmp_path / "index", model=str(trained / "model"), device="cpu")
    index.add(scenes)
    before = list(index.search("a red circle", keep=None, k=30, fold=False))
    after = list(index.search("a red circle", keep=None, k=30, fold=False, rerank=10))
    assert {hit.id for hit in after[:10]} == {hit.id for hit in before[:10]}
    assert [hit.id for hit in after[10:]] == [hit.id for hit in before[10:]]
    matches = [hit.match for hit in after[:10]]
    assert matches == sorted(matches, reverse=True)
    assert after[10].match is None
    expected = load_matcher(trained, device="cpu").predict([decode(Path(after[0].path))], ["a red circle"])
    assert matches[0] == pytest.approx(expected[0], abs=2e-3)
    with pytest.raises(ConfigError, match="one text"):
        index.search(Query.of(["a star", "a circle"]), rerank=10)
    with pytest.raises(ConfigError, match="needs sort 'score'"):
        index.search("a star", rerank=10, sort="newest")


def test_texts_of_different_lengths_are_joined_with_padding() -> None:
    parts = [
        Encoded(torch.ones(1, 2), torch.ones(1), (torch.ones(1, length, 3), torch.ones(1, length))) for length in (2, 4)
    ]
    whole = Encoded.join(parts)
    assert whole.side[0].shape == (2, 4, 3)
    assert whole.side[1].tolist() == [[1, 1, 0, 0], [1, 1, 1, 1]]


def test_a_table_gets_a_probability_for_each_line_and_none_for_a_broken_picture(
    trained: Path, scenes: Path, tmp_path: Path
) -> None:
    pairs = read_pairs(scenes)
    (tmp_path / "images").symlink_to(Path(pairs[0].image).parent)
    names = [f"images/{pairs[i].image_id}" for i in range(3)]
    (tmp_path / "broken.png").write_bytes(b"no picture")
    lines = [f"{names[0]},a red circle", "broken.png,a cat", f"{names[1]},", f"{names[0]},a blue star"]
    (tmp_path / "pairs.csv").write_text("\n".join(["image,caption", *lines]))
    matcher = load_matcher(trained, "pair", "cpu")
    probabilities = match_table(matcher, read_match_table(tmp_path / "pairs.csv"))
    image = decode(pairs[0].image)
    expected = matcher.predict([image, image], ["a red circle", "a blue star"])
    assert np.isnan(probabilities).tolist() == [False, True, True, False]
    np.testing.assert_allclose(probabilities[[0, 3]], expected, atol=1e-5)
    with pytest.raises(DataError, match="does not exist"):
        read_match_table(tmp_path / "nowhere.csv")
