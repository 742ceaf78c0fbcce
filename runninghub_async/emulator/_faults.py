"""Faults on order: a seeded script of what is to go wrong, and how often.

A script is a list of rules, in JSON as in Python:

    [{"on": "submit", "kind": "refuse", "code": "421", "share": 0.2},
     {"on": "query", "kind": "reset", "share": 0.1},
     {"on": "task", "kind": "fail", "code": "1501", "match": "forbidden"}]
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterable, Mapping
from typing import Any, Final, Literal, Self

import attrs
import cattrs

__all__ = ["Fault", "FaultScript"]

Place = Literal["submit", "query", "upload", "result", "task", "call", "webhook"]
Kind = Literal[
    "refuse", "rate", "delay", "drop", "reset", "half", "garbage", "status", "both", "stale",
    "unready", "fail", "error", "reason", "bare", "hidden", "empty", "reorder", "lost",
    "duplicate", "late", "redirect", "endless", "longer", "shorter", "html", "bomb", "flipped",
    "cut", "whole", "name",
]  # fmt: skip

_ANSWERS: Final = frozenset(
    {"refuse", "rate", "delay", "drop", "reset", "half", "garbage", "status"}
)
_HOSTILE: Final = frozenset(
    {
        "redirect", "endless", "longer", "shorter", "html", "bomb", "flipped", "cut", "whole",
        "name",
    }
)  # fmt: skip
_KINDS: Final[dict[str, frozenset[str]]] = {
    "submit": _ANSWERS | {"both", "late"},
    "query": _ANSWERS | {"stale", "unready"},
    "upload": _ANSWERS,
    "result": _ANSWERS - {"refuse", "rate"} | _HOSTILE,
    "task": frozenset({"fail", "error", "reason", "bare", "hidden", "empty", "reorder", "name"}),
    "call": _ANSWERS,
    "webhook": frozenset({"lost", "duplicate", "delay", "garbage"}),
}


@attrs.frozen(kw_only=True)
class Fault:
    """One rule of a fault script.

    `on`: the requests it is for: `submit` (every request that creates a task), `query` (Query V2,
    v1 status and outputs), `upload` (both uploads and the PUT of a LoRA), `result` (a download),
    `call` (every other endpoint), `task` or `webhook` (a delivery).

    `kind`: `refuse` answers the error `code`, in the envelope of that endpoint ("-1" is HTTP 401);
    `rate` answers HTTP 429, with `seconds` as Retry-After if given; `delay` answers after
    `seconds`; `drop` closes the connection before anything is done; `reset` does what was asked and
    closes the connection instead of answering; `half` answers half a body; `garbage` answers what
    is not JSON (or not an image); `status` answers HTTP `status`. A fault in place of an answer
    comes after the work was done; with `status`, `half` and `garbage` and `created=False` the work
    is not done.

    Of a submit, `both` answers `code` together with the id of a task that was created, and
    `late` creates one at once and answers after `seconds`, when its event may have been sent. Of
    a query, `stale` adds an old error's text to a running task's answer, and `unready` shows a
    live task as CREATE, or in v1 outputs as code 0 without data. Of a task, `fail` lets it fail
    with `code`, `hidden` leaves it unknown for its first `seconds` (3), `empty` lets it succeed
    without results, `reorder` turns the order of its results around, and `name` calls the type
    of each of its files `../../x`, in their URLs too. Three are forms of Query V2 that single
    clients have reported: `error` lets a task fail with `code` under the status ERROR, `reason`
    lets it fail with a `failedReason` that is text, and `bare` gives its results as bare URLs.
    Of a webhook, `lost` never sends it,
    `duplicate` sends it `times_each` times more, `delay` sends it `seconds` late, and `garbage`
    sends what is not JSON.

    Of a result, `half` announces all bytes that were asked for and sends the first half of them.
    The others are those of a host that means harm, or does not know better: `redirect` answers
    HTTP 302 to `url`, or to where it was asked if that is empty; `endless` begins with half a
    picture and never ends; `longer` announces twice the bytes that come, and `shorter` half of
    them; `html` is a page with HTTP 200; `bomb` is a PNG of 2 MB whose pixels are many GB;
    `flipped` has wrong bytes in the middle, under the ETag of the right ones; `cut` is a file
    that ends in the middle, as if that were all of it; `whole` takes no notice of ranges; `name`
    calls the file `../../x` in its Content-Disposition.

    `share`: the probability, from the emulator's seed. `times`: how often at most. `after`: how
    many requests of that place pass first. `match`: only where the prompt holds this text; the
    prompt of a workflow or an app is the text in its node values, and that of a query or a
    download is its task's.
    Raises `ValueError` for a rule that makes no sense.
    """

    on: Place
    kind: Kind
    code: str = "1005"
    share: float = 1.0
    times: int | None = None
    after: int = 0
    seconds: float | None = None
    status: int = 503
    created: bool = True
    match: str = ""
    times_each: int = 1
    url: str = ""

    def __attrs_post_init__(self) -> None:
        if self.on not in _KINDS:
            raise ValueError(f"on: expected one of {', '.join(_KINDS)}, got {self.on!r}")
        if self.kind not in _KINDS[self.on]:
            known = ", ".join(sorted(_KINDS[self.on]))
            raise ValueError(f"kind: expected one of {known} on {self.on}, got {self.kind!r}")
        if not 0 <= self.share <= 1:
            raise ValueError(f"share: expected 0 to 1, got {self.share!r}")


class FaultScript:
    """The rules of a run, and how often each has struck."""

    def __init__(self, faults: Iterable[Fault | Mapping[str, Any]], rng: random.Random) -> None:
        self._faults = [f if isinstance(f, Fault) else _fault(f) for f in faults]
        self._left = [fault.times for fault in self._faults]
        self._seen = [0] * len(self._faults)
        self._rng = rng

    @classmethod
    def parse(cls, text: str, rng: random.Random) -> Self:
        """A script from the text of a JSON file; `ValueError` names the rule at fault."""
        rules = json.loads(text)
        if not isinstance(rules, list):
            raise ValueError("a fault script is a JSON list of rules")  # noqa: TRY004
        return cls(rules, rng)

    def strike(self, place: Place, prompt: str = "") -> Fault | None:
        """The fault for this request, if any; the first rule that applies wins."""
        for number, fault in enumerate(self._faults):
            if fault.on != place or fault.match not in prompt:
                continue
            self._seen[number] += 1
            left = self._left[number]
            if self._seen[number] <= fault.after or left == 0:
                continue
            if fault.share < 1 and self._rng.random() >= fault.share:
                continue
            if left is not None:
                self._left[number] = left - 1
            return fault
        return None


def _fault(rule: Mapping[str, Any]) -> Fault:
    if not isinstance(rule, Mapping):
        raise ValueError(f"fault rule {rule!r:.60}: expected an object")  # noqa: TRY004
    try:
        return cattrs.Converter(forbid_extra_keys=True).structure(rule, Fault)
    except (cattrs.BaseValidationError, ValueError) as error:
        said = (
            "; ".join(cattrs.transform_error(error))
            if isinstance(error, cattrs.BaseValidationError)
            else str(error)
        )
        raise ValueError(f"fault rule {json.dumps(rule)}: {said}") from None
