"""Inference Endpoints: the directory that such an endpoint serves, and what answers its requests.

An endpoint imports `handler.py` from the directory, makes `EndpointHandler(path)` once, and calls it with each
request's JSON: `{"inputs": ..., "parameters": {...}}`. What it returns goes back as JSON.
"""

from __future__ import annotations

import json
import shutil
from importlib.metadata import version
from pathlib import Path

from diptych.errors import ConfigError
from diptych.models.checkpoints import bundled_models, model_directory
from diptych.runtime.atomic import new_folder
from diptych.runtime.quoting import markdown

MODEL = "model"
"""The folder of the model in the endpoint's directory."""

MAX_INPUTS = 64
"""Pictures, and texts, of one request."""

_HANDLER = '''"""What an Inference Endpoint runs: it makes one `EndpointHandler`, and calls it with each request."""

from diptych.serving.endpoint import Endpoint as EndpointHandler

__all__ = ["EndpointHandler"]
'''


def write_endpoint(name: str | Path, out: str | Path) -> Path:
    """Write the new directory `out`: `handler.py`, `requirements.txt`, `README.md`, and the model in `model/`.

    Pushed to the hub as it is, the repository can be deployed as an endpoint; `diptych.load` takes it too.

    Raises:
        ModelError: there is no such model.
        ConfigError: `out` exists.
    """
    out, source = Path(out), model_directory(name)
    if out.exists():
        raise ConfigError(f"'{out}' exists already; choose a new folder")
    needed = _extras(source)
    with new_folder(out) as folder:
        shutil.copytree(source, folder / MODEL, ignore=shutil.ignore_patterns("*.py", "__pycache__", ".*"))
        (folder / "handler.py").write_text(_HANDLER, "utf-8")
        (folder / "requirements.txt").write_text(f"diptych{needed}=={version('diptych')}\n", "utf-8")
        title = str(name) if str(name) in bundled_models() else Path(name).name
        card = source / "README.md"
        (folder / "README.md").write_text(_readme(title, card.read_text("utf-8") if card.exists() else ""), "utf-8")
    return out


def _extras(model: Path) -> str:
    """The extras of diptych that a model needs, as a requirement names them."""
    exported = any(model.rglob("exported.json"))
    open_clip = any(model.rglob("open_clip_config.json"))
    names = ["search", *["export"] * exported, *["open-clip"] * open_clip]
    return f"[{','.join(names)}]"


def _readme(title: str, card: str) -> str:
    """The endpoint's card: the hub's metadata of the model's own, how to deploy and ask it, then the model's card."""
    head, body = split_metadata(card)
    metadata = head or "library_name: diptych\n"
    metadata = "".join(line for line in metadata.splitlines(True) if not line.startswith("pipeline_tag"))
    request = json.dumps({"inputs": "<base64 of a picture>", "parameters": {"candidate_labels": ["a dog", "a cat"]}})
    return f"""---
{metadata}---
# {markdown(title)}, as an Inference Endpoint

`handler.py` answers an endpoint's requests, `requirements.txt` is what it installs (put diptych's wheel beside it and
name the file there, if your endpoint cannot fetch diptych), `model/` is the model. Push the directory to the hub
(`diptych hub push DIRECTORY USER/NAME`) and deploy the repository as an endpoint of the kind Custom.

```sh
curl $ENDPOINT -H "Authorization: Bearer $TOKEN" -H "Content-Type: application/json" -d '{request}'
```

| task | inputs | parameters | answer |
|---|---|---|---|
| `embed` | a text, texts, or `{{"texts": [...], "images": [...]}}` | | unit vectors |
| `classify` | a picture | `candidate_labels` | labels and scores, best first |
| `caption` | a picture | `count` | captions, best first |
| `match` | a picture | `texts` | the probability of each text |

A picture is base64 or a data URL; a body of type `image/*` works too. At most {MAX_INPUTS} of them a request.

{body}"""


def split_metadata(card: str) -> tuple[str, str]:
    """A card's metadata (YAML, without the lines of dashes; empty where there is none) and what stands after it."""
    if not card.startswith("---\n") or "\n---\n" not in card[4:]:
        return "", card
    head, _, body = card[4:].partition("\n---\n")
    return f"{head}\n", body
