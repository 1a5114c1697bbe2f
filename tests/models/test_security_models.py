"""An attacker's model directories: whatever their files say, no code of theirs runs and nothing outside them is asked.

Every kind of model that diptych loads is filled with every trick. Loading may work or be refused; the marker that the
attacker's Python writes must not appear, and nothing may be asked of the hub.
"""

from __future__ import annotations

import itertools
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from diptych.captioning.captioner import load_captioner
from diptych.errors import DiptychError, ModelError
from diptych.matching.matcher import load_matcher
from diptych.models import dual_encoder as dual
from diptych.models.checkpoints import refuse_unsafe
from diptych.models.towers import image_tower, text_tower
from diptych.prompting.prompter import load_prompter
from diptych.prompting.text_space import load_text_space
from diptych.serving.endpoint import Endpoint
from diptych.serving.pipelines import factory
from tests.model_directories import MAKERS, watch_network

OUR_CLASS = "diptych.heads.ResidualHead"
LOADERS: dict[str, Callable[[Path], Any]] = {
    "dual": lambda folder: dual.load(folder, "cpu"),
    "clip": lambda folder: dual.load(folder, "cpu"),
    "open_clip": lambda folder: dual.load(folder, "cpu"),
    "onnx": lambda folder: dual.load(folder, "cpu"),
    "openvino": lambda folder: dual.load(folder, "cpu"),
    "matcher": lambda folder: load_matcher(folder, device="cpu"),
    "blip_itm": lambda folder: load_matcher(folder, device="cpu"),
    "grid_captioner": lambda folder: load_captioner(folder, "cpu"),
    "vit_gpt2": lambda folder: load_captioner(folder, "cpu"),
    "blip": lambda folder: load_captioner(folder, "cpu"),
    "pipeline": lambda folder: factory.pipeline("image-text-to-text", folder, "cpu"),
    "prompter": lambda folder: load_prompter(folder, "cpu").space,
    "text_encoder": lambda folder: load_text_space(str(folder), "cpu"),
    "text_tower": lambda folder: text_tower(str(folder)),
    "image_tower": lambda folder: image_tower(str(folder)),
    "endpoint": lambda folder: Endpoint(folder)({"inputs": "a dog"}),
}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A model of each kind, made on first use."""
    root = tmp_path_factory.mktemp("made")

    class Made(dict[str, Path]):
        def __missing__(self, kind: str) -> Path:
            self[kind] = MAKERS[kind](root / kind)
            return self[kind]

    return Made()


@pytest.fixture(autouse=True)
def asked(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Addresses that were looked up, with the hub's client made to believe that it has a network."""
    addresses = watch_network(monkeypatch)
    monkeypatch.setattr("builtins.input", lambda _: "y")  # transformers asks whether code may run
    return addresses


