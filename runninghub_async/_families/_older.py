"""Calls that newer ones have replaced, for what only they know."""

from __future__ import annotations

from .._caller import Caller
from .._exceptions import PayloadError
from .._media import FilePath
from .._models import Task, TaskStatus
from .._protocol import check_task_id, parse_outputs
from .._protocol_v1 import build_v1, build_view, parse_status
from .._records import Upload
from .._uploads import OnProgress, Uploader

__all__ = ["Older"]


class Older:
    """`session.older`: the calls the service has marked as deprecated.

    `session.query` answers for tasks of every family; these are for tasks that it does not
    find, and for what they alone tell (`Task.progress_url`).
    """

    def __init__(self, caller: Caller, uploader: Uploader) -> None:
        self._caller = caller
        self._uploader = uploader

    async def status(self, task_id: str | Task) -> TaskStatus:
        """A task's status and nothing else ("Check Task Status")."""
        body = {"taskId": check_task_id(task_id)}
        request = build_v1(self._caller.site, "/task/openapi/status", body)
        return await self._caller.call(request, parse_status)

    async def outputs(self, task_id: str | Task) -> Task:
        """How a task stands, and what it made ("Check Task Output")."""
        asked = check_task_id(task_id)
        request = build_v1(self._caller.site, "/task/openapi/outputs", {"taskId": asked})
        return await self._caller.call(request, lambda answer: parse_outputs(answer, asked))

    async def upload(
        self,
        source: FilePath | str | bytes,
        *,
        file_type: str = "input",
        name: str | None = None,
        progress: OnProgress | None = None,
    ) -> Upload:
        """Upload a file for the file nodes of workflows ("Upload Resource"); it gets a name and
        no URL. See `Session.upload` for the rest."""
        return await self._uploader.upload(source, name, progress, older=file_type)

    def view_url(self, name: str | Upload) -> str:
        """The URL of an uploaded file, or of a file that an app was saved with (the `default` of a
        media input): `GET /task/openapi/view/<fileName>`.

        `name` is the file's name at the service, or the result of an upload. The URL needs no API
        key, so anybody who has it can see the file. The call does not check that the file exists.
        How long the URL works is not known. Raises `PayloadError` for an empty name.
        """
        text = name.name if isinstance(name, Upload) else name
        if not isinstance(text, str) or not text.strip("/"):
            raise PayloadError([f"name: expected a file's name, got {text!r:.60} @ $.name"])
        if text.startswith(("https://", "http://")):
            return text
        return build_view(self._caller.site, text.lstrip("/"))
