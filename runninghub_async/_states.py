"""The states of a job and its legal moves: the one table that memory, journal and docs share.

    new ──> submitting ──> accepted ──> running ──> succeeded ──> stored
                                                        └──> partly_stored
     ^          │
     └ refused <┴─> unknown, failed;     accepted, running ──> failed, cancelled

A job is `submitting` from before its request leaves until the answer is understood. If the process
that sent it is gone, the outcome cannot be known: the job becomes `unknown`.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from typing import Final

__all__ = ["ENDED", "MOVES", "OPEN", "JobState", "may_move"]


class JobState(enum.StrEnum):
    """Where a job stands, in the journal as in memory."""

    NEW = "new"
    SUBMITTING = "submitting"
    REFUSED = "refused"
    ACCEPTED = "accepted"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    PARTLY_STORED = "partly_stored"
    STORED = "stored"
    FAILED = "failed"
    CANCELLED = "cancelled"
    UNKNOWN = "unknown"


_S = JobState

#: From each state, where a job may go, and what takes it there.
MOVES: Final[Mapping[JobState, Mapping[JobState, str]]] = {
    _S.NEW: {
        _S.SUBMITTING: "its request is about to leave",
        _S.FAILED: "its request is at fault, and never sent",
        _S.STORED: "the same content was stored before (reuse)",
    },
    _S.SUBMITTING: {
        _S.ACCEPTED: "the service answered with a task id, or its webhook did",
        _S.REFUSED: "certainly nothing was created",
        _S.NEW: "given up before the request left",
        _S.FAILED: "refused for good",
        _S.UNKNOWN: "the answer was lost, or the process that waited for it",
        _S.SUCCEEDED: "the answer told of a task that had ended",
        _S.CANCELLED: "the answer told of a task that was cancelled",
    },
    _S.REFUSED: {
        _S.NEW: "left until later",
        _S.SUBMITTING: "its request is about to leave again",
        _S.FAILED: "its request is at fault",
    },
    _S.ACCEPTED: {
        _S.RUNNING: "seen running",
        _S.SUCCEEDED: "seen done",
        _S.FAILED: "seen failed, or the service no longer knows it",
        _S.CANCELLED: "seen cancelled",
    },
    _S.RUNNING: {
        _S.SUCCEEDED: "seen done",
        _S.FAILED: "seen failed, or the service no longer knows it",
        _S.CANCELLED: "seen cancelled",
    },
    _S.SUCCEEDED: {
        _S.STORED: "its results are on disk, whole",
        _S.PARTLY_STORED: "some of its results are on disk, and others could not be fetched",
    },
    _S.PARTLY_STORED: {
        _S.STORED: "the missing results are on disk now",
        _S.SUCCEEDED: "a file of it is gone or changed: fetch it again",
    },
    _S.STORED: {_S.SUCCEEDED: "a file of it is gone or changed: fetch it again"},
    _S.FAILED: {
        _S.NEW: "the user retries it",
        _S.ACCEPTED: "the user retries it, and a fresh query shows that its task is there",
    },
    _S.CANCELLED: {_S.NEW: "the user retries it"},
    _S.UNKNOWN: {
        _S.ACCEPTED: "its webhook handed back the task id",
        _S.SUBMITTING: "the user's policy submits it again, at the risk of a second bill",
        _S.NEW: "the user retries it, at the risk of a second bill",
    },
}

#: The states that a resumed run continues.
OPEN: Final = (
    _S.NEW,
    _S.SUBMITTING,
    _S.REFUSED,
    _S.ACCEPTED,
    _S.RUNNING,
    _S.SUCCEEDED,
    _S.PARTLY_STORED,
)

#: What it leaves as it is, unless it is told otherwise.
ENDED: Final = (_S.STORED, _S.FAILED, _S.CANCELLED, _S.UNKNOWN)


def may_move(old: JobState, new: JobState) -> bool:
    """Whether a job may go from `old` to `new`; to stay is always allowed."""
    return old is new or new in MOVES[old]