class Attack:
    """A copy of a model with the attacker's code beside it, and in it if `inside`; `ran`: whether any of it was run."""

    def __init__(self, source: Path, root: Path, inside: bool = True) -> None:
        self.root, self.marker = root, root / "ran"
        self.folder = Path(shutil.copytree(source, root / "model"))
        self.code = f"open({str(self.marker)!r}, 'w').close()\nclass Evil: pass\n"
        self.beside = root / "beside"
        for folder in {self.beside, *((self.folder, *self.folder.rglob("*_*_*/")) if inside else ())}:
            if folder.is_dir() or folder == self.beside:
                (folder / "custom_generate").mkdir(parents=True, exist_ok=True)
                (folder / "evil.py").write_text(self.code)
                (folder / "custom_generate" / "generate.py").write_text(self.code + "generate = Evil\n")
        code = "evil.Evil" if inside else f"{self.beside}--evil.Evil"
        names = ("AutoConfig", "AutoModel", "AutoProcessor", "AutoImageProcessor")
        content = {"auto_map": {**dict.fromkeys(names, code), "AutoTokenizer": [code, code]}, "model_type": "evil"}
        parts = ["", *(part.name for part in self.folder.iterdir() if part.is_dir())]  # a module looks in its own
        for part in parts:
            for name in ("config.json", "tokenizer_config.json", "processor_config.json", "preprocessor_config.json"):
                (self.beside / part).mkdir(exist_ok=True)
                (self.beside / part / name).write_text(json.dumps(content))
            (self.folder / part / "hidden.txt").write_text(json.dumps(content))

    def change(self, name: str, **settings: Any) -> None:
        """Set these in every file of this name, and where it is missing beside a `config.json`, in a new one."""
        places = {file.parent for file in (*self.folder.rglob("config.json"), *self.folder.rglob(name))}
        for place in places or {self.folder}:
            file = place / name
            before = json.loads(file.read_text()) if file.exists() else {}
            file.write_text(json.dumps({**before, **settings}))

    def name_a_class_of_ours(self) -> None:
        """In a Router's types, without using it: this alone switched on trust in the whole directory's code."""
        for file in self.folder.rglob("router_config.json"):
            router = json.loads(file.read_text())
            router["types"]["unused"] = OUR_CLASS
            for head in file.parent.glob("image_*_ResidualHead"):
                shutil.copytree(head, file.parent / "unused", dirs_exist_ok=True)
            file.write_text(json.dumps(router))

    def ran(self) -> bool:
        return self.marker.exists()


SENTENCE = "sentence_bert_config.json"
TRICKS: dict[str, Callable[[Attack], Any]] = {
    "tokenizer elsewhere": lambda a: a.change(SENTENCE, tokenizer_name_or_path=str(a.beside)),
    "tokenizer of the hub": lambda a: a.change(SENTENCE, tokenizer_name_or_path="somebody/evil"),
    "configuration in another file": lambda a: a.change(SENTENCE, config_kwargs={"_configuration_file": "hidden.txt"}),
    "processor in another file": lambda a: a.change(
        SENTENCE, processor_kwargs={"image_processor_filename": "hidden.txt"}
    ),
    "subfolder": lambda a: a.change(SENTENCE, processor_args={"subfolder": "../beside"}),
    "kernel as an argument": lambda a: a.change(
        SENTENCE, model_kwargs={"attn_implementation": "somebody/kernel", "allow_all_kernels": True}
    ),
    "method of the model": lambda a: a.change(
        SENTENCE, modality_config={"text": {"method": "push_to_hub", "method_output_name": "x"}}
    ),
    "any class of transformers": lambda a: a.change(SENTENCE, transformer_task="retrieval"),
    "kernel in the configuration": lambda a: a.change("config.json", _attn_implementation="somebody/kernel"),
    "kernel of flash attention": lambda a: a.change("config.json", attn_implementation="flash_attention_2"),
    "code in the configuration": lambda a: a.change("config.json", auto_map={"AutoModel": "evil.Evil"}),
    "code deep in it": lambda a: a.change("config.json", vision_config={"auto_map": {"AutoConfig": "evil.Evil"}}),
    "code of a repository": lambda a: a.change("config.json", auto_map={"AutoConfig": "somebody/evil--evil.Evil"}),
    "another configuration": lambda a: a.change("config.json", configuration_files=["config.4.0.0.json"]),
    "unknown type": lambda a: a.change("config.json", model_type="evil"),
    "retriever": lambda a: a.change("config.json", model_type="rag", index_path=str(a.beside)),
    "experts of the hub": lambda a: a.change("config.json", experts_implementation="somebody/kernel"),
    "class that fetches": lambda a: a.change("tokenizer_config.json", tokenizer_class="RagRetriever"),
    "another class": lambda a: a.change("preprocessor_config.json", processor_class="AutoModel"),
    "backbone of the hub": lambda a: a.change("config.json", backbone="somebody/evil", use_pretrained_backbone=True),
    "architecture of the hub": lambda a: a.change("config.json", architecture="hf_hub:somebody/evil"),
    "architecture of a folder": lambda a: a.change("config.json", architecture="local-dir:evil"),
    "weights of a path": lambda a: a.change("config.json", model_args={"checkpoint_path": "weights"}),
    "weights above": lambda a: a.change("config.json", transformers_weights="../beside/model.safetensors"),
    "quantised by a package": lambda a: a.change("config.json", quantization_config={"quant_method": "evil"}),
    "pipeline of its own": lambda a: a.change("config.json", custom_pipelines={"x": {"impl": "evil.Evil"}}),
    "unknown key with a path": lambda a: a.change("config.json", text_encoder_of_tomorrow=str(a.beside)),
    "code in the tokenizer": lambda a: a.change(
        "tokenizer_config.json", auto_map={"AutoTokenizer": ["evil.Evil", None]}
    ),
    "tokenizer file elsewhere": lambda a: a.change(
        "tokenizer_config.json", tokenizer_file=str(a.beside / "config.json")
    ),
    "vocabulary elsewhere": lambda a: a.change("tokenizer_config.json", vocab_file="/etc/passwd"),
    "inputs by position": lambda a: a.change("tokenizer_config.json", init_inputs=["/etc/passwd"]),
    "code among the tokens": lambda a: a.change("special_tokens_map.json", auto_map={"AutoTokenizer": "evil.Evil"}),
    "file among the tokens": lambda a: a.change("special_tokens_map.json", vocab_file="/etc/passwd"),
    "code in the preprocessor": lambda a: a.change(
        "preprocessor_config.json", auto_map={"AutoImageProcessor": "evil.Evil"}
    ),
    "code in the processor": lambda a: a.change("processor_config.json", auto_map={"AutoProcessor": "evil.Evil"}),
    "audio tokenizer": lambda a: a.change(
        "audio_tokenizer_config.json", audio_tokenizer_class="AutoModel", audio_tokenizer_name_or_path="somebody/evil"
    ),
    "generation of its own": lambda a: a.change("generation_config.json", custom_generate=str(a.beside)),
    "adapter": lambda a: a.change("adapter_config.json", peft_type="LORA", base_model_name_or_path=str(a.beside)),
    "adapter of the hub": lambda a: a.change("adapter_config.json", base_model_name_or_path="somebody/evil"),
    "index above": lambda a: a.change("model.safetensors.index.json", weight_map={"w": "../beside/x.safetensors"}),
    "activation": lambda a: a.change("config.json", in_features=1, activation_function="evil.Evil"),
}


