"""What the JSON files of a model's directory may say: an allow-list for each kind of file.

A checkpoint describes itself. It may not name code, another file, another repository or an address: whatever a library
would open, fetch or import lies in the directory under the name that the library expects, or the model is refused.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

from diptych.errors import ModelError

_HEAD = "diptych.models.heads.ResidualHead"
_EXPORTED = "diptych.models.onnx.exported_tower.ExportedTower"
_OPEN_CLIP = ("diptych.models.open_clip.towers.OpenClipImage", "diptych.models.open_clip.towers.OpenClipText")
OUR_MODULES = {
    **{name: name for name in (_HEAD, _EXPORTED, *_OPEN_CLIP)},
    **{"diptych.heads.ResidualHead": _HEAD, "diptych.towers.ResidualHead": _HEAD},
    "diptych.export.tower.ExportedTower": _EXPORTED,
    "diptych.open_clip_towers.OpenClipImage": _OPEN_CLIP[0],
    "diptych.open_clip_towers.OpenClipText": _OPEN_CLIP[1],
}
"""Module classes of diptych by the dotted names that models give them; models saved before 0.1 give earlier ones."""

THEIR_MODULES = frozenset(
    {
        *("Transformer", "Pooling", "Dense", "Normalize", "Router", "Asym", "Dropout", "LayerNorm"),
        *("WeightedLayerPooling", "CLIPModel", "StaticEmbedding"),
    }
)
"""Module classes of sentence-transformers that a model may name, by whatever path of that package."""

# A string that could be a path, a file, an address, a repository of the hub or a class: none of the words that choose
# an activation, a pooling or an interpolation looks like that.
_POINTER = re.compile(r"[/\\~\0]|\.\.|[A-Za-z]:\S|\.[A-Za-z]")

# Keys that transformers, sentence-transformers, peft, timm and open_clip obey by reading another file or repository,
# running code, or unpickling. They are refused with any value but null, false and empty ones.
_FORBIDDEN = frozenset(
    {
        *("auto_map", "trust_remote_code", "custom_pipelines", "custom_generate", "code_revision", "init_inputs"),
        *("configuration_files", "_configuration_file", "image_processor_filename", "feature_extractor_filename"),
        *("fast_tokenizer_files", "gguf_file", "tokenizer_object", "weights_only", "state_dict", "checkpoint_path"),
        *("base_model_name_or_path", "tokenizer_name_or_path", "pretrained_model_name_or_path", "adapter_kwargs"),
        *("audio_tokenizer", "audio_tokenizer_class", "audio_tokenizer_name_or_path", "_adapter_model_path"),
        *("quantization_config", "compression_config", "allow_all_kernels", "use_kernels", "kernel_config"),
        *("use_pretrained_backbone", "backbone", "repo_path", "index_path", "passages_path"),
        "pretrained_cfg_overlay",
    }
)
# Implementations of attention, experts and caches that are part of torch and transformers; any other may be fetched as
# native code.
_IMPLEMENTATIONS = ("eager", "sdpa", "batched_mm", "grouped_mm", "static", "dynamic", "hybrid", "sliding_window")
# What the keys that name classes of transformers may name.
_CLASSES = {
    "tokenizer_class": re.compile(r"\w*(Tokenizer|TokenizerFast|Backend)"),
    "processor_class": re.compile(r"\w*Processor"),
    "image_processor_type": re.compile(r"\w*(ImageProcessor|FeatureExtractor)(Fast|Pil)?"),
    "feature_extractor_type": re.compile(r"\w*(ImageProcessor|FeatureExtractor)(Fast|Pil)?"),
    "video_processor_type": re.compile(r"\w*VideoProcessor"),
}

# Keys whose values nothing opens: where a model came from, and texts.
_NOTES = frozenset(
    {
        *("_name_or_path", "name_or_path", "special_tokens_map_file", "transformers_version", "__version__"),
        *("_commit_hash", "hf_hub_id", "url", "origin_url", "license", "paper_ids", "paper_name", "notes", "tag"),
        *("description", "requirements", "framework", "diffusers_version", "hf_hub_filename"),
    }
)
_TEXTS = frozenset(
    {
        *("id2label", "label2id", "label_names", "label_descriptions", "task_specific_params", "prompts", "prefix"),
        *("added_tokens_decoder", "added_tokens", "chat_template", "stop_strings", "finetuning_task"),
    }
)
_TEXT_ENDS = ("_token", "_tokens", "_prompt", "_template", "_text")

# What `sentence_bert_config.json` may hand to the loaders of transformers.
_LOADER_SETTINGS = {
    "model": ("dtype", "torch_dtype", "add_pooling_layer", "use_cache", "attn_implementation"),
    "processor": (
        *("model_max_length", "max_length", "padding_side", "truncation_side", "use_fast", "do_lower_case"),
        *("min_pixels", "max_pixels", "clean_up_tokenization_spaces"),
    ),
    "config": ("use_cache", "num_labels", "output_hidden_states", "max_position_embeddings"),
}
_LOADERS = {
    **dict.fromkeys(("model_kwargs", "model_args"), "model"),
    **dict.fromkeys(("processor_kwargs", "tokenizer_kwargs", "tokenizer_args"), "processor"),
    **dict.fromkeys(("config_kwargs", "config_args"), "config"),
}
_TRANSFORMER_KEYS = frozenset(
    {
        *("transformer_task", "modality_config", "module_output_name", "processing_kwargs", "unpad_inputs"),
        *("query_length", "document_length", "query_expansion", "max_seq_length", "do_lower_case", *_LOADERS),
    }
)
_TASKS = ("feature-extraction", "text-generation", "fill-mask", "sequence-classification", "any-to-any")
_PROCESSING = ("common", "text", "audio", "image", "video", "chat_template")
_METHOD = re.compile(r"forward|get_[a-z]+_(features|embeds)")
_OPEN_CLIP_TOKENIZER = ("clean", "strip_sep_token", "language", "reduction_mask", "additional_special_tokens")
_TIMM_LOADING = ("pretrained", "pretrained_cfg", "pretrained_model_args", "cache_dir", "kwargs", "features_only")
_TIMM_NAME = re.compile(r"\w+(\.[\w-]+)?")
# Architectures whose own loaders fetch or unpickle more than the checkpoint, whatever it says.
_FETCHING = ("rag", "rwkv", "yoso", "mra", "sam3_video", "oneformer", "pix2struct", "qwen2_5_omni")

_NAMES = frozenset(
    {
        *("modules.json", "router_config.json", "config_sentence_transformers.json", "wordembedding_config.json"),
        *("config.json", "generation_config.json", "preprocessor_config.json", "processor_config.json"),
        *("video_preprocessor_config.json", "tokenizer_config.json"),
        *("special_tokens_map.json", "audio_tokenizer_config.json", "adapter_config.json", "open_clip_config.json"),
        "exported.json",
    }
)
_NAMES_LIKE = re.compile(r"sentence_[\w-]+_config\.json|.*\.safetensors\.index\.json")

Setting = tuple[tuple[str, ...], Any]


def is_checked(name: str) -> bool:
    """Whether a file of this name (lower case) is one whose settings a library obeys.

    There are no others: a configuration that names another file is refused.
    """
    return name in _NAMES or bool(_NAMES_LIKE.fullmatch(name))


def refuse_config(file: Path) -> None:
    """Stop at a JSON file that is not what a model's file of that name may be.

    The libraries read a configuration as theirs wherever it lies, so every one is held to the same rules, whichever
    module it seems to belong to.

    Raises:
        ModelError: it is damaged, or a setting is not allowed; the message names the file and the setting.
    """
    settings = _read(file)
    name = file.name.lower()
    if name.endswith(".safetensors.index.json"):
        _refuse_index(file, settings)
        return
    if module_types(file) and name != "config.json":
        return
    if name == "special_tokens_map.json":
        _refuse_unless(file, settings, lambda key: key.endswith(("_token", "_tokens")))
    if name == "adapter_config.json":
        raise ModelError(
            f"'{file}' makes this an adapter of another model, which would be fetched unseen; merge the two "
            "(peft: model.merge_and_unload().save_pretrained(folder)) and load the result"
        )
    for path, value in _settings({key: settings[key] for key in settings if key != "types"}):
        if reason := _reason(path, value):
            raise ModelError(f"'{file}' {reason}")
    if name.startswith("sentence_") and name.endswith("_config.json"):
        _refuse_transformer(file, settings)
    elif name == "open_clip_config.json":
        _refuse_open_clip(file, settings)
    elif name == "config.json":
        _refuse_architecture(file, settings)


def _read(file: Path) -> Any:
    try:
        settings = json.loads(file.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise ModelError(f"'{file}' is no valid JSON; fetch the model again") from error
    expected = list if file.name.lower() == "modules.json" else dict
    if not isinstance(settings, expected):
        raise ModelError(f"'{file}' is no JSON {'list' if expected is list else 'object'}; fetch the model again")
    return settings


def _settings(settings: Any) -> Iterator[Setting]:
    """Every value at whatever depth that is neither a list nor an object, or is forbidden, with the keys to it."""
    waiting: list[Setting] = [((), settings)]
    while waiting:
        path, value = waiting.pop()
        if path and (path[-1] in _FORBIDDEN or path[-1].endswith("_implementation")):
            yield path, value
        elif isinstance(value, dict):
            waiting += [((*path, str(key)), inner) for key, inner in value.items()]
        elif isinstance(value, list):
            waiting += [(path, inner) for inner in value]
        elif path:
            yield path, value


def _reason(path: tuple[str, ...], value: Any) -> str | None:
    """Why a setting is refused; None where it is allowed."""
    key, name = path[-1], ".".join(path)
    if key in _FORBIDDEN:
        return f"sets {name}, {_HARM}" if value else None
    if key.endswith("_implementation"):
        words = value.values() if isinstance(value, dict) else [value]
        if all(word in (*_IMPLEMENTATIONS, "", None) for word in words):
            return None
        return f"sets {name} to {value!r}; {', '.join(_IMPLEMENTATIONS)} alone need no code from elsewhere"
    if "model_args" in path and any(part in _TIMM_LOADING for part in path):
        return f"sets {name}, {_HARM}"
    if not isinstance(value, str) or not value or _is_text(path):
        return None
    if key == "model_type" and value in _FETCHING:
        return f"builds a part of the type '{value}' ({name}), which fetches more than the checkpoint"
    if key == "activation_function":
        return _activation_reason(value)
    if key in _CLASSES and not _CLASSES[key].fullmatch(value):
        kind = key.partition("_")[0]
        return f"names the {kind} '{value}', which is of another package or of another kind; not imported"
    if key in ("architecture", "timm_model_name") and not _TIMM_NAME.fullmatch(value):
        return f"names the architecture '{value}', which lies elsewhere; name one of timm's own"
    if key == "transformers_weights" and not _is_safetensors(value):
        return f"names the weights '{value}', which are no safetensors of its folder; convert them to model.safetensors"
    if key.endswith(("_file", "_files", "_filename")):
        return f"sets {name}, {_HARM}"
    if _POINTER.search(value) and key not in _CHECKED:
        return f"sets {name} to '{value}', which looks like a file, a class or a repository; remove it from the file"
    return None


# Checked where they stand, by rules of their own.
_CHECKED = (
    *("architecture", "timm_model_name", "transformers_weights", "hf_model_name", "hf_tokenizer_name"),
    "activation_function",
)
_HARM = (
    "by which code could run, pickles be read, or files and repositories elsewhere be opened; if you trust the model, "
    "remove the setting"
)


def _is_text(path: tuple[str, ...]) -> bool:
    if path[-1] in _NOTES or path[-1].endswith(_TEXT_ENDS):
        return True
    return any(key in _TEXTS or key in _NOTES or key.endswith(("_token", "_tokens")) for key in path)


def _activation_reason(name: str) -> str | None:
    """Why the name of an activation function is refused: transformers' own are words, sentence-transformers imports."""
    from torch import nn

    if not _POINTER.search(name):
        return None
    found = re.fullmatch(r"torch\.nn\.(?:modules\.[a-z_]+\.)?(\w+)", name)
    kind = getattr(nn, found[1], None) if found else None
    if isinstance(kind, type) and issubclass(kind, nn.Module):
        return None
    return (
        f"names the activation function '{name}', which is no module of torch.nn and is not imported; train the model "
        "with one of those, such as torch.nn.modules.activation.GELU"
    )


