"""Parameters of plug-ins: their types and ranges."""

from __future__ import annotations

import pytest

from lrcsim.base.configurable import Configurable, Param
from lrcsim.base.errors import PolicyError


def test_param_types() -> None:
    assert Param("a", "x", "text").convert("p", 3) == "3"
    assert Param("a", 1, "number", maximum=5).convert("p", "5") == 5
    with pytest.raises(PolicyError, match="at most 5"):
        Param("a", 1, "number", maximum=5).convert("p", 6)


@pytest.mark.parametrize(
    ("default", "given", "value"), [(1, "3", 3), (1, 3.0, 3), (0.5, "1e-3", 0.001), (0.5, 2, 2.0), ("x", 2, "2")]
)
def test_a_value_has_the_type_of_the_default(default: float | str, given: object, value: object) -> None:
    found = Param("a", default, "one").convert("p", given)
    assert found == value
    assert type(found) is type(default)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("x", "p: a must be a whole number, given 'x'"),
        (None, "p: a must be a whole number, given None"),
        (1.5, "p: a must be a whole number, given 1.5"),
        (float("inf"), "p: a must be a whole number, given inf"),
        (0, "p: a must be 1 to 5, given 0"),
        (6, "p: a must be 1 to 5, given 6"),
    ],
)
def test_what_is_refused(given: object, said: str) -> None:
    with pytest.raises(PolicyError) as failed:
        Param("a", 2, "one", 1, 5).convert("p", given)
    assert str(failed.value) == said


def test_what_a_class_says_of_itself() -> None:
    class Plain(Configurable):
        """Say one line.

        And more.
        """

        params = [Param("a", 1, "one")]  # type: ignore[assignment]  # noqa: RUF012

    assert (Plain.name, Plain.summary, Plain.params) == ("Plain", "Say one line.", (Param("a", 1, "one"),))
    assert vars(Plain(a="4")) == {"a": 4}
    assert Plain().label() == "Plain:a=1"
    with pytest.raises(PolicyError, match="Plain has no parameter 'b', it has a"):
        Plain(b=1)
