"""Every check of the project: `nox` runs what must pass, `nox -s bench` measures.

Interpreters that are missing are passed over with a word; the ones there are must pass.
"""

from __future__ import annotations

from pathlib import Path

import nox

nox.needs_version = ">=2024.10.9"
nox.options.sessions = ["lint", "typing", "tests", "coverage", "minimums"]
nox.options.reuse_existing_virtualenvs = True
nox.options.error_on_missing_interpreters = False

PYTHONS = ["3.11", "3.12", "3.13"]
LOWEST = {
    "aiohttp": "3.14.4",
    "attrs": "24.2.0",
    "cattrs": "24.1.0",
    "anyio": "4.6.0",
    "aiolimiter": "1.2.0",
}
PYPROJECT = nox.project.load_toml("pyproject.toml")


def group(name: str) -> tuple[str, ...]:
    """The requirements of a dependency group of pyproject.toml."""
    return nox.project.dependency_groups(PYPROJECT, name)


def install_wheel(session: nox.Session, *more: str) -> None:
    """Build the wheel and install it, so that what is checked is what users get."""
    out = Path(session.create_tmp()).resolve() / "dist"
    for old in out.glob("*.whl"):
        old.unlink()
    # Wheels only: a checkout that is built through an sdist would hide a file missing from it.
    session.run("python", "-m", "pip", "wheel", "--quiet", "--no-deps", "-w", str(out), ".")
    (wheel,) = out.glob("*.whl")
    session.install("--force-reinstall", "--no-deps", str(wheel))
    session.install(f"runninghub_async[emulator] @ {wheel.as_uri()}", *more)


@nox.session(python=PYTHONS)
def tests(session: nox.Session) -> None:
    """The suite against the built wheel, with branch coverage."""
    install_wheel(session, *group("tests"), *group("examples"))
    data = Path.cwd() / f".coverage.{session.python}"
    session.run(
        # Not -m pytest, which would put the checkout before the wheel.
        "coverage", "run", str(Path(session.bin) / "pytest"), *session.posargs,
        env={"COVERAGE_FILE": str(data)},
    )  # fmt: skip


@nox.session
def coverage(session: nox.Session) -> None:
    """The gate, over all Pythons that ran."""
    session.install("coverage[toml]>=7.6")
    session.run("coverage", "combine", "--quiet", success_codes=[0, 1])
    session.run("coverage", "report")


@nox.session
def lint(session: nox.Session) -> None:
    """Ruff, the linter and the formatter."""
    session.install(*group("lint"))
    session.run("ruff", "check", ".")
    session.run("ruff", "format", "--check", ".")


@nox.session
def typing(session: nox.Session) -> None:
    """mypy --strict over everything, pyright over the package and over how it is used."""
    session.install("-e", ".[emulator]", *group("typing"), *group("bench"))
    session.run("mypy")
    session.run("pyright")


@nox.session(python=PYTHONS[0])
def minimums(session: nox.Session) -> None:
    """The suite, but for the command line, on the lowest versions that pyproject.toml promises."""
    pins = [f"{name}=={version}" for name, version in LOWEST.items()]
    install_wheel(session, *group("tests"), *pins)
    session.run(
        "pytest", "--ignore=tests/test_cli.py", "--ignore=tests/test_docs.py", *session.posargs
    )


@nox.session
def bench(session: nox.Session) -> None:
    """One table, ratios first; `nox -s bench -- cpu_per_job --quick` for a part of it."""
    install_wheel(session, *group("bench"))
    session.run("python", "-m", "benchmarks", *session.posargs)


@nox.session
def browser(session: nox.Session) -> None:
    """The contact sheet in a real Chromium, which has to be on the PATH."""
    install_wheel(session, *group("tests"))
    session.run("pytest", "tests/browser", *session.posargs)