@pytest.mark.parametrize("kind", LOADERS)
def test_no_trick_in_a_model_runs_its_code_or_asks_the_hub(
    made: dict[str, Path], kind: str, tmp_path: Path, asked: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded, messages = [], {}
    for (trick, play), inside in itertools.product(TRICKS.items(), (False, True)):
        attack = Attack(made[kind], tmp_path / trick, inside)
        attack.name_a_class_of_ours()
        play(attack)
        monkeypatch.chdir(attack.beside)  # where a name without a folder would be looked for
        try:
            LOADERS[kind](attack.folder)
            loaded.append(trick)
        except DiptychError as error:
            messages[trick] = str(error)
        assert not attack.ran(), f"{kind}: {trick}"
        assert not asked, f"{kind}: {trick}: {asked}"
        shutil.rmtree(tmp_path / trick)
    assert not loaded, f"these settings were taken for harmless: {loaded}"
    assert all(str(tmp_path / trick) in message for trick, message in messages.items())  # which names the file


@pytest.mark.parametrize("kind", LOADERS)
def test_a_model_with_python_in_and_beside_it_loads_without_running_it(
    made: dict[str, Path], kind: str, tmp_path: Path, asked: list[Any]
) -> None:
    attack = Attack(made[kind], tmp_path / "attack")
    assert LOADERS[kind](attack.folder) is not None
    assert not attack.ran()
    assert not asked


def test_transformers_fetches_no_kernels_for_an_architecture() -> None:
    code = "import diptych, transformers.integrations.hub_kernels as k; print(k._TRANSFORMERS_USE_HUB_KERNELS)"
    environment = {name: value for name, value in os.environ.items() if name != "USE_HUB_KERNELS"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "NO"


def test_the_recorder_sees_what_is_asked_of_the_hub(asked: list[Any]) -> None:
    from huggingface_hub import get_session

    with pytest.raises(Exception, match="no network in this test"):
        get_session().get("https://huggingface.co/somebody/evil/resolve/main/config.json")
    assert asked


def test_no_source_file_trusts_code_of_a_checkpoint() -> None:
    source = Path(dual.__file__).parent
    uses = [
        line.strip()
        for file in source.rglob("*.py")
        for line in file.read_text("utf-8").splitlines()
        if "trust_remote_code" in line
    ]
    assert uses
    assert all(
        '"trust_remote_code": False' in line or line.startswith('*("auto_map", "trust_remote_code"') for line in uses
    )


# links and what is no file


def test_a_link_that_leads_out_of_a_model_is_refused_and_the_hubs_cache_is_read(
    made: dict[str, Path], tmp_path: Path
) -> None:
    attack = Attack(made["clip"], tmp_path / "attack")
    weights = attack.folder / "model.safetensors"
    weights.rename(attack.beside / "model.safetensors")
    weights.symlink_to(attack.beside / "model.safetensors")
    with pytest.raises(ModelError, match=r"model.safetensors' is a link to .*outside the model's folder"):
        dual.load(attack.folder, "cpu")

    repository = tmp_path / "models--somebody--clip"
    snapshot = repository / "snapshots" / ("0" * 40)
    snapshot.mkdir(parents=True)
    (repository / "blobs").mkdir()
    for number, file in enumerate(made["clip"].iterdir()):
        blob = repository / "blobs" / str(number)
        shutil.copyfile(file, blob)
        (snapshot / file.name).symlink_to(Path("..", "..", "blobs", str(number)))
    assert dual.load(snapshot, "cpu").dim == 16
    (repository / "blobs" / "0").unlink()
    (repository / "blobs" / "0").symlink_to(attack.beside / "model.safetensors")  # a cache that leads further
    with pytest.raises(ModelError, match="outside the model's folder"):
        dual.load(snapshot, "cpu")


def test_a_run_whose_model_is_a_link_elsewhere_is_refused(made: dict[str, Path], tmp_path: Path) -> None:
    (tmp_path / "model").symlink_to(made["clip"], target_is_directory=True)
    with pytest.raises(ModelError, match="outside the model's folder"):
        dual.load(tmp_path, "cpu")
    (tmp_path / "model").unlink()
    (tmp_path / "model").symlink_to(made["prompter"], target_is_directory=True)
    with pytest.raises(ModelError, match="outside the model's folder"):
        load_prompter(tmp_path, "cpu")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="there are no named pipes")
@pytest.mark.parametrize("name", ["config.json", "diptych.json", "captioner.txt"])
def test_a_pipe_in_a_model_is_refused_instead_of_waited_for(made: dict[str, Path], tmp_path: Path, name: str) -> None:
    folder = Path(shutil.copytree(made["grid_captioner"], tmp_path / "model"))
    (folder / name).unlink(missing_ok=True)
    os.mkfifo(folder / name)
    signal.signal(signal.SIGALRM, waited_for)
    signal.alarm(20)
    for load in (load_captioner, load_matcher, load_prompter):
        with pytest.raises(ModelError, match=f"{name}' is neither a file nor a folder"):
            load(folder, device="cpu")
    signal.alarm(0)


def waited_for(*_: Any) -> None:
    raise TimeoutError("it was waited for")


def test_a_module_whose_folder_lies_outside_is_refused(made: dict[str, Path], tmp_path: Path) -> None:
    for path in ("../beside", "/etc", "a/../../beside", "..\\beside", "C:\\beside"):
        folder = Path(shutil.copytree(made["dual"], tmp_path / "model", dirs_exist_ok=True))
        modules = json.loads((folder / "modules.json").read_text())
        (folder / "modules.json").write_text(json.dumps([{**modules[0], "path": path}]))
        with pytest.raises(ModelError, match="lies outside the model's own"):
            refuse_unsafe(folder)
