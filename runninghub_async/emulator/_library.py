"""What the emulated site has on its shelves. The ids are those of the documentation's examples.

Workflows: `1904136902449209346` is an ordinary text-to-image graph, with nodes "3" KSampler,
"4" CheckpointLoaderSimple, "5" EmptyLatentImage, "6" and "7" CLIPTextEncode (positive and
negative), "8" VAEDecode, "9" SaveImage and a "10" LoadImage that nothing uses.
`1904136902449209347` is the same and was never run (810). `1904136902449209348` needs the
accessPassword "open-sesame"; its graph comes doubly encoded and holds a `__value__` wrapper, as
some do.

AI apps: `1937084629516193794` has an input of every `fieldType` and gives a PNG; its options come
in both shapes ComfyUI has. `1937084629516193795` gives one file of each other kind: MP4, MP3,
GLB and text. `1957344152277151746` is the quick-create app, with style models of two types.

Beside these, 120 apps and 120 resources of each kind, to page through; those cannot be run.
"""

from __future__ import annotations

import hashlib
import itertools
import json
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

import attrs

from .._catalogue import Catalogue, ModelSpec
from ._graphs import Graph, is_graph

__all__ = ["App", "Library", "Workflow"]

#: Copies of workflows that are remembered; the first ones are forgotten.
_MOST_COPIES: Final = 1000

#: No list gives more records than this at once.
LARGEST_PAGE: Final = 50

WORKFLOW: Final = "1904136902449209346"
NEVER_RUN: Final = "1904136902449209347"
LOCKED: Final = "1904136902449209348"
APP: Final = "1937084629516193794"
MEDIA_APP: Final = "1937084629516193795"
QUICK: Final = "1957344152277151746"
PASSWORD: Final = "open-sesame"  # noqa: S105  # what the emulator's own lock opens to


@attrs.frozen
class Workflow:
    """A saved workflow: its graph in API format, the password it asks for, whether it has been
    run once in the web page (810 if not), and whether its JSON is given doubly encoded."""

    graph: Graph
    password: str = ""
    ran: bool = True
    twice: bool = False


@attrs.frozen
class App:
    """An AI app: its inputs as `apiCallDemo` lists them, and the node id and extension of each
    result. `quick` ones are those of quick-create."""

    name: str
    nodes: tuple[Mapping[str, Any], ...]
    outputs: tuple[tuple[str, str], ...] = (("9", "png"),)
    password: str = ""
    ran: bool = True
    quick: bool = False

    @property
    def graph(self) -> Graph:
        """As much of the app's graph as its inputs show."""
        graph: dict[str, dict[str, Any]] = {}
        for node in self.nodes:
            key = str(node["nodeId"])
            found = graph.setdefault(key, {"class_type": node.get("nodeName"), "inputs": {}})
            found["inputs"][str(node["fieldName"])] = node.get("fieldValue")
        return graph


