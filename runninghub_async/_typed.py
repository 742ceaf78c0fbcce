"""A request for any model, which type checkers hold against the catalogue: see `_typed.pyi`."""

from __future__ import annotations

from typing import Any

from ._seedream import ModelRequest

__all__ = ["model"]


def model(name_or_path: str, /, **params: Any) -> ModelRequest:
    """`ModelRequest(name_or_path, params)`, with the parameters as keywords.

    Type checkers and editors know every model of the catalogue, its parameters and their choices;
    for a model that is newer, use `ModelRequest`.
    """
    return ModelRequest(name_or_path, params)
