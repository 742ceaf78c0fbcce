"""Every check of the project: `nox` runs what must pass, `nox -s bench` measures.

Interpreters that are missing are passed over with a word; the ones there are must pass.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import nox

nox.needs_version = ">=2024.10.9"
nox.options.sessions = ["lint", "typing", "docs", "tests", "coverage", "minimums"]
nox.options.reuse_existing_virtualenvs = True
nox.options.error_on_missing_interpreters = False

#: Much of the suite waits for processes and clocks: more of it at once than there are cores.
WORKERS = str(max(4, os.cpu_count() or 1))

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
    """The suite against the built wheel; on one Python all of it, with branch coverage."""
    install_wheel(session, *group("tests"), *group("examples"))
    # Not -m pytest, which would put the checkout before the wheel.
    pytest = str(Path(session.bin) / "pytest")
    if session.python == oldest():
        data = {"COVERAGE_FILE": str(Path.cwd() / f".coverage.{session.python}")}
        session.run("coverage", "run", pytest, "-n", WORKERS, *session.posargs, env=data)
    else:
        session.run(pytest, "-n", WORKERS, "-m", "not long", *session.posargs)


def oldest() -> str:
    """The first of the Pythons that this machine has: the long tests run on it."""
    for version in PYTHONS:
        found = shutil.which(f"python{version}")
        if found is None:
            continue
        # What stands on the path may stand for a Python that is not there.
        tried = subprocess.run([found, "-c", ""], check=False, capture_output=True)
        if tried.returncode == 0:
            return version
    return PYTHONS[0]


@nox.session
def coverage(session: nox.Session) -> None:
    """The gate."""
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


@nox.session
def docs(session: nox.Session) -> None:
    """The pages of docs/ as HTML, with every warning an error. Their code runs in tests/."""
    session.install("-e", ".", *group("docs"))
    out = Path("docs/_build/html")
    # All of it every time: a page that did not change may have lost what it links to.
    session.run("sphinx-build", "-E", "-a", "-q", "-n", "-W", "--keep-going", "docs", str(out))
    session.log(f"open {out}/index.html in a browser")


@nox.session(python=PYTHONS[0])
def minimums(session: nox.Session) -> None:
    """The calls, on the lowest versions that pyproject.toml promises."""
    pins = [f"{name}=={version}" for name, version in LOWEST.items()]
    install_wheel(session, *group("tests"), *pins)
    # What is left out goes through the same calls to the same libraries.
    left_out = (
        "cli", "cli_families", "cli_journal", "crash", "docs", "emulator_families", "fuzz",
        "journal_storms", "typed", "whole",
    )  # fmt: skip
    ignored = [f"--ignore=tests/test_{name}.py" for name in left_out]
    session.run("pytest", "-n", WORKERS, *ignored, *session.posargs)


@nox.session
def fuzz(session: nox.Session) -> None:
    """20,000 bodies of any bytes, and 4,000 of known shape, for each call that reads an answer."""
    install_wheel(session, *group("tests"))
    session.run(
        "pytest", "-n", "auto", "--timeout=1800", "tests/test_fuzz.py", *session.posargs,
        env={"FUZZ_EXAMPLES": "20000"},
    )  # fmt: skip


@nox.session
def crash(session: nox.Session) -> None:
    """A run of 300 jobs, killed at 100 moments and gone on with, and all about full disks."""
    install_wheel(session, *group("tests"))
    session.run(
        "pytest", "-n", WORKERS, "--timeout=600", "tests/test_crash.py", "tests/test_power_cut.py",
        *session.posargs,
        env={"CRASH_MOMENTS": "100"},
    )  # fmt: skip


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