class Library:
    """The shelves of one emulator: the built-in things and those its options add."""

    def __init__(
        self,
        workflows: Mapping[str, Workflow | Graph],
        apps: Mapping[str, App | tuple[Mapping[str, Any], ...] | list[Mapping[str, Any]]],
    ) -> None:
        self.workflows = _built_in_workflows()
        for key, given in workflows.items():
            workflow = given if isinstance(given, Workflow) else Workflow(given)
            if not is_graph(workflow.graph):
                raise ValueError(f"workflows[{key!r}]: not a graph in API format")
            self.workflows[str(key)] = workflow
        self.apps = _built_in_apps()
        for key, app in apps.items():
            self.apps[str(key)] = app if isinstance(app, App) else App(f"App {key}", tuple(app))
        self._numbers = itertools.count(1)
        self._copies: deque[str] = deque()
        self._assets: dict[str, dict[str, dict[str, Any]]] = {"": {}, "groups": {}}
        self._ids = itertools.count(1)

    # -- lists --------------------------------------------------------------------------------

    def resources(self, params: Any) -> dict[str, Any] | None:
        """The page of models that was asked for; None for a request that makes no sense."""
        kind = params.get("resourceType") if isinstance(params, dict) else None
        if not isinstance(kind, str) or kind not in _RESOURCES:
            return None
        folder, ending = _RESOURCES[kind]
        name = str(params.get("resourceName") or "").casefold()
        bases, tags = params.get("baseModels") or [], params.get("tags") or []
        if not isinstance(bases, list) or not isinstance(tags, list):
            return None
        records = []
        for number in range(1, 121):
            base, tag = _BASES[number % len(_BASES)], _TAGS[number % len(_TAGS)]
            title = f"{kind.lower()}-{number:03d}"
            if name in title and (not bases or base in bases) and (not tags or tag in tags):
                records.append(
                    {
                        "id": f"19{number:017d}",
                        "resourceType": kind,
                        "resourceName": title,
                        "nodeModelName": f"{folder}/{title}{ending}",
                        "baseModel": base,
                        "tags": [tag],
                    }
                )
        return _page(records, params)

    def listed_apps(self, params: Any, origin: str) -> dict[str, Any] | None:
        """The page of apps that was asked for; None for a request that makes no sense."""
        if not isinstance(params, dict):
            return None
        sort = params.get("sort", "RECOMMEND")
        numbers = range(120, 0, -1) if sort == "NEWEST" else range(1, 121)
        records = []
        for number in numbers:
            app_id = str(int(APP) + 1000 + number)
            body = {"nodeInfoList": [{"nodeId": "6", "fieldName": "text", "fieldValue": "…"}]}
            call = f"curl -X POST {origin}/openapi/v2/run/ai-app/{app_id} -d '{json.dumps(body)}'"
            records.append(
                {
                    "webappId": app_id,
                    "title": f"Emulated app {number}",
                    "description": "Listed to be paged through; it cannot be run.",
                    "cover": f"{origin}/covers/{app_id}.png",
                    "invokeExample": call,
                }
            )
        return _page(records, params)

    def files(self) -> Iterator[str]:
        """The names of the files that apps were saved with."""
        for app in self.apps.values():
            for node in app.nodes:
                if node.get("fieldType") in _MEDIA and isinstance(node.get("fieldValue"), str):
                    yield node["fieldValue"]

    def models(self, params: Any) -> dict[str, Any] | None:
        """The requested page of the site's list of models; None for an invalid request."""
        fields = params if isinstance(params, dict) else {}
        word = str(fields.get("search") or fields.get("name") or "").casefold()
        catalogue = Catalogue.load()
        found = catalogue.search(word) if word else list(catalogue)
        page = _page(found, fields)
        return page and {**page, "records": [_shown(spec) for spec in page["records"]]}

    def model(self, params: Any) -> dict[str, Any] | None:
        """The site's page of one model, by its number; None for one that is not there."""
        wanted = str(params.get("id")) if isinstance(params, dict) else ""
        return next((_shown(s) for s in Catalogue.load() if _number_of(s.path) == wanted), None)

    def styles(self, params: Any) -> list[dict[str, Any]] | None:
        """The style models of a quick-create app; None if there is no such app."""
        if not isinstance(params, dict):
            return None
        app = self.apps.get(str(params.get("webappId")))
        if app is None or not app.quick:
            return None
        return [style for style in _STYLES if style["type"] == params.get("type", style["type"])]

    def duplicate(self, key: str) -> str | None:
        """The id of a new copy of a workflow; None if there is no such workflow."""
        workflow = self.workflows.get(key)
        if workflow is None:
            return None
        copy = str(int(WORKFLOW) + 1_000_000 + next(self._numbers))
        self.workflows[copy] = workflow
        self._copies.append(copy)
        if len(self._copies) > _MOST_COPIES:
            self.workflows.pop(self._copies.popleft(), None)
        return copy

    # -- assets -------------------------------------------------------------------------------

    def assets(self, shelf: str, verb: str, params: Any) -> Any:
        """Answer `assets/<verb>` or `assets/groups/<verb>`; None for what is not there.

        Only that these exist is documented; here each keeps whatever fields it is given.
        """
        if not isinstance(params, dict):
            return None
        kept = self._assets[shelf]
        if verb == "create":
            key = str(1_950_000_000_000_000_000 + next(self._ids))
            kept[key] = {**params, "id": key}
            return kept[key]
        if verb == "list":
            return _page(list(kept.values()), params)
        given = params.get("ids", params.get("id"))
        ids = [str(each) for each in (given if isinstance(given, list) else [given])]
        if any(each not in kept for each in ids):
            return None
        if verb == "update":
            for each in ids:
                kept[each] |= {key: value for key, value in params.items() if key not in _KEYS}
        found = [kept.pop(each) if verb == "delete" else kept[each] for each in ids]
        return found if isinstance(given, list) else found[0]


