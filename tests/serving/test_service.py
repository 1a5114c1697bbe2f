"""`Service`: results, models that are loaded once, an index inside its roots, and concurrency."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import diptych
from diptych.data.samples.library import photographs
from diptych.errors import ConfigError, DataError, ImageError, ModelError
from diptych.search.filters import Filters
from diptych.search.index import IndexBusy
from diptych.serving.results import AddProgress, IndexStatus, ModelStatus
from diptych.serving.service import Service


@pytest.fixture(scope="session")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The sample library's fifteen photographs in a folder."""
    folder = tmp_path_factory.mktemp("photos")
    photographs(folder)
    return folder


@pytest.fixture(scope="module")
def service(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Service:
    """mini over an index of the photographs."""
    service = Service(index=tmp_path_factory.mktemp("index"), roots=[photos], device="cpu")
    service.add(photos)
    return service


def cat(photos: Path) -> Path:
    return next(photos.rglob("cat.png"))


def test_images_in_any_form_and_texts_are_embedded_in_one_space(service: Service, photos: Path) -> None:
    file = cat(photos)
    embeddings = service.embed([file, str(file), file.read_bytes(), Image.open(file)], ["a cat", "a rocket"])
    assert embeddings.image_embeddings.shape == (4, service.encoder.dim)
    assert np.allclose(np.linalg.norm(embeddings.image_embeddings, axis=1), 1, atol=1e-4)
    assert np.allclose(embeddings.image_embeddings[0], embeddings.image_embeddings[1:], atol=1e-4)
    assert embeddings.similarity[0, 0] > embeddings.similarity[0, 1]
    assert service.embed().similarity.shape == (0, 0)


def test_a_single_image_or_text_counts_as_one(service: Service, photos: Path) -> None:
    one, same = service.embed(cat(photos), "dog"), service.embed([cat(photos)], ["dog"])
    assert np.allclose(one.text_embeddings, same.text_embeddings, atol=1e-6)
    assert np.allclose(one.image_embeddings, same.image_embeddings, atol=1e-6)


def test_a_single_path_is_one_image_and_not_one_for_each_letter(
    whole: tuple[Service, Path], photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    service, file = whole[0], cat(photos)
    monkeypatch.chdir(file.parent)  # where the letters of the name are no files
    for one in (file.name, Path(file.name), file.read_bytes(), Image.open(file)):
        assert len(service.open(one)) == 1
        assert service.embed(one).image_embeddings.shape == (1, 256)
        assert service.caption(one) == service.caption([file])
        assert service.search(image=one).hits[0].path.endswith("cat.png")
    assert service.prompt(file.name) == service.prompt([file])
    assert service.prompt(file.name, library="a cat, oil on canvas")[0][0].text == "a cat, oil on canvas"
    assert service.caption(file.name, candidates="a cat")[0].candidates[0].text == "a cat"


def test_a_single_root_or_id_is_one(photos: Path, tmp_path: Path) -> None:
    service = Service(index=tmp_path, roots=str(photos), device="cpu")
    assert service.status().roots == (str(photos),)
    assert Service(roots=photos).status().roots == (str(photos),)
    service.add(photos)
    first = service.search("a cat", keep=None).hits[0]
    assert [hit.id for hit in service.search(like=first.id)] == [hit.id for hit in service.search(like=[first.id])]
    assert service.remove(first.id) == 1
    assert service.status().images == 14


def test_a_search_accepts_text_images_or_both(service: Service, photos: Path) -> None:
    assert service.search("a cup of coffee", keep=None).hits[0].path.endswith("coffee.png")
    assert service.search(image=Image.open(cat(photos))).hits[0].path.endswith("cat.png")
    both = service.search("a cat", image=[cat(photos)], filters=Filters(min_side=10), k=3, keep=None)
    assert both.hits[0].path.endswith("cat.png")
    assert len(both) == 3


def test_similar_images_exclude_the_image_itself(service: Service) -> None:
    first = service.search("a cat", keep=None).hits[0]
    assert first.id not in {hit.id for hit in service.similar(first.id, k=5)}
    assert service.image(first.id, size=64).size[0] <= 64
    with pytest.raises(DataError, match="no indexed image has the id"):
        service.image("0" * 32)


def test_only_paths_inside_the_roots_can_be_added(service: Service, photos: Path, tmp_path: Path) -> None:
    (photos / "out").symlink_to(tmp_path, target_is_directory=True)
    try:
        for path in (tmp_path, photos / "..", photos / "out", "~nobody-at-all/x", "\0", photos / ("a" * 300)):
            with pytest.raises(DataError):
                service.add(path)
    finally:
        (photos / "out").unlink()
    with pytest.raises(DataError, match="does not exist"):
        service.add(photos / "nowhere")
    assert Service(roots=None).allowed(tmp_path) == tmp_path
    with pytest.raises(DataError, match="--root"):
        Service().allowed(photos)


def test_the_first_added_folder_creates_the_index(service: Service, tmp_path: Path) -> None:
    library = tmp_path / "library"
    library.mkdir()
    for name in ("a.jpg", "b.jpg"):
        Image.new("RGB", (40, 40), "red" if name == "a.jpg" else "blue").save(library / name)
    (library / "broken.jpg").write_bytes(b"no picture")
    other = Service(model=service.encoder, roots=[library], device="cpu")
    assert other.index is None
    with pytest.raises(DataError, match="there is no index"):
        other.search("a cat")
    added = other.add(library)
    assert (added.new, [skip.reason for skip in added.skipped]) == (2, ["undecodable"])
    assert other.status().images == 2
    assert other.remove([hit.id for hit in other.search("red", keep=None, fold=False)]) == 2
    assert other.status() == IndexStatus(
        index=str(library / ".diptych"), model="(a model in memory)", images=0, roots=(str(library),), adding=None
    )


def colours(folder: Path, *names: str) -> Path:
    folder.mkdir()
    for name in names:
        Image.new("RGB", (40, 40), name).save(folder / f"{name}.png")
    return folder


def test_after_a_first_add_without_images_the_next_folder_creates_the_index(service: Service, tmp_path: Path) -> None:
    taken, empty, good = colours(tmp_path / "a", "red"), colours(tmp_path / "b"), colours(tmp_path / "c", "red", "blue")
    (taken / ".diptych").mkdir()
    (taken / ".diptych" / "notes.txt").write_text("mine")
    other = Service(model=service.encoder, roots=[tmp_path], device="cpu")
    with pytest.raises(DataError, match="holds other files"):
        other.add(taken)
    assert other.add(empty).new == 0
    assert other.add(good).new == 2
    assert other.status().index == str(good / ".diptych")
    other.remove([hit.id for hit in other.search("red", keep=None, fold=False)])
    assert other.index is not None  # it was made, and is empty now
    assert not other.index


def test_a_second_concurrent_add_is_refused_with_the_path_of_the_first(service: Service, tmp_path: Path) -> None:
    library = colours(tmp_path / "library", "red", "blue")
    other = Service(model=service.encoder, roots=[tmp_path], device="cpu")
    begun, gate = threading.Event(), threading.Event()

    def waiting(items: Iterable[Any], total: int | None, label: str) -> Iterable[Any]:
        for item in items:
            begun.set()
            gate.wait(60)
            yield item

    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(other.add, library, progress=waiting)
        assert begun.wait(60)
        with pytest.raises(IndexBusy, match="library' is being added"):
            other.add(library, wait=0)
        assert other.status().adding == AddProgress(str(library), 0)
        gate.set()
        assert first.result().new == 2


def test_models_are_loaded_once_and_shared_by_threads_and_by_other_indexes(photos: Path) -> None:
    service = Service(device="cpu")
    assert not any(model.loaded for model in service.models())
    gate = threading.Barrier(4)

    def load(_: int) -> int:
        gate.wait()
        return id(service.encoder)

    with ThreadPoolExecutor(4) as pool:
        assert len(set(pool.map(load, range(4)))) == 1
    assert service.at(photos).encoder is service.encoder
    assert service.loaded.get("matcher").encoder is service.encoder
    assert service.models()[0] == ModelStatus("encoder", "mini", available=True, loaded=True)


def test_concurrent_threads_get_the_same_embeddings_as_one(service: Service, photos: Path) -> None:
    texts = [f"{'very ' * (number % 7)}big cat {number}" for number in range(24)]
    alone = service.embed([cat(photos)], texts)
    with ThreadPoolExecutor(8) as pool:
        vectors = list(pool.map(lambda text: service.embed(texts=[text]).text_embeddings[0], texts))
    assert np.allclose(np.stack(vectors), alone.text_embeddings, atol=1e-4)


class SlowTable:
    """The table of an index, whose scans wait for `wait`."""

    def __init__(self, table: Any, wait: Callable[[], object]) -> None:
        self.table, self.wait = table, wait

    def __getattr__(self, name: str) -> Any:
        if name == "count_rows":  # the first step of a scan
            self.wait()
        return getattr(self.table, name)


def test_a_search_does_not_hold_the_models_while_it_scans_the_index(
    service: Service, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scanning, finish = threading.Event(), threading.Event()

    def wait() -> None:
        scanning.set()
        finish.wait(60)

    index = service.index
    assert index is not None
    monkeypatch.setattr(index.store, "table", SlowTable(index.store.table, wait))
    with ThreadPoolExecutor(3) as pool:
        search = pool.submit(service.search, "a cat", keep=None)
        try:
            assert scanning.wait(60)
            embedding = pool.submit(service.embed, texts=["a dog"])
            match = pool.submit(service.match, cat(photos), ["a cat"])
            assert embedding.result(30).text_embeddings.shape == (1, service.encoder.dim)
            assert len(match.result(30)) == 1
            assert not search.done()
        finally:
            finish.set()
        assert search.result(60).hits[0].path.endswith("cat.png")


class ConstantMatcher:
    """P(match) is the same for all pairs; remembers whether the model's lock was free meanwhile."""

    def __init__(self, encoder: Any, probability: float, lock: Any = None) -> None:
        self.encoder, self.probability, self.lock = encoder, probability, lock
        self.lock_was_free = False

    def predict(self, images: list[Any], texts: list[str], prior: float | None = None) -> list[float]:
        if self.lock is not None:
            with ThreadPoolExecutor(1) as pool:
                self.lock_was_free = pool.submit(self.lock.acquire, blocking=False).result()
        return [self.probability] * len(images)


def test_two_searches_of_one_index_at_once_each_rerank_by_their_own_matcher(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    index = service.index
    assert index is not None
    both_started = threading.Barrier(2)
    monkeypatch.setattr(index.store, "table", SlowTable(index.store.table, lambda: both_started.wait(60)))

    def probabilities(probability: float) -> set[float | None]:
        matcher: Any = ConstantMatcher(service.encoder, probability)
        return {hit.match for hit in index.search("a cat", k=3, keep=None, rerank=3, matcher=matcher)}

    with ThreadPoolExecutor(2) as pool:
        assert list(pool.map(probabilities, (0.25, 0.75))) == [{0.25}, {0.75}]
    assert "matcher" not in vars(index)


def test_reranking_holds_the_models(service: Service) -> None:
    index = service.index
    assert index is not None
    matcher: Any = ConstantMatcher(service.encoder, 0.5, index.model_lock)
    index.search("a cat", keep=None, rerank=1, matcher=matcher)
    assert not matcher.lock_was_free
    assert index.model_lock is service.loaded.lock("matcher")


def test_invalid_requests_raise_typed_errors(service: Service, photos: Path) -> None:
    with pytest.raises(ConfigError, match="text 1 is empty"):
        service.embed(texts=["a", " "])
    with pytest.raises(ImageError):
        service.embed([b"no picture"])
    with pytest.raises(ConfigError, match="the query is empty"):
        service.search()


def test_a_missing_captioner_matcher_or_prompter_is_reported_without_loading_the_model(
    tmp_path: Path, service: Service
) -> None:
    service.encoder.save(tmp_path / "plain")
    plain = Service(tmp_path / "plain", device="cpu")
    for kind, ask in {
        "captioner": lambda: plain.caption([Image.new("RGB", (8, 8))]),
        "matcher": lambda: plain.match(Image.new("RGB", (8, 8)), ["a"]),
        "prompter": lambda: plain.prompt([Image.new("RGB", (8, 8))]),
    }.items():
        assert not plain.has(kind)
        with pytest.raises(ModelError, match=f"has no {kind}; start with one"):
            ask()
    assert not plain.loaded.is_loaded("encoder")


def test_an_open_clip_name_has_no_other_models_and_needs_no_hub() -> None:
    service = Service("open_clip/ViT-B-32")
    assert [model.available for model in service.models()] == [True, False, False, False]


def test_the_service_is_a_public_name() -> None:
    assert diptych.Service is Service
