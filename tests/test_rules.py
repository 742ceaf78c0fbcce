"""Schedules, policies, limits, requests and the catalogue: plain values and rules."""

from __future__ import annotations

import json
import math
from decimal import Decimal
from importlib import resources
from typing import Any

import attrs
import hypothesis.strategies as st
import pytest
from hypothesis import assume, given

import runninghub_async as rh
from runninghub_async.testing import MockTransport, json_response, run

unit = st.floats(0, 1, exclude_max=True)


# -- polling ----------------------------------------------------------------------------------


@given(
    st.floats(0.01, 100), st.floats(1, 3), st.floats(1, 50), st.floats(0, 0.9),
    st.integers(0, 100_000), unit,
)  # fmt: skip
def test_every_wait_lies_between_initial_and_maximum(
    initial: float, factor: float, times: float, spread: float, looks: int, u: float
) -> None:
    """Jitter apart, whatever the number of looks, and no overflow."""
    polling = rh.ExponentialPolling(initial, factor, initial * times, spread)
    wait = polling.delay(looks, u)
    assert initial * (1 - spread) * 0.999 <= wait <= initial * times * (1 + spread) * 1.001


def test_the_default_schedule_is_the_documented_one() -> None:
    """3 s, then 1.15 times longer each, up to 6 s."""
    waits = [rh.ExponentialPolling().delay(n, 0.5) for n in range(8)]
    assert waits == pytest.approx([3, 3.45, 3.9675, 4.5626, 5.247, 6, 6, 6], rel=1e-3)


@pytest.mark.parametrize(
    "bad",
    [{"initial": 0}, {"initial": math.nan}, {"factor": 0.5}, {"jitter": 1}, {"maximum": 1}],
)
def test_a_schedule_that_is_none_is_refused(bad: dict[str, float]) -> None:
    """And the error names the field."""
    with pytest.raises(ValueError, match=next(iter(bad))):
        rh.ExponentialPolling(**bad)


# -- limits and retry -------------------------------------------------------------------------


@pytest.mark.parametrize(
    "bad",
    [{"max_concurrency": 0}, {"max_concurrency": 1.5}, {"submit_rate": 0}, {"query_rate": -1}],
)
def test_limits_are_positive_or_none(bad: dict[str, Any]) -> None:
    """And the error names the field."""
    with pytest.raises(ValueError, match=next(iter(bad))):
        rh.Limits(**bad)
    assert rh.Limits(None, None, None) == rh.Limits(
        max_concurrency=None, submit_rate=None, query_rate=None
    )


@given(st.integers(1, 10_000), unit)
def test_a_pause_never_passes_its_ceiling(attempt: int, u: float) -> None:
    """However often it failed, jitter included."""
    policy = rh.RetryPolicy()
    assert 0 < policy.backoff(attempt, u) <= policy.wait_max * (1 + policy.wait_jitter)


@pytest.mark.parametrize(
    "bad",
    [{"attempts": 0}, {"wait_initial": 0}, {"wait_jitter": 1}, {"wait_exp_base": 0.5},
     {"query_wait_max": math.inf}, {"call_attempts": 0}, {"outage_max": 0.0},
     {"refusal_max": math.nan}],
)  # fmt: skip
def test_a_policy_that_is_none_is_refused(bad: dict[str, Any]) -> None:
    """And the error names the field."""
    with pytest.raises(ValueError, match=next(iter(bad))):
        rh.RetryPolicy(**bad)


# -- typed requests ---------------------------------------------------------------------------

