"""Files in the values of a sweep."""

from __future__ import annotations

from pathlib import Path

from lrcsim.sweeps.files import file_in, located


def test_a_users_policy_is_found_behind_an_admission_too(tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    file.touch()
    for before in ("", "admit2+", "admit2:window=8 + "):
        assert file_in(f"{before}mine.py:Mine:a=1", tmp_path) == (file.resolve(), ":Mine:a=1")
        assert located(f"{before}mine.py:Mine:a=1", tmp_path) == f"{before.strip()}{file.resolve()}:Mine:a=1"
    assert located("admit2+lru", tmp_path) == "admit2+lru"
    assert file_in("admit2+other.py:Mine", tmp_path) is None
