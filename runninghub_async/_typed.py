"""A request for any model, which type checkers hold against the catalogue: see `_typed.pyi`."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any

from ._catalogue import Catalogue
from ._seedream import ModelRequest

__all__ = ["models"]


def _request(name_or_path: str, /, **params: Any) -> ModelRequest:
    return ModelRequest(name_or_path, params)


class _Models(Mapping[str, Callable[..., ModelRequest]]):
    """By path, documented name or alias: what makes a `ModelRequest` of the model's parameters.

        models["seedream-v4/text-to-image"](prompt="a poster", resolution="2k")

    Type checkers and editors know every model of the catalogue, its parameters and their choices.
    At run time any name will do; the request's own check tells whether there is such a model.
    """

    def __repr__(self) -> str:
        return f"<{len(self)} models of the catalogue>"

    def __getitem__(self, name_or_path: str) -> Callable[..., ModelRequest]:
        return partial(_request, name_or_path)

    def __contains__(self, name_or_path: object) -> bool:
        return name_or_path in Catalogue.load()

    def __iter__(self) -> Iterator[str]:
        return (spec.path for spec in Catalogue.load())

    def __len__(self) -> int:
        return len(Catalogue.load())


models = _Models()
