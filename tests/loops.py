"""The event loop that the suite runs on: `TEST_LOOP=asyncio` (the default), `uvloop` or `eager`.

`eager` is asyncio's own loop with tasks that start at once (Python 3.12 and later).

`asyncio.run` and `testing.run` both make their loop through `asyncio.Runner`: one function in its
place reaches every test. An event loop policy would be deprecated, and would not reach the virtual
clock, which has eager tasks as well. The virtual clock is a loop of its own, so that under
`uvloop` the tests on it are as they always are.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from typing import Any

#: A factory of event loops.
Factory = Callable[[], asyncio.AbstractEventLoop]

CHOSEN = os.environ.get("TEST_LOOP", "asyncio")

_Runner = asyncio.Runner


def names() -> list[str]:
    """The loops that there are for this Python on this system."""
    found = ["asyncio"]
    if hasattr(asyncio, "eager_task_factory"):
        found.append("eager")
    try:
        import uvloop  # noqa: F401
    except ImportError:  # it is not made for Windows
        return found
    return [*found, "uvloop"]


def factory(name: str, usual: Factory | None = None) -> Factory:
    """The factory of the loop of this name, on top of `usual` where possible."""
    if name == "asyncio":
        return usual or asyncio.new_event_loop
    if name == "uvloop":
        import uvloop

        return usual or uvloop.new_event_loop
    if name != "eager":
        raise ValueError(f"TEST_LOOP={name}: expected asyncio, uvloop or eager")

    def eager() -> asyncio.AbstractEventLoop:
        loop = (usual or asyncio.new_event_loop)()
        # uvloop calls a task factory in a way that asyncio's eager one does not know.
        if not type(loop).__module__.startswith("uvloop"):
            tasks: Any = asyncio
            loop.set_task_factory(tasks.eager_task_factory)
        return loop

    return eager


def runner(name: str) -> asyncio.Runner:
    """Runs coroutines on the loop of this name, regardless of `TEST_LOOP`."""
    return _Runner(loop_factory=factory(name))


def install() -> None:
    """Make `asyncio.run` and `testing.run` use the chosen loop from now on."""
    if CHOSEN not in names():
        raise RuntimeError(f"TEST_LOOP={CHOSEN}: this Python has {', '.join(names())}")
    if CHOSEN == "asyncio":
        return

    def chosen(*, debug: bool | None = None, loop_factory: Factory | None = None) -> asyncio.Runner:
        return _Runner(debug=debug, loop_factory=factory(CHOSEN, loop_factory))

    # asyncio.run finds the class in its own module, everybody else in the package.
    modules: tuple[Any, ...] = (asyncio, asyncio.runners)
    for module in modules:
        module.Runner = chosen