EIGHT = [
    (rh.SeedreamV4, (), "seedream-v4/text-to-image"),
    (rh.SeedreamV4, ("https://x/a.png",), "seedream-v4/image-to-image"),
    (rh.SeedreamV45, (), "seedream-v4.5/text-to-image"),
    (rh.SeedreamV45, ("https://x/a.png",), "seedream-v4.5/image-to-image"),
    (rh.SeedreamV5Lite, (), "seedream-v5-lite/text-to-image"),
    (rh.SeedreamV5Lite, ("https://x/a.png",), "seedream-v5-lite/image-to-image"),
    (rh.SeedreamV5Pro, (), "seedream-v5-pro/text-to-image"),
    (rh.SeedreamV5Pro, ("https://x/a.png",), "seedream-v5-pro/image-to-image"),
]


@pytest.mark.parametrize(("cls", "images", "path"), EIGHT)
def test_the_eight_requests_are_what_the_catalogue_says(
    cls: type[rh.SeedreamRequest], images: tuple[str, ...], path: str
) -> None:
    """Path, fields and defaults: every documented field can be given, and no other."""
    request = cls("a paper boat", image_urls=images)
    spec = rh.Catalogue.load().find(path)
    assert request.path == path
    assert request.check() == ()
    documented = {param.name: param.default for param in spec.params}
    # Sent unasked, it would override the sides that are asked for.
    documented["resolution"] = None
    sent = request.to_params()
    assert {k: v for k, v in sent.items() if k not in ("prompt", "imageUrls")} == {
        k: v for k, v in documented.items() if v is not None
    }
    fields = {cls.wire_names[field.name] for field in attrs.fields(cls)}
    assert set(documented) - fields == set()
    full = attrs.evolve(request, resolution="2k", webhook_url="https://me.example/hook")
    assert full.check() == ()
    assert full.to_params().keys() >= set(documented) | {"webhookUrl"}


def test_seedream_v5_pro_has_its_own_limits_and_prices() -> None:
    """One picture a call; prompts as long as its page allows; a price by size and by pictures."""
    pro = rh.SeedreamV5Pro
    assert str(pro("a paper boat").price()) == "0.27 CNY"
    assert str(pro("a paper boat", 1536, 1536).price()) == "0.27 CNY"
    assert str(pro("a paper boat", 1537, 1536).price()) == "0.54 CNY"
    assert str(pro("a paper boat", resolution="1k").price()) == "0.27 CNY"
    assert str(pro("a paper boat", resolution="2k").price()) == "0.54 CNY"
    pictures = [f"https://x/{number}.png" for number in range(10)]
    assert str(pro("a paper boat", image_urls=pictures[:1]).price()) == "0.27 CNY"
    assert str(pro("a paper boat", image_urls=pictures).price()) == "0.432 CNY"
    assert str(rh.ModelRequest("seedream-v5-pro/text-to-image", {}).price()) == "0.54 CNY"
    assert pro("x" * 2000).check() == ()
    assert pro("x" * 2001).check() == (
        "prompt: longer than 2000; a ModelRequest takes up to 5000 @ $.prompt",
    )
    assert pro("x" * 5001).check() == ("prompt: longer than 5000 @ $.prompt",)
    assert pro("a paper boat", 239, 8193).check() == (
        "width: less than 240 @ $.width",
        "height: more than 8192 @ $.height",
    )
    for wrong in ({"max_images": 2}, {"sequential_image_generation": "auto"},
                  {"output_format": "gif"}, {"resolution": "4k"}):  # fmt: skip
        assert len(pro("a paper boat", **wrong).check()) == 1
    assert pro("a paper boat", image_urls=[*pictures, "https://x/a.png"]).check()


def test_a_field_set_to_none_is_left_out() -> None:
    """Only what is set goes out; one URL may be given as it is."""
    request = rh.SeedreamV5Lite(
        "a paper boat",
        None,
        None,
        max_images=None,
        sequential_image_generation=None,
        tools_type=None,
    )
    assert request.to_params() == {"prompt": "a paper boat"}
    edit = rh.SeedreamV45("a paper boat", image_urls="https://x/a.png")
    assert edit.to_params()["imageUrls"] == ["https://x/a.png"]


# -- the catalogue ----------------------------------------------------------------------------

