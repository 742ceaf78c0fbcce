"""What type checkers know of `models`, held against the catalogue; `typing/models.py` tries it."""

from __future__ import annotations

import ast
import importlib.util
import subprocess
import sys
from collections.abc import Iterator
from importlib import resources
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from runninghub_async import Catalogue, ModelRequest, ModelSpec, ParamSpec
from runninghub_async._catalogue import COMMON_FIELDS
from runninghub_async._typed import models

STUB = resources.files("runninghub_async").joinpath("_typed.pyi").read_text(encoding="utf-8")
TREE = ast.parse(STUB)


def script() -> ModuleType:
    path = Path(__file__).parent.parent / "scripts" / "generate_stub.py"
    found = importlib.util.spec_from_file_location("generate_stub", path)
    assert found is not None
    assert found.loader is not None
    module = importlib.util.module_from_spec(found)
    found.loader.exec_module(module)
    return module


GENERATOR = script()


def call(node: ast.stmt) -> ast.FunctionDef:
    """The one method of a model's class."""
    assert isinstance(node, ast.ClassDef)
    (method,) = node.body
    assert isinstance(method, ast.FunctionDef)
    return method


def keys() -> Iterator[tuple[str, str]]:
    """Each name in the TypedDict, with its class."""
    *_, table = (node.value for node in TREE.body if isinstance(node, ast.Assign))
    assert isinstance(table, ast.Call)
    fields = table.args[1]
    assert isinstance(fields, ast.Dict)
    for key, value in zip(fields.keys, fields.values, strict=True):
        assert isinstance(key, ast.Constant)
        assert isinstance(key.value, str)
        assert isinstance(value, ast.Name)
        yield key.value, value.id


CALLS = {node.name: call(node) for node in TREE.body if isinstance(node, ast.ClassDef)}
KEYS = dict(keys())


def parameters(method: ast.FunctionDef) -> Iterator[tuple[str, str, bool]]:
    """Each keyword, its type and whether it is required."""
    arguments = method.args
    for argument, default in zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True):
        assert argument.annotation is not None
        yield argument.arg, ast.unparse(argument.annotation), default is None


def generated(*params: ParamSpec, **facts: Any) -> ast.FunctionDef:
    spec = ModelSpec("a/b", "b", "text-to-image", "image", "A", params, **facts)
    (node,) = ast.parse("\n".join(GENERATOR.caller(spec, "_AB"))).body
    return call(node)


def test_a_call_is_a_request() -> None:
    """With the parameters as they are, whatever they are called."""
    request = models["seedream-v4/text-to-image"](prompt="a poster", resolution="2k")
    assert request == ModelRequest(
        "seedream-v4/text-to-image", {"prompt": "a poster", "resolution": "2k"}
    )
    assert not request.check()
    named = models["rhart-video-s-official/sora-upload-character"](videoUrl="https://x/a", name="x")
    assert named.params == {"videoUrl": "https://x/a", "name": "x"}


def test_the_stub_is_what_the_generator_makes() -> None:
    """After a change of either, or of the catalogue: python scripts/generate_stub.py."""
    assert GENERATOR.stub(Catalogue.load()) == STUB


def test_every_name_is_there_once_for_its_model() -> None:
    catalogue = Catalogue.load()
    assert len(CALLS) == len(set(KEYS.values())) == len(catalogue)
    assert len(KEYS) == len(list(keys()))
    assert {name: KEYS[catalogue.find(name).path] for name in KEYS} == KEYS
    assert KEYS.keys() == {n for spec in catalogue for n in (spec.path, spec.name, *spec.aliases)}


def test_at_run_time_the_models_are_those_of_the_catalogue() -> None:
    """By path where they are gone through; any name makes a request, which knows whether it is."""
    assert list(models) == [spec.path for spec in Catalogue.load()]
    assert len(models) == len(Catalogue.load())
    assert "seedream-v4-文生图" in models
    assert "seedream-v4/no-such" not in models
    unknown = "seedream-v4/no-such"
    request = models[unknown](prompt="x")  # type: ignore[literal-required]
    assert request.check()


