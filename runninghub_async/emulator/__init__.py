"""A stand-in for the service on loopback, for tests and demonstrations.

    async with Emulator(duration=2.0, faults=[Fault(on="submit", kind="refuse", code="421")]) as e:
        async with Session("any-key", base_url=e.url) as session: ...

It speaks the documented contract over real HTTP, to any client; it counts what it would have
billed; its pictures are drawn, not generated. On the command line: `runninghub-async emulator`.
"""

from ._faults import Fault, FaultScript
from ._server import Emulator
from ._service import Stats

__all__ = ["Emulator", "Fault", "FaultScript", "Stats"]
