"""Names that users and checks from outside rely on, wherever the modules behind them stand."""

from __future__ import annotations

import importlib

import pytest

import lrcsim.hierarchy


@pytest.mark.parametrize("name", lrcsim.hierarchy.__all__)
def test_what_hierarchy_had_is_still_found_there(name: str) -> None:
    told = rf"lrcsim\.hierarchy\.{name} has moved: import it from lrcsim\.simulator\."
    with pytest.warns(DeprecationWarning, match=told):
        found = getattr(lrcsim.hierarchy, name)
    assert found is getattr(importlib.import_module(f"lrcsim.simulator.{lrcsim.hierarchy.MOVED[name]}"), name)


def test_what_it_never_had_is_not() -> None:
    with pytest.raises(AttributeError, match="has no attribute 'Prefecher'"):
        _ = lrcsim.hierarchy.Prefecher  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("module", "names"),
    [
        ("lrcsim.simulator", "simulate hit_rate_curve srp sch"),
        ("lrcsim.policies", "Policy ScorePolicy CompiledScore Param View"),
        ("lrcsim.traces", "RoutingTrace"),
        ("lrcsim.errors", "LrcsimError ConfigError PolicyError TraceError"),
        ("lrcsim.simulator.time", "Prefetcher MissAction"),
    ],
)
def test_public_names_keep_their_places(module: str, names: str) -> None:
    found = importlib.import_module(module)
    assert [name for name in names.split() if not hasattr(found, name)] == []
