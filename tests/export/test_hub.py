"""Models are pushed to a hub and loaded again, with the hub's own client and a server that speaks its protocol."""

from __future__ import annotations

import io
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from huggingface_hub import constants
from PIL import Image

import diptych
from diptych.captioning.captioner import load_captioner
from diptych.cli import main
from diptych.errors import ModelError
from diptych.export.endpoint import split_metadata, write_endpoint
from diptych.export.hub import push
from diptych.export.model_card import complete_model_card, model_kinds
from diptych.models.checkpoints import BUNDLED
from diptych.prompting.prompter import load_prompter
from tests.captioning.test_captioner_models import make_vit_gpt2
from tests.hub_server import TOKEN, Hub
from tests.matching.test_blip import blip  # noqa: F401 - a fixture

PICTURE = [Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 50, 3), dtype=np.uint8))]


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Hub]:
    """A local hub, with the client configured as if HF_ENDPOINT named it and HF_TOKEN were a user's token."""
    server = Hub()
    monkeypatch.setattr(constants, "ENDPOINT", server.url)
    monkeypatch.setattr(
        constants, "HUGGINGFACE_CO_URL_TEMPLATE", server.url + "/{repo_id}/resolve/{revision}/{filename}"
    )
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    yield server
    server.shutdown()
    server.server_close()


