"""Whatever a host answers: a value, or an error of this package that says what was wrong.

`FUZZ_EXAMPLES` is the number of bodies of any bytes for each route; a fifth as many are answers of
known shape. `nox -s fuzz` sends 20,000.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
from typing import Any

import hypothesis.strategies as st
import pytest
from hypothesis import given, settings
from routes import ID, ROUTES
from support import FULL, SAMPLES

import runninghub_async as rh
from runninghub_async import webhooks
from runninghub_async.testing import MockTransport, VirtualTimeLoop

EXAMPLES = int(os.environ.get("FUZZ_EXAMPLES", "500" if FULL else "100"))
DOCUMENTED: dict[str, Any] = json.loads((SAMPLES / "documented.json").read_text("utf-8"))


class Asked:
    """One session on a virtual clock, whose every request gets `answer`."""

    def __init__(self) -> None:
        self.answer = rh.Response(200)
        self.loop = VirtualTimeLoop()
        retry = rh.RetryPolicy(attempts=1, call_attempts=1)
        self.session = rh.Session(
            "a-key", transport=MockTransport(lambda _: self.answer), retry=retry
        )
        rh.Catalogue.load()
        self.loop.run_until_complete(self.session.__aenter__())

    def ask(self, route: str, answer: rh.Response) -> Any:
        self.answer = answer
        if route == "webhook":
            return webhooks.parse(answer.body, answer.headers)
        call: Any = ROUTES[route](self.session)
        if route.startswith("submit"):
            # One that finds no room waits for as long as it takes.
            call = asyncio.wait_for(call, 3600)
        return self.loop.run_until_complete(call)

    def close(self) -> None:
        self.loop.run_until_complete(self.session.aclose())
        self.loop.close()


@pytest.fixture(scope="module")
def asked() -> Any:
    asked = Asked()
    yield asked
    asked.close()


@pytest.mark.parametrize("route", [*ROUTES, "webhook"])
def test_any_bytes_are_a_value_or_a_protocol_error(route: str, asked: Asked) -> None:
    """With HTTP 200, where nothing but the body speaks; of a submit, its fate is then unknown."""

    @settings(max_examples=EXAMPLES)
    @given(st.binary(max_size=100))
    def check(body: bytes) -> None:
        try:
            asked.ask(route, rh.Response(200, body))
        except rh.ProtocolError:
            return
        except rh.SubmitUnknown as error:
            if not isinstance(error.__cause__, rh.ProtocolError):
                raise

    check()


@pytest.mark.parametrize("route", [*ROUTES, "webhook"])
def test_no_answer_of_a_known_shape_breaks_a_call(route: str, asked: Asked) -> None:
    """The documented fields with anything in them, at any status: an error of this package."""

    @settings(max_examples=EXAMPLES // 5)
    @given(_answers, st.sampled_from([200, 200, 200, 302, 400, 401, 404, 429, 500, 503]))
    def check(answer: Any, status: int) -> None:
        body = json.dumps(answer).encode()
        with contextlib.suppress(rh.RunningHubError, TimeoutError):
            asked.ask(route, rh.Response(status, body, {"retry-after": "1"}))

    check()


def _fields(value: Any) -> set[str]:
    if isinstance(value, dict):
        return set(value).union(*map(_fields, value.values()))
    return set().union(*map(_fields, value)) if isinstance(value, list) else set()


KEYS = sorted(_fields([example["answer"] for example in DOCUMENTED.values()]))

_scalars = (
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8)
    | st.sampled_from(["SUCCESS", "RUNNING", "FAILED", "0", "421", "1004", ID, "{", "[1]", "{}",
                       '{"node_errors": {"6": 1}}', "NaN", "1e999999", "https://x/y"])
)  # fmt: skip
_json = st.recursive(
    _scalars,
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3)
    ),
    max_leaves=6,
)
_known = st.recursive(
    _scalars,
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(KEYS), inner, max_size=5)
    ),
    max_leaves=12,
)


@st.composite
def _spoilt(draw: st.DrawFn) -> Any:
    """A documented example with one of its values replaced."""
    answer = json.loads(json.dumps(draw(st.sampled_from(list(DOCUMENTED.values())))["answer"]))
    place = answer
    while isinstance(place, dict) and place:
        key = draw(st.sampled_from(sorted(place)))
        if isinstance(place[key], dict) and place[key] and draw(st.booleans()):
            place = place[key]
            continue
        place[key] = draw(_known)
        break
    return answer


_answers = _spoilt() | st.dictionaries(st.sampled_from(KEYS), _known, max_size=6)
