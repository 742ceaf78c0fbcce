"""Calls that newer ones have replaced, for what only they know."""

from __future__ import annotations

from .._caller import Caller
from .._media import FilePath
from .._models import Task, TaskStatus
from .._protocol import check_task_id, parse_query
from .._protocol_v1 import build_v1, parse_status
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
        return await self._caller.call(request, lambda answer: parse_query(answer, asked))

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