def _refuse_unless(file: Path, settings: dict[str, Any], allowed: Any, under: str = "") -> None:
    for key in settings:
        if not allowed(str(key)):
            raise ModelError(f"'{file}' sets {under}{key}, {_HARM}")


def _refuse_transformer(file: Path, settings: dict[str, Any]) -> None:
    """The rules of `sentence_bert_config.json`, whose settings become arguments of transformers' loaders."""
    _refuse_unless(file, settings, _TRANSFORMER_KEYS.__contains__)
    for group, loader in _LOADERS.items():
        inner = _object(file, settings, group)
        _refuse_unless(file, inner, _LOADER_SETTINGS[loader].__contains__, f"{group}.")
    if settings.get("transformer_task", _TASKS[0]) not in _TASKS:
        raise ModelError(f"'{file}' names the task '{settings['transformer_task']}'; it may be {', '.join(_TASKS)}")
    for modality, method in _object(file, settings, "modality_config").items():
        if not isinstance(method, dict) or not _METHOD.fullmatch(str(method.get("method", "forward"))):
            raise ModelError(f"'{file}' names a method for {modality} that is none by which a model embeds")
    _refuse_unless(file, _object(file, settings, "processing_kwargs"), _PROCESSING.__contains__, "processing_kwargs.")


def _refuse_open_clip(file: Path, settings: dict[str, Any]) -> None:
    """The rules of `open_clip_config.json`; the names of a text model and a tokenizer are not followed on loading."""
    model = _object(file, settings, "model_cfg")
    for tower in ("text_cfg", "multimodal_cfg"):
        config = _object(file, model, tower)
        extra = _object(file, config, "tokenizer_kwargs")
        _refuse_unless(file, extra, _OPEN_CLIP_TOKENIZER.__contains__, "tokenizer_kwargs.")


