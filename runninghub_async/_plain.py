"""Values as plain JSON data and back, for files, logs and other languages."""

from __future__ import annotations

import base64
import functools
from collections.abc import Mapping
from decimal import Decimal
from typing import Any, TypeVar

import cattrs
import cattrs.gen

from ._exceptions import RunningHubError
from ._models import ErrorInfo, Task

__all__ = ["structure", "unstructure"]

_T = TypeVar("_T")


def unstructure(value: Any) -> Any:
    """A value of this package, such as a `Task`, as JSON data: objects, lists, text, numbers,
    true, false and null. Amounts of money become text, so that none is rounded, and bytes
    base64. Errors and requests become plain too, but cannot be made from that again. A task's
    `progress_url` is a credential and left out."""
    return _converter().unstructure(value)


def structure(data: Any, cls: type[_T]) -> _T:
    """The value of class `cls` that `unstructure` made `data` of. Raises `ValueError`, which
    names every field at fault, for anything else."""
    try:
        return _converter().structure(data, cls)
    except (cattrs.BaseValidationError, cattrs.ForbiddenExtraKeysError) as error:
        raise ValueError("; ".join(cattrs.transform_error(error))) from None
    except cattrs.StructureHandlerNotFoundError as error:
        raise ValueError(f"{cls!r} is made of more than plain data: {error}") from None
    except (TypeError, AttributeError, ArithmeticError, LookupError) as error:
        raise ValueError(f"no {cls!r}: {error}") from None


def _is_path(cls: Any) -> bool:
    """Whether the values of `cls` are paths."""
    return hasattr(cls, "__fspath__")


@functools.cache
def _converter() -> cattrs.Converter:
    converter = cattrs.Converter(forbid_extra_keys=True)
    converter.register_unstructure_hook(Decimal, str)
    converter.register_unstructure_hook(bytes, lambda value: base64.b64encode(value).decode())
    converter.register_structure_hook(bytes, lambda value, _: base64.b64decode(value))
    converter.register_unstructure_hook(
        RunningHubError, lambda error: {"type": type(error).__name__, "message": str(error)}
    )
    converter.register_unstructure_hook_func(_is_path, lambda path: path.__fspath__())
    converter.register_structure_hook(Decimal, lambda value, _: Decimal(value))
    # What a task's failure holds is the service's business, and plain already.
    plain = Mapping[str, Any] | str | None
    converter.register_structure_hook(plain, lambda value, _: value)
    reason = cattrs.override(unstruct_hook=lambda value: value)
    converter.register_unstructure_hook(
        ErrorInfo, cattrs.gen.make_dict_unstructure_fn(ErrorInfo, converter, reason=reason)
    )
    # The address of the progress socket is a credential, and soon out of date.
    secret = cattrs.override(omit=True)
    converter.register_unstructure_hook(
        Task, cattrs.gen.make_dict_unstructure_fn(Task, converter, progress_url=secret)
    )
    return converter