CATALOGUE = rh.Catalogue.load()
MODELS = list(CATALOGUE)


def test_all_models_are_there() -> None:
    """480 of them, each under its path, its documented name and its aliases."""
    assert len(CATALOGUE) == len(MODELS) == 480
    for spec in MODELS:
        for name in (spec.path, spec.name, *spec.aliases):
            assert CATALOGUE.find(name) is spec
    assert CATALOGUE.as_of == "2026-09-19"


def test_every_fault_is_reported_at_once_with_its_address() -> None:
    """Missing, unknown, too short, out of range, not a choice, wrong type, bad item."""
    spec = CATALOGUE.find("seedream-v5-lite/image-to-image")
    assert spec.check(
        {
            "prompt": "abc",
            "width": 100,
            "height": "tall",
            "resolution": "9k",
            "imageUrls": ["https://x/a.png", "file:///x", 3],
            "promt": "typo",
        }
    ) == (
        "prompt: shorter than 5 @ $.prompt",
        "width: less than 1600 @ $.width",
        "height: expected a whole number, got text 'tall' @ $.height",
        "resolution: expected one of 2k, 3k, got '9k' @ $.resolution",
        (
            "imageUrls: expected an http(s) URL, a data URI, or a pathlib.Path to upload,"
            " got 'file:///x' @ $.imageUrls[1]"
        ),
        "imageUrls: expected a URL or a path, got the number 3 @ $.imageUrls[2]",
        "promt: unknown field, perhaps prompt @ $.promt",
    )
    assert spec.check({}) == (
        "prompt: missing @ $.prompt",
        "imageUrls: missing @ $.imageUrls",
    )


def _good(param: rh.ParamSpec) -> Any:
    """A value that the parameter must take."""
    one: Any = {
        "string": "x" * max(1, param.min_length or 1),
        "enum": (param.choices or ("",))[0],
        "boolean": True,
        "integer": int(param.min if param.min is not None else 1),
        "number": float(param.min if param.min is not None else 1),
        "object": {},
    }.get(param.type, "https://x.example/file")
    return [one] if param.multiple else one


@pytest.mark.parametrize("spec", MODELS, ids=lambda spec: spec.path)
def test_each_model_takes_its_own_values_and_defaults_and_no_others(spec: rh.ModelSpec) -> None:
    """Good values pass, defaults pass, each wrong one is named with its own address."""
    good = {param.name: _good(param) for param in spec.params}
    assert spec.check(good) == ()
    defaults = {p.name: p.default for p in spec.params if p.default is not None}
    required = {p.name: good[p.name] for p in spec.params if p.required}
    assert spec.check({**required, **defaults}) == ()
    for param in spec.params:
        if param.type == "object":
            continue
        (problem, *_) = spec.check({**good, param.name: object()})
        assert f"@ $.{param.name}" in problem
        assert spec.check({k: v for k, v in good.items() if k != param.name}) == (
            (f"{param.name}: missing @ $.{param.name}",) if param.required else ()
        )


@given(
    st.sampled_from(MODELS),
    st.dictionaries(
        st.text(max_size=9),
        st.none() | st.text() | st.integers() | st.lists(st.text(), max_size=2),
        max_size=4,
    ),
)
def test_no_parameters_break_the_check(spec: rh.ModelSpec, params: dict[str, Any]) -> None:
    """Any keys, any values: a tuple of texts with addresses."""
    for problem in spec.check(params):
        assert " @ $" in problem
    spec.price_of(params)


@given(st.integers())
def test_a_range_is_checked_at_both_ends(width: int) -> None:
    """Exactly the documented range passes."""
    spec = CATALOGUE.find("seedream-v4/text-to-image")
    fine = not spec.check({"prompt": "a paper boat", "width": width})
    assert fine == (512 <= width <= 8192)


