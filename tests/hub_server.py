"""A small hub: the part of the Hugging Face hub's HTTP protocol by which its own client pushes and fetches models.

Repositories live in memory, each with its commits: files by path, large ones (LFS) by their SHA-256. No package offers
such a server; what it answers is what `huggingface_hub` reads.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlsplit

TOKEN = "hf_" + "of_this_test"
LARGE = 100_000  # bytes from which a file goes by LFS


class Repository:
    """Commits in order, each a whole tree: path -> content."""

    def __init__(self) -> None:
        self.commits: list[tuple[str, dict[str, bytes], str]] = []

    def commit(self, changed: dict[str, bytes], message: str) -> str:
        files = {**(self.commits[-1][1] if self.commits else {}), **changed}
        oid = hashlib.sha1(json.dumps([len(self.commits), sorted(files)]).encode()).hexdigest()
        self.commits.append((oid, files, message))
        return oid

    def at(self, revision: str) -> tuple[str, dict[str, bytes], str]:
        return next((c for c in self.commits if c[0] == revision), self.commits[-1])


class Hub(ThreadingHTTPServer):
    """The hub; `requests` lists what it was asked, `uploads` the large files that were sent to it."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Requests)
        self.repositories: dict[str, Repository] = {}
        self.large: dict[str, bytes] = {}
        self.requests: list[str] = []
        self.uploads: list[str] = []
        threading.Thread(target=self.serve_forever, daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class Requests(BaseHTTPRequestHandler):
    server: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: Any) -> None:
        pass

    def answer(self, status: int, content: Any = b"", **headers: str) -> None:
        body = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def missing(self, code: str) -> None:
        self.answer(404, {"error": code}, X_Error_Code=code, X_Error_Message=f"{code} (this hub)")

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        path = unquote(urlsplit(self.path).path)
        self.server.requests.append(f"POST {path}")
        if self.headers.get("Authorization") != f"Bearer {TOKEN}" and path != "/api/validate-yaml":
            self.answer(401, {"error": "Invalid username or password."}, X_Error_Message="Invalid credentials")
        elif path == "/api/repos/create":
            self.create(json.loads(body))
        elif path == "/api/validate-yaml":
            self.answer(200, {"errors": [], "warnings": []})
        elif match := re.fullmatch(r"/api/models/(.+)/preupload/.+", path):
            self.preupload(self.server.repositories[match[1]], json.loads(body)["files"])
        elif path.endswith(".git/info/lfs/objects/batch"):
            self.batch(json.loads(body)["objects"])
        elif match := re.fullmatch(r"/api/models/(.+)/commit/.+", path):
            self.commit(match[1], [json.loads(line) for line in body.splitlines()])
        elif path.startswith("/verify/"):
            self.answer(200, {})
        else:
            self.missing("NotFound")

    def create(self, wanted: dict[str, Any]) -> None:
        name = f"{wanted.get('organization') or 'somebody'}/{wanted['name']}"
        url = f"{self.server.url}/{name}"
        if name in self.server.repositories:
            self.answer(409, {"error": "You already created this model repo", "url": url})
            return
        self.server.repositories[name] = Repository()
        self.server.repositories[name].commit({".gitattributes": b"*.safetensors filter=lfs\n"}, "initial commit")
        self.answer(200, {"url": url, "name": name, "id": name})

    def preupload(self, repository: Repository, files: list[dict[str, Any]]) -> None:
        there = repository.at("main")[1]
        modes = [
            {
                "path": file["path"],
                "uploadMode": "lfs" if file["size"] >= LARGE else "regular",
                "shouldIgnore": False,
                "oid": git_oid(there[file["path"]]) if file["path"] in there else None,
            }
            for file in files
        ]
        self.answer(200, {"files": modes})

    def batch(self, objects: list[dict[str, Any]]) -> None:
        told = []
        for each in objects:
            upload = {"href": f"{self.server.url}/upload/{each['oid']}", "header": {}}
            verify = {"href": f"{self.server.url}/verify/{each['oid']}", "header": {}}
            known = each["oid"] in self.server.large  # then there is nothing to do
            told.append({**each, **({} if known else {"actions": {"upload": upload, "verify": verify}})})
        self.answer(200, {"transfer": "basic", "objects": told})

    def do_PUT(self) -> None:
        content = self.rfile.read(int(self.headers["Content-Length"]))
        oid = self.path.rsplit("/", 1)[-1]
        if hashlib.sha256(content).hexdigest() != oid:
            self.answer(400, {"error": "other bytes than announced"})
            return
        self.server.large[oid] = content
        self.server.uploads.append(oid)
        self.answer(200)

    def commit(self, name: str, lines: list[dict[str, Any]]) -> None:
        changed: dict[str, bytes] = {}
        message = next(line["value"]["summary"] for line in lines if line["key"] == "header")
        for line in lines:
            value = line["value"]
            if line["key"] == "file":
                changed[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                changed[value["path"]] = self.server.large[value["oid"]]
        oid = self.server.repositories[name].commit(changed, message)
        self.answer(200, {"commitUrl": f"{self.server.url}/{name}/commit/{oid}", "commitOid": oid, "success": True})

    def do_GET(self) -> None:
        path = unquote(urlsplit(self.path).path)
        self.server.requests.append(f"{self.command} {path}")
        if path.startswith("/cdn/"):
            self.answer(200, self.server.large[path.rsplit("/", 1)[-1]])
            return
        match = re.fullmatch(r"(?:/api/models)?/([^/]+/[^/]+)(?:/(revision|tree|resolve)/([^/]+)(?:/(.+))?)?", path)
        if match is None or match[1] not in self.server.repositories:
            self.missing("RepoNotFound")
            return
        oid, files, _ = self.server.repositories[match[1]].at(match[3] or "main")
        if match[2] == "resolve":
            self.resolve(oid, files, match[4])
        elif match[2] == "tree":
            self.answer(200, [entry(name, content) for name, content in files.items()])
        else:
            siblings = [{"rfilename": name} for name in files]
            self.answer(200, {"id": match[1], "sha": oid, "siblings": siblings, "private": False, "tags": []})

    do_HEAD = do_GET  # noqa: N815 - the base class's own naming

    def resolve(self, oid: str, files: dict[str, bytes], name: str) -> None:
        if name not in files:
            self.missing("EntryNotFound")
            return
        content = files[name]
        if len(content) < LARGE:
            self.answer(200, content, ETag=f'"{git_oid(content)}"', X_Repo_Commit=oid)
            return
        sha = hashlib.sha256(content).hexdigest()
        linked = {"X_Linked_Etag": f'"{sha}"', "X_Linked_Size": str(len(content)), "X_Repo_Commit": oid}
        elsewhere = f"http://localhost:{self.server.server_port}"  # large files lie on another host, as on the real hub
        self.answer(302, Location=f"{elsewhere}/cdn/{sha}", **linked)


def entry(name: str, content: bytes) -> dict[str, Any]:
    lfs = {"oid": hashlib.sha256(content).hexdigest(), "size": len(content), "pointerSize": 134}
    told = {"type": "file", "path": name, "size": len(content), "oid": git_oid(content)}
    return {**told, "lfs": lfs} if len(content) >= LARGE else told


def git_oid(content: bytes) -> str:
    """What git calls a file; of a large one, the hub names its pointer, and the client compares that by SHA-256."""
    if len(content) >= LARGE:
        return hashlib.sha256(content).hexdigest()
    return hashlib.sha1(f"blob {len(content)}\0".encode() + content).hexdigest()