_KEYS: Final = ("id", "ids")
_MEDIA: Final = ("IMAGE", "AUDIO", "VIDEO")


def _number_of(path: str) -> str:
    """The number under which the site lists a model; the same in every run."""
    digest = hashlib.sha256(path.encode()).digest()
    return str(2 * 10**18 + int.from_bytes(digest[:7]) % 10**17)


def _shown(spec: ModelSpec) -> dict[str, Any]:
    """A model as the site's own pages show it."""
    return {
        "id": _number_of(spec.path),
        "name": (spec.aliases or (spec.name,))[-1],
        "nameEn": spec.name,
        "rhEndpoint": spec.path,
        "categoryType": spec.task,
        "outputType": spec.output,
        "description": "",
        "descriptionEn": "",
        "inputConfigJson": json.dumps([attrs.asdict(param) for param in spec.params]),
        "instanceType": None,
        "createTime": "2026-01-01T00:00:00",
        "updateTime": "2026-01-01T00:00:00",
    }


def _page(records: Sequence[Any], params: Mapping[str, Any]) -> dict[str, Any] | None:
    current, size = _count(params.get("current", 1)), _count(params.get("size", 10))
    if current < 1 or not 1 <= size <= LARGEST_PAGE:
        return None
    pages = -(-len(records) // size)
    return {
        "records": records[(current - 1) * size : current * size],
        "current": current,
        "size": size,
        "total": len(records),
        "pages": pages,
        "hasNext": current < pages,
    }


def _count(value: Any) -> int:
    """A page number, which may come as text; 0 if it is invalid."""
    if isinstance(value, str) and value.isdecimal() and len(value) < 9:
        return int(value)
    return value if isinstance(value, int) and not isinstance(value, bool) else 0


_RESOURCES: Final = {
    "UNET": ("unet", ".safetensors"),
    "CHECKPOINT": ("checkpoints", ".safetensors"),
    "LORA": ("loras", ".safetensors"),
    "GGUF": ("unet_gguf", ".gguf"),
}
_BASES: Final = ("SDXL", "FLUX.1", "Qwen", "Wan")
_TAGS: Final = ("photo", "anime", "design")

_STYLES: Final = tuple(
    {
        "id": str(number),
        "type": 1 + number % 2,
        "webappId": QUICK,
        "modelCategory": category,
        "modelName": name,
        "modelKey": "input1",
        "modelPreviewUrl": f"https://example.com/styles/{number}.png",
        "content": f"{name.lower()} style",
        "modelTrigger": name.lower(),
        "modelLoar1FileName": f"{name.lower()}.safetensors",
        "modelLoar1Weight": "0.8",
        "modelLoar2FileName": None,
        "modelLoar2Weight": None,
    }
    for number, (category, name) in enumerate(
        [("painting", "Ink"), ("painting", "Gouache"), ("photo", "Film"), ("photo", "Studio"),
         ("design", "Poster"), ("design", "Pixel")], 1
    )
)  # fmt: skip


def _text_to_image() -> dict[str, Any]:
    return {
        "3": {
            "class_type": "KSampler",
            "inputs": {
                "seed": 156680208700286, "steps": 20, "cfg": 8.0, "sampler_name": "euler",
                "scheduler": "normal", "denoise": 1.0, "model": ["4", 0], "positive": ["6", 0],
                "negative": ["7", 0], "latent_image": ["5", 0],
            },
        },
        "4": {"class_type": "CheckpointLoaderSimple",
              "inputs": {"ckpt_name": "v1-5-pruned-emaonly.safetensors"}},
        "5": {"class_type": "EmptyLatentImage",
              "inputs": {"width": 512, "height": 512, "batch_size": 1}},
        "6": {"class_type": "CLIPTextEncode",
              "inputs": {"text": "a paper boat on a lake", "clip": ["4", 1]}},
        "7": {"class_type": "CLIPTextEncode", "inputs": {"text": "watermark", "clip": ["4", 1]}},
        "8": {"class_type": "VAEDecode", "inputs": {"samples": ["3", 0], "vae": ["4", 2]}},
        "9": {"class_type": "SaveImage",
              "inputs": {"filename_prefix": "ComfyUI", "images": ["8", 0]}},
        "10": {"class_type": "LoadImage", "inputs": {"image": "example.png", "upload": "image"}},
    }  # fmt: skip


def _built_in_workflows() -> dict[str, Workflow]:
    wrapped = _text_to_image()
    wrapped["9"]["inputs"]["with_metadata"] = {"__value__": [False, True]}
    return {
        WORKFLOW: Workflow(_text_to_image()),
        NEVER_RUN: Workflow(_text_to_image(), ran=False),
        LOCKED: Workflow(wrapped, password=PASSWORD, twice=True),
    }


def _input(
    node: str, name: str, field: str, kind: str, value: Any, options: Any, says: str
) -> dict[str, Any]:
    return {
        "nodeId": node,
        "nodeName": name,
        "fieldName": field,
        "fieldValue": value,
        "fieldData": json.dumps(options) if options is not None else None,
        "fieldType": kind,
        "description": says,
        "descriptionCn": None,
        "descriptionEn": says,
    }


def _built_in_apps() -> dict[str, App]:
    number = {"default": 20, "min": 1, "max": 100, "step": 1}
    strength = {"default": 0.75, "min": 0.0, "max": 1.0, "step": 0.05}
    files = [["example.png", "boat.png"], {"image_upload": True}]
    prompt = _input("6", "CLIPTextEncode", "text", "STRING", "a paper boat",
                    ["STRING", {"multiline": True}], "prompt")  # fmt: skip
    every = (
        prompt,
        # The newer of the two ways in which a node lists its choices.
        _input("3", "KSampler", "scheduler", "LIST", "normal",
               ["COMBO", {"options": ["normal", "karras"], "default": "normal"}], "scheduler"),
        _input("3", "KSampler", "steps", "INT", "20", ["INT", number], "steps"),
        _input("3", "KSampler", "denoise", "FLOAT", "0.75", ["FLOAT", strength], "strength"),
        _input("11", "easy boolean", "value", "BOOLEAN", "true",
               ["BOOLEAN", {"default": True}], "upscale"),
        _input("3", "KSampler", "sampler_name", "LIST", "euler",
               [["euler", "dpmpp_2m", "ddim"], {"default": "euler"}], "sampler"),
        _input("12", "ImpactSwitch", "select", "SWITCH", "1", ["1", "2", "3"], "branch"),
        _input("10", "LoadImage", "image", "IMAGE", "example.png", files, "picture"),
        _input("13", "LoadAudio", "audio", "AUDIO", "example.mp3", None, "audio"),
        _input("14", "LoadVideo", "file", "VIDEO", "example.mp4", None, "video"),
    )  # fmt: skip
    media = (("20", "mp4"), ("21", "mp3"), ("22", "glb"), ("23", "txt"))
    return {
        APP: App("Poster with everything", every),
        MEDIA_APP: App("A file of every kind", (prompt,), media),
        QUICK: App("Quick create", (prompt,), quick=True),
    }
