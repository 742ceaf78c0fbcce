"""A stand-in for the service on loopback, for tests and demonstrations.

    async with Emulator(duration=2.0, faults=[Fault(on="submit", kind="refuse", code="421")]) as e:
        async with Session("any-key", base_url=e.url) as session: ...

It speaks the documented contract over real HTTP, to any client: standard models, workflows and AI
apps by the newer and the older endpoints, uploads, webhooks, the progress socket and ComfyUI's own
interface. It counts what it would have billed; its pictures are drawn, not generated. On the
command line: `runninghub-async emulator`.

Its built-in workflows and apps have the ids of the documentation's examples: workflows
1904136902449209346 (text to image), 1904136902449209347 (never run: 810) and
1904136902449209348 (accessPassword "open-sesame"); apps 1937084629516193794 (an input of every
type), 1937084629516193795 (MP4, MP3, GLB and text) and the quick-create app 1957344152277151746.
"""

from ._faults import Fault, FaultScript
from ._library import App, Workflow
from ._server import Emulator, Recorded
from ._service import Stats

__all__ = ["App", "Emulator", "Fault", "FaultScript", "Recorded", "Stats", "Workflow"]