def _refuse_architecture(file: Path, settings: dict[str, Any]) -> None:
    """The rules of `config.json`, by which transformers (timm through it) chooses its classes."""
    kind = settings.get("model_type")
    if kind is None:
        return
    from transformers import CONFIG_MAPPING

    if not isinstance(kind, str) or kind not in CONFIG_MAPPING or kind in _FETCHING:
        raise ModelError(
            f"'{file}' is of the type '{kind}', for which transformers has no code of its own that needs nothing but "
            "the checkpoint; a newer transformers may"
        )


def _object(file: Path, settings: dict[str, Any], key: str) -> dict[str, Any]:
    inner = settings.get(key) or {}
    if not isinstance(inner, dict):
        raise ModelError(f"'{file}' is damaged: its {key} is no JSON object")
    return inner


def _refuse_index(file: Path, settings: dict[str, Any]) -> None:
    for name in _object(file, settings, "weight_map").values():
        if not _is_safetensors(name):
            raise ModelError(
                f"'{file}' names the weights '{name}', which are no safetensors of its folder; convert them to "
                "model.safetensors"
            )


def _is_safetensors(name: Any) -> bool:
    """Whether a name is that of a safetensors file in the same folder."""
    bare = isinstance(name, str) and not re.search(r"[/\\\0]", name)
    return bare and name.endswith((".safetensors", ".safetensors.index.json"))


