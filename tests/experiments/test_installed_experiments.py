"""What ``python -m lrcsim.experiments.X`` needs is in the package that ``pip install .`` makes."""

from __future__ import annotations

import ast
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import lrcsim.experiments

ROOT = Path(lrcsim.experiments.__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["tool"]["setuptools"]
EXPERIMENTS = ROOT / "experiments"
RUN = sorted(path.parent.relative_to(EXPERIMENTS).as_posix() for path in EXPERIMENTS.rglob("__main__.py"))


def package(name: str) -> str:
    return "lrcsim.experiments." + name.replace("/", ".")


def test_every_folder_of_code_is_packaged() -> None:
    folders = {path.parent.relative_to(EXPERIMENTS).as_posix() for path in EXPERIMENTS.rglob("*.py")} - {"."}
    assert folders == {*RUN, "validation"}  # which only holds others
    assert {package(name) for name in folders} <= set(PROJECT["packages"])


@pytest.mark.parametrize("name", RUN)
def test_every_experiment_is_a_package_that_runs(name: str) -> None:
    assert package(name) in PROJECT["packages"]
    assert (EXPERIMENTS / name / "__init__.py").exists()


@pytest.mark.parametrize("name", RUN)
def test_files_beside_the_code_are_packaged(name: str) -> None:
    """A file of the folder that the code names by itself, as ``published.toml``, is listed as package data."""
    folder = EXPERIMENTS / name
    packaged = PROJECT["package-data"].get(package(name), [])
    beside = {path.name for path in folder.iterdir() if path.is_file() and path.suffix not in (".py", ".md")}
    for path in folder.glob("*.py"):
        for call in ast.walk(ast.parse(path.read_text("utf-8"))):
            if not (isinstance(call, ast.Call) and isinstance(call.func, ast.Attribute)):
                continue
            if call.func.attr in ("joinpath", "with_name"):
                named = {arg.value for arg in call.args if isinstance(arg, ast.Constant)}
                assert named & beside <= set(packaged), f"{path}: {named}"
        assert "__file__" not in path.read_text("utf-8"), f"{path} looks for files beside it"


@pytest.mark.parametrize(
    "name",
    ["validation/published_sweeps", "validation/measured_run", "validation/offload", "validation/llama_cpp", "paper"],
)
def test_help_from_elsewhere(name: str, tmp_path: Path) -> None:
    command = [sys.executable, "-m", package(name), "--help"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert f"usage: python -m {package(name)}" in done.stdout
