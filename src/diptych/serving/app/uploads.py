"""How much of what visitors upload is held: so many files of a visit, so many bytes in all."""

from __future__ import annotations

import re
from collections import Counter, OrderedDict
from dataclasses import dataclass
from typing import Any

from streamlit.runtime import Runtime
from streamlit.runtime.scriptrunner import get_script_run_ctx

from diptych.serving.api.limits import CLIENT, share_of

_PATH = re.compile(r".*/_stcore/upload_file/([^/]+)/([^/]+)")
_EACH = 2
_TOTAL = 256 * 2**20


@dataclass(frozen=True, slots=True)
class _Upload:
    client: str
    size: int


class Uploads:
    """ASGI: after each upload, removes the oldest that are too many, so that those never used do not stay.

    A visit may hold `each` of them, a client three quarters of the `total` bytes. Beyond the total, the client with
    the most bytes loses its oldest. Streamlit itself removes those of a visit that has ended.
    """

    def __init__(self, app: Any, each: int = _EACH, total: int = _TOTAL) -> None:
        self.app, self.each, self.total = app, each, total
        self._held: OrderedDict[tuple[str, str], _Upload] = OrderedDict()  # (session, file), the oldest first

    async def __call__(self, scope: dict[str, Any], receive: Any, send: Any) -> None:
        found = _PATH.fullmatch(scope["path"]) if scope["type"] == "http" and scope["method"] == "PUT" else None
        try:
            await self.app(scope, receive, send)
        finally:
            if found:
                self._held.pop((found[1], found[2]), None)
                self._held[found[1], found[2]] = _Upload(CLIENT.get(), 0)
                self._trim(found[1])

    def _trim(self, session: str) -> None:
        manager = Runtime.instance().uploaded_file_mgr
        for key, upload in list(self._held.items()):
            files = manager.get_files(key[0], [key[1]])
            if files:
                self._held[key] = _Upload(upload.client, len(files[0].data))
            else:  # used, taken away, or of a visit that has ended
                del self._held[key]
        for key in [key for key in self._held if key[0] == session][: -self.each]:
            self._remove(key)
        while (most := self._by_client().most_common(1)) and (
            most[0][1] > share_of(self.total) or self._by_client().total() > self.total
        ):
            self._remove(next(key for key, upload in self._held.items() if upload.client == most[0][0]))

    def _by_client(self) -> Counter[str]:
        held: Counter[str] = Counter()
        for upload in self._held.values():
            held[upload.client] += upload.size
        return held

    def _remove(self, key: tuple[str, str]) -> None:
        del self._held[key]
        Runtime.instance().uploaded_file_mgr.remove_file(*key)  # type: ignore[attr-defined]


def forget_upload(file_id: str) -> None:
    """Free the bytes of an upload of this visit, once they are used."""
    context = get_script_run_ctx()
    if context is not None:
        context.uploaded_file_mgr.remove_file(context.session_id, file_id)  # type: ignore[attr-defined]