def module_types(file: Path) -> list[str]:
    """The classes of the modules that a `modules.json` or a Router's configuration names; none for another file.

    Raises:
        ModelError: a class is neither of sentence-transformers nor of `OUR_MODULES`, a folder is not below the model's
            own, or the file is not of the form.
    """
    settings = _read(file)
    name = file.name.lower()
    try:
        if name == "modules.json":
            types, folders = [entry["type"] for entry in settings], [entry["path"] for entry in settings]
        elif name in ("router_config.json", "config.json"):
            types, folders = [*settings.get("types", {}).values()], [*settings.get("types", {})]
        else:
            return []
    except (LookupError, TypeError, AttributeError) as error:
        raise ModelError(f"'{file}' is no list of modules; fetch the model again") from error
    for kind in types:
        if not isinstance(kind, str) or (kind not in OUR_MODULES and _their_module(kind) is None):
            raise ModelError(f"'{file}' needs code of neither diptych nor sentence-transformers ({kind}); not run")
    for folder in folders:
        if not _is_below(folder):
            raise ModelError(f"'{file}' names the folder '{folder}', which lies outside the model's own; not read")
    return types


def _is_below(folder: Any) -> bool:
    if not isinstance(folder, str) or re.search(r"[\\:\0]", folder):
        return False
    path = PurePosixPath(folder)
    return not path.is_absolute() and ".." not in path.parts


def _their_module(name: str) -> str | None:
    """The name of a class of sentence-transformers that a dotted name means, by any of its paths; None: of no other."""
    found = re.fullmatch(r"sentence_transformers(?:\.[A-Za-z_]\w*)*\.(\w+)", name)
    return found[1] if found and found[1] in THEIR_MODULES else None


def module_class(name: str) -> Any:
    """The class that an allowed dotted name means; only modules of diptych and sentence-transformers are imported.

    Raises:
        ModelError: the name is not allowed.
    """
    import importlib

    if name in OUR_MODULES:
        module, _, kind = OUR_MODULES[name].rpartition(".")
        return getattr(importlib.import_module(module), kind)
    if (theirs := _their_module(name)) is None:
        raise ModelError(f"'{name}' is no module of diptych or sentence-transformers; not run")
    from sentence_transformers.base import modules as base
    from sentence_transformers.sentence_transformer import modules

    theirs = "Router" if theirs == "Asym" else theirs
    return getattr(base, theirs, None) or getattr(modules, theirs)