def test_booleans_are_no_numbers() -> None:
    """True is 1 to Python and not to the service."""
    spec = CATALOGUE.find("seedream-v4/text-to-image")
    assert spec.check({"prompt": "a paper boat", "maxImages": True})


def test_prices_follow_the_rules() -> None:
    """Per image, per call by parameters, per second; None where nobody can tell."""
    price = CATALOGUE.find("seedream-v5-lite/text-to-image").price_of
    one = {"prompt": "a paper boat"}
    assert price(one) == rh.Money(Decimal("0.22"), "CNY")
    many = {**one, "sequentialImageGeneration": "auto", "maxImages": 4}
    assert str(price(many)) == "0.88 CNY"
    video = CATALOGUE.find("alibaba/happyhorse-1.0/text-to-video")
    assert str(video.price_of({"duration": "5", "resolution": "720p"})) == "3.35 CNY"
    assert str(video.price_of({})) == "5.95 CNY"
    unknown = next(spec for spec in MODELS if spec.price is None)
    assert unknown.price_of({}) is None


def test_a_price_by_an_unknown_unit_is_not_estimated() -> None:
    """A guess would be trusted by a budget."""
    spec = CATALOGUE.find("seedream-v5-lite/text-to-image")
    assert spec.price is not None
    other = attrs.evolve(spec, price=attrs.evolve(spec.price, unit="token"))
    assert spec.price_of({"prompt": "a paper boat"}) is not None
    assert other.price_of({"prompt": "a paper boat"}) is None


def test_every_price_says_when_and_from_where_it_was_taken() -> None:
    """A date and a source for each; where there is no price there is no date."""
    dates = {spec.price_date for spec in MODELS if spec.price is not None}
    assert dates == {"2026-04-29", "2026-06-18", "2026-07-09", "2026-09-01"}
    assert max(dates) == CATALOGUE.prices_as_of
    assert all(spec.price is None or spec.price.source for spec in MODELS)
    assert all(bool(spec.price_date) == (spec.price is not None) for spec in MODELS)
    headlines = [spec.price for spec in MODELS if spec.price is not None and spec.price.headline]
    assert {price.as_of for price in headlines} == {"2026-06-18"}


def test_where_sources_differ_a_model_says_so() -> None:
    """What each says and what was taken; a note is about a model's own fields."""
    assert len(CATALOGUE.conflicts) == 34
    (note,) = CATALOGUE.find("alibaba/wan-2.7/text-to-image").notes
    assert note.startswith("prompt: a client reports 1007 above 2048 characters")
    (note,) = CATALOGUE.find("rhart-image-v1/edit").notes
    assert note.startswith("price: ")
    assert CATALOGUE.find("seedream-v4/text-to-image").notes == ()
    noted = {note for spec in MODELS for note in spec.notes}
    # One is about the price list as a whole.
    assert len(noted) == len(CATALOGUE.conflicts) - 1


def test_search_finds_by_all_words() -> None:
    """In paths, names and vendors, whatever the case."""
    paths = {spec.path for spec in CATALOGUE.search("Seedream TEXT")}
    assert "seedream-v5-lite/text-to-image" in paths
    assert all("text" in path for path in paths if path.startswith("seedream"))
    assert CATALOGUE.search("no such thing") == []


def test_the_file_is_in_the_packages_own_form() -> None:
    """One model a line, sorted by path, prices as text."""
    text = resources.files("runninghub_async").joinpath("catalogue.jsonl").read_text("utf-8")
    lines = [json.loads(line) for line in text.splitlines()[1:]]
    paths = [line["path"] for line in lines]
    assert paths == sorted(paths)
    assert len(paths) == 480
    rules = [rule for line in lines for rule in line.get("price", {}).get("rules", ())]
    assert all(isinstance(rule["amount"], str) for rule in rules)


WORKFLOW = "1904136902449209346"


