"""What can be submitted: the typed requests of the seedream models, and one for any other model.

A typed request mirrors its model's documentation page: snake_case fields, the page's defaults,
which are sent, so that a run means the same when the service's defaults change. A field set to
None is left out. With `image_urls` a request goes to the model's image-to-image path.
"""

from __future__ import annotations

import functools
import operator
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Final, Literal, Protocol, cast

import attrs

from ._catalogue import Catalogue, ModelSpec, is_number
from ._exceptions import PayloadError
from ._media import FilePath, is_file
from ._money import Money
from ._text import faults_of

__all__ = [
    "GenerationRequest",
    "ModelRequest",
    "SeedreamRequest",
    "SeedreamV4",
    "SeedreamV5Lite",
    "SeedreamV5Pro",
    "SeedreamV45",
]


class GenerationRequest(Protocol):
    """What a session takes: anything that knows its path, its JSON body and its own faults."""

    @property
    def path(self) -> str:
        """The path below `/openapi/v2/`; with a leading slash, the one from the origin, for
        calls of the older API, whose body gets the key."""
        ...

    def to_params(self) -> dict[str, Any]:
        """The JSON body, in the service's own field names."""
        ...

    def check(self) -> tuple[str, ...]:
        """Every fault, each as `description @ $.path`; empty if there is none."""
        ...


_Picture = str | FilePath


def _image_list(value: Sequence[_Picture] | _Picture) -> tuple[_Picture, ...]:
    # A lone string would otherwise fall apart into its characters.
    if isinstance(value, str):
        return (value,)
    return (value,) if is_file(value) else tuple(cast(Sequence[_Picture], value))


@functools.cache
def _wire(cls: type[SeedreamRequest]) -> tuple[tuple[str, ...], operator.attrgetter[Any]]:
    """The JSON keys of a request, but for the pictures, and what fetches their values at once."""
    fields = [field for field in cls.wire_names if field != "image_urls"]
    return tuple(cls.wire_names[field] for field in fields), operator.attrgetter(*fields)


@attrs.frozen
class SeedreamRequest:
    """What all seedream requests share.

    `prompt`: 5 to 2000 characters. `width`, `height`: pixels. `resolution` (such as `2k`), when
    set, overrides both. `sequential_image_generation`: `auto` lets the model make up to
    `max_images` related pictures (1 to 15), each of which is billed. `image_urls`: up to 10
    pictures to work from: http(s) URLs, data URIs, or a `pathlib.Path`, which is uploaded first.
    `webhook_url` is called when the task ends.
    `instance_type`: `default` or `plus`, which one page asks of enterprise-shared keys and others
    do not name. Ranges and choices are those of the catalogue; `check` holds a request against
    them.
    """

    prompt: str
    width: int | None = 2048
    height: int | None = 2048
    image_urls: Sequence[_Picture] = attrs.field(default=(), converter=_image_list, kw_only=True)
    sequential_image_generation: Literal["disabled", "auto"] | None = attrs.field(
        default="disabled", kw_only=True
    )
    max_images: int | None = attrs.field(default=1, kw_only=True)
    resolution: str | None = attrs.field(default=None, kw_only=True)
    webhook_url: str | None = attrs.field(default=None, kw_only=True, repr=False)
    instance_type: str | None = attrs.field(default=None, kw_only=True)

    family: ClassVar[str]
    wire_names: ClassVar[Mapping[str, str]] = {
        "prompt": "prompt",
        "width": "width",
        "height": "height",
        "image_urls": "imageUrls",
        "sequential_image_generation": "sequentialImageGeneration",
        "max_images": "maxImages",
        "resolution": "resolution",
        "webhook_url": "webhookUrl",
        "instance_type": "instanceType",
    }

    @property
    def path(self) -> str:
        """`FAMILY/image-to-image` with `image_urls`, else `FAMILY/text-to-image`."""
        return f"{self.family}/{'image' if self.image_urls else 'text'}-to-image"

    def to_params(self) -> dict[str, Any]:
        """The JSON body; fields that are None, or an empty `image_urls`, are left out."""
        keys, values = _wire(type(self))  # type: ignore[arg-type]  # mypy: a class has no hash
        params = {k: v for k, v in zip(keys, values(self), strict=True) if v is not None}
        if self.image_urls:
            params["imageUrls"] = list(self.image_urls)
        return params

    def check(self) -> tuple[str, ...]:
        """Every fault against the catalogue, each as `description @ $.path`."""
        return self.checked_params()[0]

    def price(self) -> Money | None:
        """What it costs at most, by the catalogue, without asking; None where no rule tells."""
        return _spec(self.path).price_of(self.to_params())

    def checked_params(
        self, params: dict[str, Any] | None = None
    ) -> tuple[tuple[str, ...], dict[str, Any]]:
        """What `check` and `to_params` give, with the work done once; or not even that, where
        `params` are known already."""
        if params is None:
            params = self.to_params()
        return _spec(self.path).check(params), params


def _spec(path: str) -> ModelSpec:
    return Catalogue.load().find(path)


@attrs.frozen
class SeedreamV4(SeedreamRequest):
    """seedream-v4: sides of 512 to 8192 pixels, `resolution` of 1k, 2k or 4k.

    See `SeedreamRequest` for the fields.
    """

    family: ClassVar[str] = "seedream-v4"


