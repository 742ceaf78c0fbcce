"""Every model of the catalogue: found by each of its names, checked, and taken by the emulator."""

from __future__ import annotations

import asyncio
import json
import re
from importlib import resources
from pathlib import Path
from typing import Any

import pytest

import runninghub_async as rh
from runninghub_async.emulator import Emulator
from runninghub_async.testing import MockTransport, json_response, run

ROOT = Path(__file__).parent.parent
CATALOGUE = rh.Catalogue.load()
DOCUMENTED = [spec for spec in CATALOGUE if spec.documented]
NODE_STYLE = [spec for spec in CATALOGUE if any(param.alias for param in spec.params)]


def least(spec: rh.ModelSpec) -> dict[str, Any]:
    """The smallest body that the documentation allows."""
    return {param.name: value_for(param) for param in spec.params if param.required}


def value_for(param: rh.ParamSpec) -> Any:
    values: dict[str, Any] = {
        "string": "a paper boat in the rain".ljust(param.min_length or 0, ".")[: param.max_length],
        "enum": next(iter(param.choices), ""),
        "boolean": True,
        "integer": int(param.min or 1),
        "number": float(param.min or 1),
        "object": {"name": "a"},
    }
    one = values.get(param.type, "https://media.example/a")
    return [one] if param.multiple else one


def test_the_catalogue_is_whole() -> None:
    """480 models; the 225 names of the documentation's navigation are among their names."""
    assert len(CATALOGUE) == 480
    assert len(DOCUMENTED) == 221
    names = [name for spec in DOCUMENTED for name in (spec.name, *spec.aliases)]
    assert len(names) >= 225
    assert all(CATALOGUE.find(name).documented for name in names)


def test_the_numbers_in_the_texts_are_those_of_the_data() -> None:
    """How many models there are, and how large the stub is."""
    readme = (ROOT / "README.md").read_text("utf-8")
    assert re.findall(r"(\d+) models", readme) == [str(len(CATALOGUE))]
    manual = (ROOT / "docs/models.md").read_text("utf-8")
    size = len(resources.files("runninghub_async").joinpath("_typed.pyi").read_bytes())
    (said,) = re.findall(r"stub of (\d+) kB", manual)
    assert abs(int(said) * 1000 - size) < 5000


def test_every_documented_name_and_its_least_body_are_taken() -> None:
    """Each by each of its names, submitted to the emulator and billed there once."""

    async def main() -> None:
        limits = rh.Limits(None, None, None)
        async with (
            Emulator(duration=0.0, max_concurrency=None) as emulator,
            rh.Session("a-key", base_url=emulator.url, limits=limits) as session,
        ):
            named = [
                (name, least(spec))
                for spec in DOCUMENTED
                for name in dict.fromkeys((spec.path, spec.name, *spec.aliases))
            ]
            tasks = await session.submit_many(rh.ModelRequest(*each) for each in named)
            assert len({task.id for task in tasks}) == len(named) == emulator.stats.billed

    asyncio.run(main())


def test_every_kind_of_output_comes_home(tmp_path: Any) -> None:
    """One model of each kind: its result is what it was announced as, or a text."""
    models = {spec.output: spec for spec in CATALOGUE}
    assert set(models) == {"image", "video", "audio", "3d", "text"}

    polling = rh.ExponentialPolling(initial=0.02, maximum=0.02)

    async def main() -> None:
        async with (
            Emulator(duration=0.0) as emulator,
            rh.Session("a-key", base_url=emulator.url, polling=polling) as session,
        ):
            for kind, spec in models.items():
                task = await session.run(rh.ModelRequest(spec.path, least(spec)))
                (output, *_) = task.outputs
                if kind == "text":
                    assert output.text
                    continue
                file = await session.download(output, tmp_path / f"x.{output.type}")
                assert file.size > 50
                upload = await session.upload(file.path)
                assert kind in (upload.type, "3d")

    asyncio.run(main())


def submitted(request: rh.ModelRequest) -> dict[str, Any]:
    transport = MockTransport(lambda _: json_response({"taskId": "5", "status": "RUNNING"}))

    async def main() -> None:
        async with rh.Session("a-key", transport=transport) as session:
            await session.submit(request)

    run(main)
    body: dict[str, Any] = json.loads(transport.requests[0].body or b"")
    return body


@pytest.mark.parametrize("spec", NODE_STYLE, ids=lambda spec: spec.path)
def test_node_style_keys_go_out_flat_or_as_documented(spec: rh.ModelSpec) -> None:
    """Whichever is given, flat ones are sent, with the flat choices; the switch sends the
    documented ones."""
    full = {param.name: value_for(param) for param in spec.params}
    flat = submitted(rh.ModelRequest(spec.path, full))
    assert set(flat) == {param.alias or param.name for param in spec.params}
    for param in spec.params:
        if param.alias_choices and not param.multiple:
            assert flat[param.alias or param.name] in param.alias_choices
    assert submitted(rh.ModelRequest(spec.path, flat)) == flat
    documented = submitted(rh.ModelRequest(spec.path, flat, documented_keys=True))
    assert set(documented) == set(full)
    for param in spec.params:
        if param.choices and not param.multiple:
            assert documented[param.name] in param.choices


def test_a_key_with_a_node_can_be_called_by_what_follows_it() -> None:
    """`2##file` is `file`, where there is no other name for it."""
    url = "https://media.example/film.mp4"
    assert submitted(rh.models["rhart-audio/extract-background"](file=url)) == {"2##file": url}


def test_an_estimate_needs_no_session() -> None:
    """By the catalogue, for models that have a rule that fits."""
    assert str(rh.models["seedream-v5-lite/text-to-image"](prompt="a boat").price()) == "0.22 CNY"
    speech = rh.ModelRequest("rhart-audio/text-to-audio/speech-2.8-hd", {"text": "a" * 1001})
    assert str(speech.price()) == "1.24 CNY"
    assert rh.ModelRequest("new/model", checked=False).price() is None
    priced = [spec for spec in CATALOGUE if rh.ModelRequest(spec.path, least(spec)).price()]
    assert len(priced) > 250
