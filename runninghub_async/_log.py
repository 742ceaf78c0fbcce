"""The package's loggers. A handler or filter of the user's that raises breaks nothing."""

from __future__ import annotations

import logging
import traceback
from typing import Any

__all__ = ["logger_of"]


class _SafeLogger(logging.LoggerAdapter[logging.Logger]):
    """Logs from the middle of a step, which an exception of a handler or filter would cut short:
    the id of a task that was just accepted would be lost."""

    def log(self, level: int, msg: object, *args: object, **kwargs: Any) -> None:
        """See `logging.Logger.log`."""
        try:
            # One frame further up: the line is the caller's, not this one.
            super().log(level, msg, *args, stacklevel=2, **kwargs)
        except Exception:
            # As `logging.Handler.handleError` does.
            if logging.raiseExceptions:
                traceback.print_exc()


def logger_of(name: str) -> _SafeLogger:
    """The logger called `name`."""
    return _SafeLogger(logging.getLogger(name), {})
