"""Limits on the uploads held in memory: files per visit and bytes in total."""

from __future__ import annotations

import re
from collections import Counter, OrderedDict
from dataclasses import dataclass

from starlette.types import ASGIApp, Receive, Scope, Send
from streamlit.runtime import Runtime
from streamlit.runtime.scriptrunner import get_script_run_ctx

from diptych.serving.api.limits import CLIENT, share_of

_PATH = re.compile(r".*/_stcore/upload_file/([^/]+)/([^/]+)")
_PER_VISIT = 2
_TOTAL_BYTES = 256 * 2**20


@dataclass(frozen=True, slots=True)
class _Upload:
    client: str
    size: int


class Uploads:
    """ASGI middleware that discards the oldest unused uploads once a limit is exceeded.

    A visit may hold `per_visit` files, a client three quarters of `total` bytes. Beyond the total, the client with the
    most bytes loses its oldest file. Streamlit itself removes the uploads of a visit that has ended.
    """

    def __init__(self, app: ASGIApp, per_visit: int = _PER_VISIT, total: int = _TOTAL_BYTES) -> None:
        self.app, self.per_visit, self.total = app, per_visit, total
        self._uploads: OrderedDict[tuple[str, str], _Upload] = OrderedDict()  # by (session, file), oldest first

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, and enforce the limits after an upload."""
        upload = _PATH.fullmatch(scope["path"]) if scope["type"] == "http" and scope["method"] == "PUT" else None
        try:
            await self.app(scope, receive, send)
        finally:
            if upload:
                session, file = upload.groups()
                self._uploads.pop((session, file), None)
                self._uploads[session, file] = _Upload(CLIENT.get(), 0)
                self._trim(session)

    def _trim(self, session: str) -> None:
        self._refresh()
        for key in [key for key in self._uploads if key[0] == session][: -self.per_visit]:
            self._remove(key)
        while (largest := self._bytes_by_client().most_common(1)) and (
            largest[0][1] > share_of(self.total) or self._bytes_by_client().total() > self.total
        ):
            self._remove(next(key for key, upload in self._uploads.items() if upload.client == largest[0][0]))

    def _refresh(self) -> None:
        """Read the sizes from Streamlit's store, and drop entries that are no longer there."""
        manager = Runtime.instance().uploaded_file_mgr
        for key, upload in list(self._uploads.items()):
            files = manager.get_files(key[0], [key[1]])
            if files:
                self._uploads[key] = _Upload(upload.client, len(files[0].data))
            else:  # used, removed by the visitor, or part of a visit that has ended
                del self._uploads[key]

    def _bytes_by_client(self) -> Counter[str]:
        sizes: Counter[str] = Counter()
        for upload in self._uploads.values():
            sizes[upload.client] += upload.size
        return sizes

    def _remove(self, key: tuple[str, str]) -> None:
        del self._uploads[key]
        Runtime.instance().uploaded_file_mgr.remove_file(*key)  # type: ignore[attr-defined]


def release_upload(file_id: str) -> None:
    """Free the bytes of an upload of this visit once they have been used."""
    context = get_script_run_ctx()
    if context is not None:
        context.uploaded_file_mgr.remove_file(context.session_id, file_id)  # type: ignore[attr-defined]
