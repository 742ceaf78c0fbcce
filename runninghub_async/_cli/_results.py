"""What a task made, as files."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

import anyio.to_thread

from .._download import Download
from .._exceptions import RunningHubError
from .._models import Output, Task
from .._session import Session
from ._prompts import UsageError

__all__ = ["ending", "fetch", "fetch_all", "make_folder"]


def ending(output: Output) -> str:
    """The extension for its file: the service's word, which may name a type and nothing else."""
    return output.type if re.fullmatch(r"[a-z0-9]{1,5}", output.type) else "bin"


async def fetch(session: Session, output: Output, path: Path) -> Download:
    """Put a result into the file `path`, a text as well."""
    if output.url is not None:
        return await session.download(output, path)
    return await anyio.to_thread.run_sync(_store_text, output.text or "", path)


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
            files[place] = await fetch(session, output, path)
        except (RunningHubError, OSError) as error:
            faults.append(f"{path.name} of task {task.id}: {error}")
    return files, faults


async def make_folder(option: str, folder: str) -> Path:
    """The folder, made if it is not there. Raises `UsageError` if it cannot be."""
    path = Path(folder)
    try:
        await anyio.to_thread.run_sync(lambda: path.mkdir(parents=True, exist_ok=True))
    except OSError as error:
        raise UsageError(f"{option} {path}: {error.strerror or error}") from None
    return path


def _store_text(text: str, path: Path) -> Download:
    data = text.encode()
    path.write_bytes(data)
    return Download(path, len(data), hashlib.sha256(data).hexdigest())
