"""What README and the docs show is run: the Python snippets, and the policy as the file it says to save."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from lrcsim.simulator import hit_rate_curve, simulate
from lrcsim.traces import RoutingTrace

ROOT = Path(__file__).resolve().parent.parent
SNIPPETS = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), flags=re.DOTALL)


def test_from_python(capsys: pytest.CaptureFixture[str]) -> None:
    """Tokens {0 1} {1 2} {0 1}, 3 slots: LRU misses 0, 1, 2 and hits 1, 0, 1, and so does the optimum."""
    (snippet,) = [snippet for snippet in SNIPPETS if "from_arrays" in snippet]
    exec(compile(snippet, "README.md", "exec"), {})
    assert capsys.readouterr().out == "0.5 0.5\n"


def test_your_own_policy(tmp_path: Path) -> None:
    (snippet,) = [snippet for snippet in SNIPPETS if "class Sticky" in snippet]
    (tmp_path / "mine.py").write_text(snippet)
    trace = RoutingTrace.from_arrays([[[e]] for e in (0, 0, 1, 2, 0)], num_experts=4)
    # 0 is used in two steps in a row, so 2 puts out 1, and 0 is still there at the end; LRU would have put out 0.
    result = simulate(trace, f"{tmp_path}/mine.py:Sticky", 2, record=True)
    assert result.counts.hit is not None
    assert result.counts.hit.tolist() == [False, True, False, False, True]
    assert result.lru is not None
    assert result.lru.hit_rate == 0.2


def test_your_own_compiled_policy(tmp_path: Path) -> None:
    (snippet,) = [snippet for snippet in SNIPPETS if "class Patient" in snippet]
    assert len([line for line in snippet.splitlines() if line.strip()]) <= 10
    (tmp_path / "mine.py").write_text(snippet)
    trace = RoutingTrace.from_arrays([[[e]] for e in (0, 0, 1, 2, 1, 0)], num_experts=3)
    curve = hit_rate_curve(trace, f"{tmp_path}/mine.py:Patient", capacities=[1, 2])
    # When 2 comes into two slots, 0 has 2 uses in 4 steps and 1 has 1 in 2: 0 goes, used longer ago. 1 hits, 0 misses.
    assert curve.engine == "compiled"
    assert curve.hit_rate.tolist() == [1 / 6, 2 / 6]
    replayed = simulate(trace, f"{tmp_path}/mine.py:Patient", 2, record=True)
    assert replayed.counts.hit is not None
    assert replayed.counts.hit.tolist() == [False, True, False, False, True, False]


def test_about_twenty_lines() -> None:
    (snippet,) = [snippet for snippet in SNIPPETS if "class Sticky" in snippet]
    assert len([line for line in snippet.splitlines() if line.strip()]) <= 20


def test_worked_example_of_the_accounting_page(capsys: pytest.CaptureFixture[str]) -> None:
    (snippet,) = re.findall(r"```python\n(.*?)```", (ROOT / "docs/accounting.md").read_text(), flags=re.DOTALL)
    exec(compile(snippet, "accounting.md", "exec"), {})
    assert capsys.readouterr().out == "coresident 2\nsequential 0\npaper 4\n"


def test_links_lead_somewhere() -> None:
    for page in [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")), ROOT / "CONTRIBUTING.md"]:
        for target in re.findall(r"\]\((?!http)([^)#]+)", page.read_text()):
            assert (page.parent / target).exists(), f"{page.name} links to {target}"