@pytest.mark.parametrize(
    ("params", "problem"),
    [
        ({"imageUrls": "https://x/a.png"}, "imageUrls: expected a list, got text"),
        ({"imageUrls": []}, "imageUrls: expected at least one item @ $.imageUrls"),
        ({"prompt": None}, "prompt: expected text, got null @ $.prompt"),
    ],
)
def test_a_list_is_a_list_and_nothing_is_not_a_value(params: dict[str, Any], problem: str) -> None:
    """One URL by itself, a list without any, and `None`."""
    spec = CATALOGUE.find("seedream-v5-lite/image-to-image")
    good = {"prompt": "the same in blue", "imageUrls": ["https://x/a.png"]}
    assert spec.check(good) == ()
    (found,) = spec.check(good | params)
    assert found.startswith(problem)


def test_a_field_of_several_takes_no_single_text() -> None:
    """Of every model: the service would read its letters, or nothing."""
    several = [(spec, param) for spec in CATALOGUE for param in spec.params if param.multiple]
    assert {param.type for _, param in several} >= {"string", "enum", "image"}
    for spec, param in several:
        good = {each.name: _good(each) for each in spec.params if each.required}
        value = param.choices[0] if param.choices else "https://x/a"
        (found,) = spec.check(good | {param.name: value})
        assert found.startswith(f"{param.name}: expected a list, got text")


def test_a_field_that_the_sources_leave_out_may_be_given_as_valid_text() -> None:
    """A model that is known in part: what it is sent beyond that is not called unknown."""
    spec = next(spec for spec in CATALOGUE if spec.incomplete)
    assert not any("newField" in each for each in spec.check({"newField": "a boat"}))
    assert any("newField" in each for each in spec.check({"newField": "a\0boat"}))


@pytest.mark.parametrize("number", [math.inf, -math.inf, math.nan])
def test_a_number_is_finite(number: float) -> None:
    """JSON has no other; the price of one cannot be told either."""
    spec, param = next(
        (spec, param)
        for spec in CATALOGUE
        for param in spec.params
        if param.type == "number" and not param.multiple
    )
    (found,) = [each for each in spec.check({param.name: number}) if "missing" not in each]
    assert found == f"{param.name}: not a finite number @ $.{param.name}"


def test_a_field_and_its_alias_are_one_too_many() -> None:
    """Which of the two would count is not known."""
    spec, param = next((s, p) for s in CATALOGUE for p in s.params if p.alias)
    assert param.alias is not None
    given = {param.name: _good(param), param.alias: _good(param)}
    found = [each for each in spec.check(given) if "missing" not in each]
    assert found == [f"{param.alias}: given twice, also as its alias @ $.{param.alias}"]


@pytest.mark.parametrize("depth", [20, 100_000])
def test_values_within_values_are_sent_or_refused_however_deep(depth: int) -> None:
    """What is too deep for JSON is a fault of the request, and costs nobody else anything."""
    value: Any = "a"
    for _ in range(depth):
        value = [value]
    request = rh.ModelRequest("a/new/model", {"x": value}, checked=False)
    if depth > 1000:
        (reason,) = refusals(request)
        assert "cannot be sent as JSON" in reason
    else:
        assert request.check() == ()


CONTROLS = [*(c for c in map(chr, range(0x20)) if c not in "\t\n\r"),
            *map(chr, range(0x7F, 0xA0)), "\ud800", "\udfff"]  # fmt: skip


