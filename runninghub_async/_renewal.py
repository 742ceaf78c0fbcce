"""Matches the outputs of a task's fresh answer to those of the earlier one. No I/O.

A fresh URL has another query and may have another host; the order of outputs is not documented.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Hashable, Iterable, Mapping, Sequence

from ._addresses import path_of
from ._models import Output

__all__ = ["matched"]


def matched(old: Sequence[Output], fresh: Sequence[Output]) -> Mapping[int, Output]:
    """The outputs of `old`, by their places, with their matches in `fresh`, as far as these are
    certain. No output of `fresh` is used twice.

    Two match if they alone have this URL path. Otherwise they match if they alone have their node
    and type among those that are left, or have the same place among equally many; or if just these
    two are left and their types do not contradict each other.
    """
    found: dict[int, Output] = {}
    left = dict(enumerate(fresh))
    by_path = _alone({n: _path(output) for n, output in enumerate(old)})
    for path, there in _alone({n: _path(output) for n, output in left.items()}).items():
        if path and path in by_path:
            found[by_path[path]] = left.pop(there)
    mine = _grouped((n, o) for n, o in enumerate(old) if n not in found)
    theirs = _grouped(left.items())
    for kind, places in mine.items():
        candidates = theirs.get(kind, ())
        if len(candidates) == len(places):
            found |= {n: left.pop(there) for n, there in zip(places, candidates, strict=True)}
    rest = [n for n in range(len(old)) if n not in found]
    if len(rest) == len(left) == 1:
        ((_, last),) = left.items()
        if not old[rest[0]].type or old[rest[0]].type == last.type:
            found[rest[0]] = last
    return _each_once(found)


def _each_once(found: Mapping[int, Output]) -> dict[int, Output]:
    """Removes outputs that repeat an earlier URL."""
    used: set[str | None] = set()
    kept: dict[int, Output] = {}
    for place, output in sorted(found.items()):
        if output.url not in used:
            kept[place] = output
            used.add(output.url)
    return kept


def _path(output: Output) -> str:
    return path_of(output.url) if output.url else ""


def _alone(names: Mapping[int, str]) -> dict[str, int]:
    """Names and their places, without names that occur more than once."""
    places: dict[str, list[int]] = defaultdict(list)
    for place, name in names.items():
        places[name].append(place)
    return {name: found[0] for name, found in places.items() if len(found) == 1}


def _grouped(outputs: Iterable[tuple[int, Output]]) -> dict[Hashable, list[int]]:
    groups: dict[Hashable, list[int]] = defaultdict(list)
    for place, output in outputs:
        groups[output.node_id, output.type].append(place)
    return groups
