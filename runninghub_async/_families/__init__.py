"""The calls beside the main job, a family to a file, each an attribute of the session."""

from ._account import Account
from ._apps import Apps
from ._assets import AssetGroups, Assets
from ._comfyui import ComfyUI
from ._older import Older
from ._pages import Pages
from ._progress import TaskProgress
from ._quick import QuickCreate
from ._resources import Resources, ResourceType
from ._webhooks import WebhookEvents
from ._workflows import Workflows

__all__ = [
    "Account",
    "Apps",
    "AssetGroups",
    "Assets",
    "ComfyUI",
    "Older",
    "Pages",
    "QuickCreate",
    "ResourceType",
    "Resources",
    "TaskProgress",
    "WebhookEvents",
    "Workflows",
]
