"""What the service tells of accounts, files, apps and prices: the answers of the calls that make
no task, as values."""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal
from typing import Any, Generic, TypeVar

import attrs

from ._models import Task

__all__ = [
    "AccountStatus",
    "AppSummary",
    "KeyInfo",
    "Lora",
    "Page",
    "PricePreview",
    "QueueStatus",
    "Resource",
    "Style",
    "Upload",
    "WebhookDetail",
]

_T = TypeVar("_T")


@attrs.frozen
class AccountStatus:
    """An account (`/uc/openapi/accountStatus`). `money` and `currency` are None without a wallet;
    `tasks` counts those of the web site, too. `key_type`: NORMAL, SHARED or EXCLUSIVE."""

    coins: Decimal | None = None
    money: Decimal | None = None
    currency: str | None = None
    tasks: int = 0
    key_type: str = ""


@attrs.frozen
class QueueStatus:
    """The key's slots (`/openapi/v2/queue/status`): `limit` tasks at once, over all programs that
    use the key and the web site. `instances` are an exclusive key's machines."""

    limit: int = 0
    running: int = 0
    queued: int = 0
    total: int = 0
    key_type: str = ""
    instances: int | None = None


@attrs.frozen
class KeyInfo:
    """An API key of the account (`/openapi/v2/api-key/list`); `key` is masked by the service.
    `quota_limit` None means none. Dates are as the service writes them."""

    key: str
    name: str = ""
    status: int = 0
    quota_limit: Decimal | None = None
    quota_used: Decimal | None = None
    visible: bool | None = None
    expires: str = ""
    created: str = ""


@attrs.frozen
class Resource:
    """A model file that workflows can name (`/openapi/v2/resource/list`): `name` is what goes into
    a loader node. `facts` has everything that the service told."""

    name: str
    facts: Mapping[str, Any] = attrs.field(factory=dict, repr=False)


@attrs.frozen
class AppSummary:
    """An AI app of the public list (`/openapi/v2/aiapp/list`). `id` is what runs it; empty if the
    service's example call does not show one."""

    id: str
    title: str
    description: str = ""
    cover: str = ""
    facts: Mapping[str, Any] = attrs.field(factory=dict, repr=False)


@attrs.frozen
class Page(Generic[_T]):
    """One page of a list: `number` from 1, `size` items at most, `total` over all pages."""

    items: tuple[_T, ...]
    number: int = 1
    size: int = 0
    total: int = 0
    has_next: bool = False


@attrs.frozen
class PricePreview:
    """What the service would charge for a request (`/openapi/v2/price-preview/…`).

    `amount` is None where it names none. `free` says that this call would use up one of the
    `free_left` free ones. `text` is the service's wording.
    """

    amount: Decimal | None = None
    currency: str = ""
    text: str = ""
    free: bool = False
    free_left: int | None = None


@attrs.frozen
class Upload:
    """An uploaded file. `url` is for the parameters of standard models and lives one day; `name`
    is for the file nodes of workflows and apps. The older upload has no `url`. `size` in bytes,
    `sha256` in hex."""

    name: str
    url: str | None = None
    type: str = ""
    size: int = 0
    sha256: str = ""


@attrs.frozen
class Lora:
    """An uploaded LoRA: `name` goes into an `RHLoraLoader` node. `stored` is False where the
    service had the same bytes already and nothing was sent."""

    name: str
    md5: str
    stored: bool = True


@attrs.frozen
class WebhookDetail:
    """The delivery of a task's webhook (`/task/openapi/getWebhookDetail`). `status`: SUCCESS or
    FAILED. `data` is the event's text, and `task` what that says, where it can be read. Dates
    are the service's text."""

    id: str
    task_id: str
    url: str = attrs.field(default="", repr=False)
    status: str = ""
    response: str = ""
    retries: int = 0
    data: str = attrs.field(default="", repr=False)
    created: str = ""
    updated: str = ""
    task: Task | None = None


@attrs.frozen
class Style:
    """A style model of a quick-create app (`/api/fast/creation/model/params`). `key` is the input
    it stands for; `loras` are the files and weights behind it."""

    id: str
    name: str
    key: str = ""
    category: str = ""
    content: str = ""
    trigger: str = ""
    preview: str = ""
    loras: tuple[tuple[str, str], ...] = ()