@pytest.fixture(scope="module")
def run(scenes: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of the contrastive recipe, of a tiny model."""
    from tests.conftest import TINY

    out = tmp_path_factory.mktemp("runs") / "tiny"
    diptych.train(diptych.ContrastiveRecipe(**{**TINY, "data": str(scenes), "out": str(out), "epochs": 1}))
    return out


def files_of(hub: Hub, repo: str) -> dict[str, bytes]:
    return hub.repositories[repo].at("main")[1]


def test_mini_loads_from_the_hub_with_the_same_embeddings_and_all_its_parts(hub: Hub) -> None:
    address = push("mini", "somebody/mini")
    assert address == f"{hub.url}/somebody/mini"
    assert len(hub.uploads) >= 3  # the weights went by LFS
    ours, theirs = diptych.load("mini", "cpu"), diptych.load("somebody/mini", "cpu")
    assert theirs.fingerprint() == ours.fingerprint()
    np.testing.assert_array_equal(theirs.encode_texts(["a dog"]), ours.encode_texts(["a dog"]))
    ours, theirs = load_prompter("mini", "cpu"), load_prompter("somebody/mini", "cpu")
    np.testing.assert_allclose(theirs.predict(PICTURE), ours.predict(PICTURE), atol=1e-6)
    with Image.open(io.BytesIO(files_of(hub, "somebody/mini")["results.png"])) as drawn:
        assert drawn.width > 800


def test_a_second_push_uploads_only_what_changed(hub: Hub, run: Path, tmp_path: Path) -> None:
    push(run, "somebody/tiny", licence="mit", preview=False)
    sent, commits = len(hub.uploads), len(hub.repositories["somebody/tiny"].commits)
    push(run, "somebody/tiny", licence="mit", preview=False)
    assert len(hub.uploads) == sent
    assert len(hub.repositories["somebody/tiny"].commits) == commits
    push(run, "somebody/tiny", licence="apache-2.0", preview=False, message="another licence")
    assert len(hub.uploads) == sent
    assert hub.repositories["somebody/tiny"].commits[-1][2] == "another licence"


def test_the_card_of_a_run_has_every_section(hub: Hub, run: Path) -> None:
    push(run, "somebody/tiny", licence="cc-by-4.0", preview=False)
    head, body = split_metadata(files_of(hub, "somebody/tiny")["README.md"].decode())
    metadata = yaml.safe_load(head)
    assert metadata["license"] == "cc-by-4.0"
    assert metadata["library_name"] == "sentence-transformers"
    assert {"diptych", "dual-encoder"} <= set(metadata["tags"])
    for heading in ("## Use", "## Data", "## Recipe", "## Evaluation", "## Limitations", "## Licence"):
        assert body.count(f"{heading}\n") == 1, heading
    assert 'diptych.load("somebody/tiny")' in body
    assert "image_tower: timm/test_resnet" in body
    assert "| text to image |" in body


def test_only_the_model_of_a_run_is_uploaded(hub: Hub, run: Path) -> None:
    (run / "model" / "resume.pt").write_bytes(b"\0")
    (run / "model" / ".secret").write_text("x")
    try:
        push(run, "somebody/tiny", licence="mit", preview=False)
    finally:
        (run / "model" / "resume.pt").unlink()
        (run / "model" / ".secret").unlink()
    names = set(files_of(hub, "somebody/tiny"))
    assert "modules.json" in names
    assert not {"resume.pt", ".secret"} & names
    assert not any(name.startswith("model/") for name in names)


def test_a_captioner_of_transformers_loads_from_the_hub_and_writes_the_same(hub: Hub, tmp_path: Path) -> None:
    make_vit_gpt2(tmp_path)
    assert model_kinds(tmp_path) == ["captioner"]
    push(tmp_path, "somebody/vit-gpt2", licence="mit", preview=False)
    ours, theirs = load_captioner(tmp_path, "cpu"), load_captioner("somebody/vit-gpt2", "cpu")
    assert [c.text for c in theirs.caption(PICTURE)[0]] == [c.text for c in ours.caption(PICTURE)[0]]
    card = files_of(hub, "somebody/vit-gpt2")["README.md"].decode()
    assert "pipeline_tag: image-to-text" in card
    assert 'diptych.load_captioner("somebody/vit-gpt2")' in card


def test_a_matcher_loads_from_the_hub_with_the_same_probabilities(hub: Hub, blip: Path) -> None:  # noqa: F811
    push(blip, "somebody/blip", licence="bsd-3-clause", preview=False)
    ours, theirs = diptych.load_matcher(blip, device="cpu"), diptych.load_matcher("somebody/blip", device="cpu")
    np.testing.assert_allclose(theirs.predict(PICTURE, ["a dog"]), ours.predict(PICTURE, ["a dog"]), atol=1e-6)


def test_an_endpoint_is_pushed_whole_and_loads_as_a_model(hub: Hub, run: Path, tmp_path: Path) -> None:
    write_endpoint(run, tmp_path / "endpoint")
    push(tmp_path / "endpoint", "somebody/endpoint", preview=False)
    names = set(files_of(hub, "somebody/endpoint"))
    assert {"handler.py", "requirements.txt", "README.md", "model/modules.json"} <= names
    assert diptych.load("somebody/endpoint", "cpu").fingerprint() == diptych.load(run, "cpu").fingerprint()


@pytest.mark.parametrize(
    ("break_it", "message"),
    [
        (lambda folder: (folder / "README.md").unlink(), "names no licence"),
        (lambda folder: [file.unlink() for file in folder.rglob("*.safetensors")], "safetensors"),
    ],
)
def test_an_unsuitable_model_is_refused_before_any_request(
    hub: Hub, run: Path, tmp_path: Path, break_it: Callable[[Path], Any], message: str
) -> None:
    shutil.copytree(run / "model", tmp_path / "model")
    break_it(tmp_path / "model")
    with pytest.raises(ModelError, match=message):
        push(tmp_path / "model", "somebody/tiny", preview=False)
    assert hub.requests == []


def test_without_a_login_the_error_says_how_to_log_in(hub: Hub, monkeypatch: pytest.MonkeyPatch, run: Path) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_" + "of_nobody")
    with pytest.raises(ModelError, match="hf auth login"):
        push(run, "somebody/tiny", licence="mit", preview=False)
    with pytest.raises(ModelError, match="somebody/nothing"):
        diptych.load("somebody/nothing")


def test_an_unreachable_hub_raises_a_model_error(hub: Hub, run: Path) -> None:
    hub.shutdown()
    hub.server_close()
    with pytest.raises(ModelError, match=r"cannot push to 'somebody/tiny'.*check the name and the network"):
        push(run, "somebody/tiny", licence="mit", preview=False)


def test_a_model_in_memory_is_saved_and_pushed(hub: Hub, run: Path) -> None:
    class InMemory:
        def save_pretrained(self, path: str | Path) -> None:
            shutil.copytree(run / "model", path, dirs_exist_ok=True)

    push(InMemory(), "somebody/memory", licence="mit", preview=False)
    assert diptych.load("somebody/memory", "cpu").fingerprint() == diptych.load(run, "cpu").fingerprint()


def test_the_name_of_a_bundled_model_takes_precedence_over_a_folder(
    hub: Hub, run: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    shutil.copytree(run / "model", tmp_path / "mini")
    monkeypatch.chdir(tmp_path)
    push("mini", "somebody/mini", preview=False)
    assert "image_0_Transformer/model.safetensors" in (sent := files_of(hub, "somebody/mini"))
    assert sent["diptych.json"] == (BUNDLED / "mini" / "diptych.json").read_bytes()


def test_the_commands_write_the_card_and_push(hub: Hub, run: Path, tmp_path: Path, capsys: Any) -> None:
    arguments = [str(run), "somebody/tiny", "--licence", "mit"]
    for command in (["card", *arguments, "--out", str(tmp_path / "card.md")], ["push", *arguments, "--no-picture"]):
        with pytest.raises(SystemExit) as ended:
            main(["hub", *command])
        assert not ended.value.code
    assert (tmp_path / "card.md").read_bytes() == files_of(hub, "somebody/tiny")["README.md"]
    assert f"{hub.url}/somebody/tiny" in capsys.readouterr().out


def test_a_complete_card_is_not_changed() -> None:
    from diptych.models.checkpoints import BUNDLED

    card = complete_model_card(BUNDLED / "mini", "somebody/mini")
    own = (BUNDLED / "mini" / "README.md").read_text()
    assert card.count("## Limitations") == own.count("## Limitations") == 1
    assert card.count("## Evaluation") == 1
    assert split_metadata(own)[1].strip() in card
