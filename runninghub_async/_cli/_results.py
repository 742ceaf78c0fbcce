"""What a task made, as files."""

from __future__ import annotations

from pathlib import Path

from .._download import keep_text
from .._exceptions import RunningHubError
from .._models import Output, Task
from .._names import ending
from .._saved import Download
from .._session import Session
from .._threads import run_in_thread
from ._prompts import UsageError

__all__ = ["fetch_all", "make_folder"]


async def _fetch(session: Session, output: Output, path: Path) -> Download:
    """Put a result into the file `path`, a text as well."""
    if output.url is not None:
        return await session.download(output, path)
    return await keep_text(output.text or "", path)


async def fetch_all(
    session: Session, task: Task, folder: Path
) -> tuple[dict[int, Download], list[str]]:
    """Put all results of `task` into `folder`: those that came, by their place, and what was
    wrong with the others."""
    files: dict[int, Download] = {}
    faults: list[str] = []
    for place, output in enumerate(task.outputs):
        path = folder / f"{task.id}-{place + 1}.{ending(output)}"
        try:
            files[place] = await _fetch(session, output, path)
        except (RunningHubError, OSError) as error:
            faults.append(f"{path.name} of task {task.id}: {error}")
    return files, faults


async def make_folder(option: str, folder: str) -> Path:
    """The folder, made if it is not there. Raises `UsageError` if it cannot be."""
    path = Path(folder)
    try:
        await run_in_thread(lambda: path.mkdir(parents=True, exist_ok=True))
    except OSError as error:
        raise UsageError(f"{option} {path}: {error.strerror or error}") from None
    return path
