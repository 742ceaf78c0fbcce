"""Facts of a run that its journal keeps, so that it can be resumed from the journal alone.

`folder`: where the results are, an absolute path. `model`, `base_url`, `input`: of the run.
`begun`: when, ISO 8601 in UTC. `count`: how many requests the input has. `enlisted`: the mark of
an input that is in the journal to its end; empty as long as it is not. `manifest`: the folder
whose manifest is made from this journal.
"""

from __future__ import annotations

import argparse
import datetime
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from .._catalogue import ModelSpec
from .._reader import JournalReader
from ._manifest import line_text, stamp
from ._prompts import UsageError
from ._records import line_of

__all__ = ["STANDARD_INPUT", "facts_in", "mark_of", "new_facts", "take_folder"]

STANDARD_INPUT: Final = "standard input"


def facts_in(journal: str) -> Mapping[str, str]:
    """What the journal was told, nothing if there is none yet. Raises `JournalError`."""
    path = Path(journal)
    if not path.exists() or not path.stat().st_size:
        return {}
    with JournalReader(path) as reader:
        return reader.summary().facts


def mark_of(args: argparse.Namespace, spec: ModelSpec) -> str:
    """What tells whether a file was enlisted before: its content and what is made of it.

    The fields of the model that have defaults are not looked at: a newer catalogue makes no new
    requests. Raises `UsageError` if the file cannot be read.
    """
    if args.prompts == "-":
        return STANDARD_INPUT
    try:
        with Path(args.prompts).open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise UsageError(f"{args.prompts}: {error}") from error
    told = json.dumps([Path(args.prompts).suffix, digest, spec.path, args.param, args.limit])
    return hashlib.sha256(told.encode()).hexdigest()


def new_facts(args: argparse.Namespace, spec: ModelSpec, told: Mapping[str, str]) -> dict[str, str]:
    """What a run says of itself at its start; the first one's `begun` stays."""
    now = datetime.datetime.now(datetime.UTC)
    return {
        "model": spec.path,
        "input": STANDARD_INPUT if args.prompts == "-" else str(Path(args.prompts).absolute()),
        "begun": told.get("begun") or str(stamp(now)),
    }


def take_folder(option: str, folder: str, journal: str, told: Mapping[str, str]) -> Path:
    """The absolute path of the folder for the results, made if it is not there.

    Raises `UsageError` if it cannot be made, or if there is the manifest of another run in it:
    that run was paid for.
    """
    path = Path(folder).absolute()
    try:
        path.mkdir(parents=True, exist_ok=True)
        foreign = told.get("manifest") != str(path) and _is_foreign(path, journal, told)
    except (OSError, ValueError) as error:
        # `ValueError`: a null character, which a journal's fact may hold.
        raise UsageError(f"{option} {path}: {getattr(error, 'strerror', None) or error}") from None
    if foreign:
        raise UsageError(
            f"{option} {path}: there is the manifest of another run; take another folder"
        )
    return path


def _is_foreign(folder: Path, journal: str, told: Mapping[str, str]) -> bool:
    """Whether the folder's manifest, if there is one, is of other jobs than the journal: one that
    was moved here begins with the journal's first job."""
    try:
        with (folder / "manifest.jsonl").open(encoding="utf-8", errors="replace") as file:
            text = file.readline()
    except FileNotFoundError:
        return False
    if not told:
        return True
    with JournalReader(journal) as reader:
        record = next(reader.jobs(), None)
    mine = "" if record is None else line_text(line_of(record, ""))
    return _identity(text) != _identity(mine)


def _identity(text: str) -> object:
    try:
        line = json.loads(text)
        return [line[name] for name in ("index", "task_id", "model", "request")]
    except (ValueError, KeyError, TypeError, RecursionError):
        return text
