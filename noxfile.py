"""One runner for every check: ``nox`` runs the usual ones, ``nox -s tests`` one of them."""

from __future__ import annotations

from pathlib import Path

import nox

nox.needs_version = ">=2024.4.15"
nox.options.default_venv_backend = "venv"
nox.options.reuse_venv = "yes"
nox.options.sessions = ["lint", "types", "tests", "docs"]

PYTHONS = nox.project.python_versions(nox.project.load_toml("pyproject.toml"))
ONE_THREAD = {"OMP_NUM_THREADS": "1"}  # small networks are slower with more


@nox.session
def lint(session: nox.Session) -> None:
    """Style, the levels of the wings, and spelling."""
    install(session, "ruff>=0.6", "import-linter>=2.5", "codespell[toml]>=2.3")
    session.run("ruff", "check", ".")
    session.run("ruff", "format", "--check", ".")
    session.run("lint-imports", "--no-cache")
    session.run("codespell")


@nox.session
def types(session: nox.Session) -> None:
    """Types, strict."""
    install(session, "-e", ".[test]", "mypy>=1.10")
    session.run("mypy", *session.posargs)


@nox.session
def tests(session: nox.Session) -> None:
    """The tests that ``pytest`` alone runs; ``nox -s tests -- tests/bank`` some of them."""
    install(session, "-e", ".[test]")
    session.run("pytest", *session.posargs, env=ONE_THREAD)


@nox.session(python=PYTHONS)
def tests_all(session: nox.Session) -> None:
    """All tests but the fuzz, with coverage, on every supported Python that is there."""
    install(session, "-e", ".[test]")
    cover = ("--cov", "--cov-report=term:skip-covered")
    session.run("pytest", "-m", "not fuzz", *cover, *session.posargs, env=ONE_THREAD)


@nox.session
def docs(session: nox.Session) -> None:
    """The site, whose pages run their own code; a warning is an error."""
    install(session, "-e", ".[docs]")
    site = ("docs", "docs/_build/html")
    session.run("sphinx-build", "-q", "-W", "--keep-going", "-b", "html", *site, env=ONE_THREAD)


@nox.session
def speed(session: nox.Session) -> None:
    """The tables of docs/speed.md, on an idle machine only."""
    install(session, "-e", ".[test]")
    session.run("python", "-m", "benchmarks", "speed", *session.posargs, env=ONE_THREAD)


@nox.session(reuse_venv=False)
def build(session: nox.Session) -> None:
    """Source distribution and wheel: built, checked, installed alone, and tried as README says."""
    readme = Path("README.md").read_text()
    install(session, "build>=1.2", "twine>=5.1")
    folder = Path(session.create_tmp()).resolve()
    session.run("python", "-m", "build", "--outdir", str(folder))
    files = [str(path) for path in folder.glob("captum_kmex-*")]
    session.run("twine", "check", "--strict", *files)
    (wheel,) = folder.glob("*.whl")
    install(session, f"{wheel}[demo]")
    session.chdir(folder)  # where the checkout cannot be imported by accident
    session.run("python", "-c", "import captum_kmex as c; print(c.__version__, c.__file__)")
    picture = "import skimage, PIL.Image as I; I.fromarray(skimage.data.chelsea()).save('cat.jpg')"
    session.run("python", "-c", picture)
    session.run("python", "-c", readme.split("```python\n")[1].split("```")[0])
    model = "captum_kmex.demo:load_efficientnet_lite0"
    session.run("captum-kmex", "explain", model, "cat.jpg", "--quiet")
    if not Path("explained.png").is_file() or not Path("explained/cat/cat.png").is_file():
        session.error("README's lines, or the command, drew no picture")


def install(session: nox.Session, *what: str) -> None:
    """Install into the session's own environment; with ``--no-venv`` all is there already."""
    if session.virtualenv.venv_backend != "none":
        session.install(*what)
