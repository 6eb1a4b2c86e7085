"""Every notebook in examples/ runs from its first cell to its last without a warning, and shows what it promises.

What its cells show as text is kept beside it, in the file of its name ending in .out, for the documentation site. After
a change that is meant, ``python tests/examples/test_notebook.py --write`` writes it anew.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import warnings
from pathlib import Path
from typing import Any

import pytest

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
NOTEBOOKS = sorted(EXAMPLES.glob("*.ipynb"))


def run(path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> list[list[dict[str, Any]]]:
    """Run a notebook in another folder with this Python; return the outputs of each of its cells of code."""
    pytest.importorskip("pandas")
    pytest.importorskip("ipykernel")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # those of the machinery; the cells' own are looked for in their outputs
        nbclient = pytest.importorskip("nbclient")
        nbformat = pytest.importorskip("nbformat")
        from jupyter_client.kernelspec import KernelSpec, KernelSpecManager

        monkeypatch.setattr(
            KernelSpecManager,
            "get_kernel_spec",
            lambda self, name: KernelSpec(
                argv=[sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"],
                language="python",
            ),
        )
        monkeypatch.setenv("JUPYTER_RUNTIME_DIR", str(folder / "runtime"))
        monkeypatch.setenv("IPYTHONDIR", str(folder / "ipython"))
        book = nbformat.read(path, as_version=4)
        client = nbclient.NotebookClient(
            book, timeout=600, kernel_name="python3", resources={"metadata": {"path": str(folder)}}
        )
        client.execute()
    return [cell.outputs for cell in book.cells if cell.cell_type == "code"]


def as_text(cells: list[list[dict[str, Any]]]) -> str:
    """Return what the cells of code show, as text, each behind its number."""
    parts = []
    for number, outputs in enumerate(cells, 1):
        texts = [output.get("text") or output.get("data", {}).get("text/plain", "") for output in outputs]
        lines = [line.rstrip() for line in "\n".join(texts).rstrip().splitlines()]
        parts += [f"[{number}]", *lines]
    return "".join(f"{line}\n" for line in parts)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_runs_and_shows_pictures_and_tables(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cells = run(path, tmp_path, monkeypatch)
    outputs = [output for cell in cells for output in cell]
    shown = [output.get("data", {}) for output in outputs]
    assert sum("data:image/png" in data.get("text/html", "") for data in shown) >= 4
    assert any("image/png" in data for data in shown)
    assert any("<table" in data.get("text/html", "") for data in shown)
    assert not [output for output in outputs if output.get("name") == "stderr" and "Warning" in output["text"]]
    printed = "".join(output["text"] for output in outputs if output.get("name") == "stdout")
    assert printed.count(" tokens/s, ") == 2  # the decision, for each machine
    kept = sum(len(json.dumps(output)) for output in outputs)
    assert kept < 2_000_000  # what a notebook grows by where it is saved
    assert as_text(cells) == path.with_suffix(".out").read_text(encoding="utf-8")


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_is_kept_without_outputs(path: Path) -> None:
    """So that a change is a change of the source; a test runs it."""
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    code = [cell for cell in cells if cell["cell_type"] == "code"]
    assert [cell for cell in code if cell["outputs"] or cell["execution_count"] is not None] == []
    assert cells[0]["cell_type"] == "markdown"
    assert os.linesep.join(cells[0]["source"]).rstrip().count("?") >= 1


def test_there_is_one() -> None:
    assert NOTEBOOKS


if __name__ == "__main__":
    if sys.argv[1:] != ["--write"]:
        sys.exit(__doc__)
    for notebook in NOTEBOOKS:
        with tempfile.TemporaryDirectory() as empty, pytest.MonkeyPatch.context() as patched:
            text = as_text(run(notebook, Path(empty), patched))
        notebook.with_suffix(".out").write_text(text, encoding="utf-8")
        print(notebook.with_suffix(".out").name)