@attrs.frozen
class SeedreamV45(SeedreamRequest):
    """seedream-v4.5: sides of 512 to 8192 pixels, `resolution` of 2k or 4k.

    See `SeedreamRequest` for the fields.
    """

    family: ClassVar[str] = "seedream-v4.5"


@attrs.frozen
class SeedreamV5Lite(SeedreamRequest):
    """seedream-v5-lite: width 1600 to 4704, height 1344 to 4096, `resolution` of 2k or 3k.

    `tools_type`: `web_search` lets the model look things up; text-to-image only, and the page's
    default there. None leaves it out. See `SeedreamRequest` for the other fields.
    """

    tools_type: Literal["web_search"] | None = attrs.field(
        default=attrs.Factory(
            lambda self: None if self.image_urls else "web_search", takes_self=True
        ),
        kw_only=True,
    )
    family: ClassVar[str] = "seedream-v5-lite"
    wire_names: ClassVar[Mapping[str, str]] = {
        **SeedreamRequest.wire_names,
        "tools_type": "toolsType",
    }


@attrs.frozen
class SeedreamV5Pro(SeedreamRequest):
    """seedream-v5-pro: sides of 240 to 8192 pixels, `resolution` of 1k or 2k; one picture a call.

    `output_format`: `jpeg`, the default, or `png`. A picture costs 0.27 CNY up to 2.36 megapixels
    and 0.54 CNY above, and each picture in `image_urls` after the first costs 0.018 CNY (page of
    2026-07-09). The sides are 1024 by default, which is the cheaper size; `resolution` is not
    sent unless it is set, since it overrides both. The estimate assumes that the service then uses
    the sides: its registry names `2k` as the default of `resolution`.
    `sequential_image_generation` and `max_images` are fields that this model does not have, so
    `check` refuses them.
    See `SeedreamRequest` for the other fields.
    """

    width: int | None = 1024
    height: int | None = 1024
    sequential_image_generation: Literal["disabled", "auto"] | None = attrs.field(
        default=None, kw_only=True
    )
    max_images: int | None = attrs.field(default=None, kw_only=True)
    output_format: Literal["jpeg", "png"] | None = attrs.field(default="jpeg", kw_only=True)
    family: ClassVar[str] = "seedream-v5-pro"
    wire_names: ClassVar[Mapping[str, str]] = {
        **SeedreamRequest.wire_names,
        "output_format": "outputFormat",
    }

    def checked_params(
        self, params: dict[str, Any] | None = None
    ) -> tuple[tuple[str, ...], dict[str, Any]]:
        """As for every seedream request. The model's page has a shorter limit on prompts than the
        service's registry; a typed request follows its page."""
        problems, params = super().checked_params(params)
        if isinstance(self.prompt, str) and len(self.prompt) > _PAGE_LIMIT:
            known = _spec(self.path).param("prompt")
            if known is not None and known.max_length and len(self.prompt) <= known.max_length:
                wider = f"; a ModelRequest takes up to {known.max_length}"
                problems += (f"prompt: longer than {_PAGE_LIMIT}{wider} @ $.prompt",)
        return problems, params


#: The longest prompt, in characters, that the page of seedream-v5-pro allows.
_PAGE_LIMIT: Final = 2000


@attrs.frozen
class ModelRequest:
    """Any model of the service, by path or by documented name, with its own JSON fields.

    A number of 19 digits is a model, too: some are called by it, `/openapi/v2/<19 digits>`. The
    parameters of such a model are not known, so any pass.

    In `params` a media field takes a `pathlib.Path` as well as a URL: the file is uploaded first,
    once per content. `checked=False` sends `params` without checking them, and uses `model` as a
    path: for models that are newer than the catalogue. `documented_keys` sends the keys of the
    documentation where the catalogue knows others that the service takes (see
    `ModelSpec.wire_params`).
    """

    model: str
    params: Mapping[str, Any] = attrs.field(factory=dict)
    checked: bool = attrs.field(default=True, kw_only=True)
    documented_keys: bool = attrs.field(default=False, kw_only=True)

    @property
    def path(self) -> str:
        """The model's path. Raises `PayloadError` for a name that the catalogue does not know."""
        return _spec(self.model).path if self._known else self.model.strip("/")

    @property
    def _known(self) -> bool:
        """Whether the catalogue has this model, or should have it."""
        return self.checked and not is_number(self.model)

    def to_params(self) -> dict[str, Any]:
        """The JSON body."""
        if not self._known:
            return dict(self.params)
        return _spec(self.model).wire_params(self.params, documented_keys=self.documented_keys)

    def check(self) -> tuple[str, ...]:
        """Every fault against the catalogue, each as `description @ $.path`."""
        if not isinstance(self.params, Mapping):
            return (f"params: expected a mapping, got {type(self.params).__name__} @ $",)
        if not self._known:
            segments = self.model.strip("/").split("/")
            fine = all(s not in ("", ".", "..") and not set(s) & set("?#% \\") for s in segments)
            if not fine:
                return (f"model: {self.model!r} is not a path @ $.model",)
            return faults_of(self.params)
        try:
            return _spec(self.model).check(self.params)
        except PayloadError as error:
            return error.problems

    def price(self) -> Money | None:
        """What it costs at most, by the catalogue, without asking; None where no rule tells, or
        the catalogue does not know the model."""
        catalogue = Catalogue.load()
        if not self._known and self.model not in catalogue:
            return None
        return _spec(self.model).price_of(self.params)
