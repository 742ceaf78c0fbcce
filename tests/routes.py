"""Every call of the package that reads an answer, by a short name."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import runninghub_async as rh

ID = "2013508786110730241"
WORKFLOW = rh.WorkflowRequest("1904136902449209346")
FILE = b"\x89PNG\r\n\x1a\n, and the rest"

Route = Callable[[rh.Session], Awaitable[Any]]

ROUTES: dict[str, Route] = {
    "submit": lambda s: s.submit(rh.SeedreamV5Lite("a poster of a paper boat")),
    "submit a workflow": lambda s: s.submit(WORKFLOW),
    "query": lambda s: s.query(ID),
    "price": lambda s: s.price(rh.SeedreamV5Lite("a poster of a paper boat")),
    "done": lambda s: s.cancel(ID),
    "upload": lambda s: s.upload(FILE),
    "lora": lambda s: s.upload_lora(Path(__file__)),
    "queue": lambda s: s.account.queue(),
    "account": lambda s: s.account.status(),
    "keys": lambda s: s.account.keys(),
    "resources": lambda s: s.resources.page("LORA"),
    "apps": lambda s: s.apps.page(),
    "app": lambda s: s.apps.get(ID),
    "workflow": lambda s: s.workflows.get(ID),
    "duplicate": lambda s: s.workflows.duplicate(ID),
    "styles": lambda s: s.quick_create.styles(ID),
    "status": lambda s: s.older.status(ID),
    "outputs": lambda s: s.older.outputs(ID),
    "old_upload": lambda s: s.older.upload(FILE),
    "webhook_detail": lambda s: s.webhook_events.get(ID),
    "resend": lambda s: s.webhook_events.resend("1"),
    "assets": lambda s: s.assets.list(),
    "asset groups": lambda s: s.assets.groups.create({"name": "g"}),
    "comfyui": lambda s: s.comfyui.reachable(),
}