def places_of_text(text: str) -> dict[str, Any]:
    """Requests with `text` in each kind of place, by its path."""
    node = {"6": {"text": text}}
    graph = {"6": {"class_type": "CLIPTextEncode", "inputs": {"text": text}}}
    app = "1937084629516193794"

    class Own:
        path = "a/new/model"

        def to_params(self) -> dict[str, Any]:
            return {"prompt": [{"deep": text}]}

        def check(self) -> tuple[str, ...]:
            return ()

    return {
        "$.prompt": rh.SeedreamV5Lite(text),
        "$.webhookUrl": rh.SeedreamV5Lite("a poster of a boat", webhook_url=f"https://x/{text}"),
        "$.instanceType": rh.SeedreamV5Lite("a poster of a boat", instance_type=text),
        "$.imageUrls[0]": rh.SeedreamV5Lite("a poster", image_urls=[f"data:image/png,{text}"]),
        "$.x.y[0]": rh.ModelRequest("a/new/model", {"x": {"y": [text]}}, checked=False),
        "$.x": rh.ModelRequest("a/new/model", {"x": {text: 1}}, checked=False),
        "$.nodes.6.text": rh.WorkflowRequest(WORKFLOW, node),
        "$.nodes.6.text ": rh.AppRequest(app, node, api="v2"),
        "$.nodes.6.text  ": rh.QuickCreateRequest(app, "002", node),
        "$.nodes": rh.WorkflowRequest(WORKFLOW, {"6": {text: 1}}),
        "$.graph.6.inputs.text": rh.WorkflowRequest(WORKFLOW, graph=graph),
        "$.access_password": rh.WorkflowRequest(WORKFLOW, access_password=text),
        "$.code": rh.QuickCreateRequest(app, text),
        "$.prompt[0].deep": Own(),
    }


def refusals(*requests: Any) -> list[str]:
    """What a session says of requests that it does not send."""
    transport = MockTransport(lambda _: json_response({"taskId": "1", "status": "RUNNING"}))

    async def main() -> list[str]:
        found = []
        async with rh.Session("a-key", transport=transport) as session:
            for request in requests:
                with pytest.raises(rh.PayloadError) as caught:
                    await session.submit(request)
                found.append(str(caught.value))
        return found

    found = run(main)
    assert transport.requests == []
    return found


@pytest.mark.parametrize("character", CONTROLS, ids=ascii)
def test_control_characters_are_a_fault_of_the_request(character: str) -> None:
    """Every one but tab and line breaks; named by its number, so that no terminal acts on it."""
    (reason,) = refusals(rh.SeedreamV5Lite(f"a poster of a {character}boat"))
    assert "$.prompt" in reason
    assert "not valid Unicode" in reason or f"U+{ord(character):04X} at character 15" in reason
    assert character not in reason


@pytest.mark.parametrize("text", ["a poster\0of a boat", "ein Plakat für\x1b[31m", "a \ud83d boat"])
def test_control_characters_are_found_wherever_they_are(text: str) -> None:
    """In every kind of request, nested, as a key, behind other alphabets; nothing is sent."""
    places = places_of_text(text)
    for at, reason in zip(places, refusals(*places.values()), strict=True):
        assert f"@ {at.strip()}" in reason
        assert not set(CONTROLS) & set(reason)


@pytest.mark.parametrize(
    "text",
    ["a\tposter\r\nof a boat", "ein Plakat für\nалые паруса", "船の\u3000絵 \u200d\U0001f6a2"],
)
def test_what_people_write_is_no_fault(text: str) -> None:
    """Tabs, line breaks, every alphabet, joiners."""
    request = rh.SeedreamV5Lite(text)
    assert request.check() == ()
    assert rh.ModelRequest("a/new/model", {"x": [text]}, checked=False).check() == ()
    assert rh.WorkflowRequest(WORKFLOW, {"6": {"text": text}}).check() == ()


@given(st.text(min_size=5) | st.text(st.characters(exclude_categories=["Cc"]), min_size=5))
def test_a_request_that_passes_can_be_sent(prompt: str) -> None:
    """What check lets through has a JSON body; lone surrogates are named, not crashed on."""
    request = rh.SeedreamV5Lite(prompt)
    assume(not request.check())
    json.dumps(request.to_params(), ensure_ascii=False).encode()
    assert "not valid Unicode" in " ".join(rh.SeedreamV5Lite("\ud800" * 5).check())
