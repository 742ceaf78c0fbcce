"""The deliveries of webhooks."""

from __future__ import annotations

from .._caller import Caller
from .._models import Task
from .._protocol import check_task_id
from .._protocol_v1 import build_v1, parse_done, parse_webhook
from .._records import WebhookDetail

__all__ = ["WebhookEvents"]


class WebhookEvents:
    """`session.webhook_events`. To receive them see `runninghub_async.webhooks`."""

    def __init__(self, caller: Caller) -> None:
        self._caller = caller

    async def get(self, task_id: str | Task) -> WebhookDetail:
        """The delivery of a task's event ("Get Webhook Event Details").

        Raises `APIError` for a task without a webhook, `PayloadError`, `ProtocolError` or
        `TransportError`.
        """
        body = {"taskId": check_task_id(task_id)}
        request = build_v1(self._caller.site, "/task/openapi/getWebhookDetail", body)
        return await self._caller.call(request, parse_webhook)

    async def resend(self, event_id: str, *, url: str | None = None) -> None:
        """Deliver an event again, to `url` if given ("Resend Specific Webhook Event").
        `event_id` is `WebhookDetail.id`. Delivering twice does no harm."""
        body = {"webhookId": event_id} | ({"webhookUrl": url} if url else {})
        request = build_v1(self._caller.site, "/task/openapi/retryWebhook", body)
        await self._caller.call(request, parse_done)