def test_every_parameter_is_in_the_stub_under_one_name() -> None:
    """As required as in the catalogue, with its choices; and what any model takes."""
    for spec in Catalogue.load():
        method = CALLS[KEYS[spec.path]]
        stub = {name: (annotation, required) for name, annotation, required in parameters(method)}
        assert (method.args.kwarg is not None) == spec.incomplete
        for param in spec.params:
            annotation, required = stub.pop(param.alias or param.name.split("##")[-1])
            assert required == param.required
            assert annotation.startswith("Sequence[") == param.multiple
            for choice in (*param.choices, *param.alias_choices):
                assert repr(choice) in annotation
        assert stub.keys() == COMMON_FIELDS - {param.name for param in spec.params}


def test_the_docstring_has_task_vendor_and_price() -> None:
    first = CALLS[KEYS["seedream-v4/text-to-image"]]
    price = Catalogue.load().find("seedream-v4/text-to-image").price
    assert price is not None
    amount = price.rules[0].amount
    assert ast.get_docstring(first) == f"text-to-image by ByteDance; {amount} CNY per image."


@pytest.mark.parametrize(
    ("param", "expected"),
    [
        (ParamSpec("x", "string"), ("x", "str")),
        (ParamSpec("x", "number"), ("x", "float")),
        (ParamSpec("x", "boolean"), ("x", "bool")),
        (ParamSpec("x", "object"), ("x", "Any")),
        (ParamSpec("x", "image"), ("x", "str | PathLike[str]")),
        (ParamSpec("x", "video", multiple=True), ("x", "Sequence[str | PathLike[str]]")),
        (ParamSpec("x", "enum", choices=('7"', "a")), ("x", "Literal['7\"', 'a']")),
        (
            ParamSpec("1##select", "enum", alias="x", choices=("1", "a"), alias_choices=("a", "b")),
            ("x", "Literal['a', 'b', '1']"),
        ),
        (ParamSpec("2##file", "audio"), ("file", "str | PathLike[str]")),
        (ParamSpec("webhookUrl", "enum", choices=("a",)), ("webhookUrl", "Literal['a']")),
    ],
)
def test_types_and_names(param: ParamSpec, expected: tuple[str, str]) -> None:
    first, *more = parameters(generated(param))
    assert first == (*expected, False)
    assert {name for name, _, _ in more} == COMMON_FIELDS - {param.name}


@pytest.mark.parametrize("name", ["from", "none-such", "1##2"])
def test_a_parameter_that_no_keyword_can_name_goes_in_unchecked(name: str) -> None:
    """As `**{"from": ...}`, which the overload lets pass."""
    odd = generated(ParamSpec(name, "string", required=True), ParamSpec("x", "string"))
    assert "x" in [found for found, _, _ in parameters(odd)]
    assert name not in [found for found, _, _ in parameters(odd)]
    assert odd.args.kwarg is not None


def test_parameters_that_end_alike_are_not_told_apart() -> None:
    odd = generated(ParamSpec("1##value", "integer"), ParamSpec("2##value", "integer"))
    assert {name for name, _, _ in parameters(odd)} == COMMON_FIELDS
    assert odd.args.kwarg is not None


def test_a_name_of_two_models_is_that_of_the_first() -> None:
    first = '{"path":"a","name":"x","task":"t","output":"image","vendor":"v","params":[]}'
    second = first.replace('"a"', '"b"')
    head = '{"as_of":"","prices_as_of":"","sources":[],"names":[["a","x"],["b","x"]]}'
    shared = Catalogue.parse(f"{head}\n{first}\n{second}")
    assert [GENERATOR.names(shared, spec) for spec in shared] == [["a", "x"], ["b"]]


def test_deprecated_models_say_so() -> None:
    assert ast.get_docstring(generated(deprecated=True)) == (
        "text-to-image by A; price not known. Deprecated."
    )


def test_importing_the_package_does_not_read_the_stub() -> None:
    program = (
        "import sys; opened = []\n"
        "sys.addaudithook(lambda event, args: event == 'open' and opened.append(str(args[0])))\n"
        "import runninghub_async._typed\n"
        "assert not [path for path in opened if path.endswith('.pyi')]\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)
