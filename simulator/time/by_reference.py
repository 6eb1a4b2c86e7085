"""Named tuples that compiled functions hand to each other by reference.

A named tuple of arrays is copied with every call, and the references to all of its arrays are counted up and down: with
forty arrays that costs 0.3 us a call, more than most functions of the event loop take. By reference it is one address,
and its arrays are lent: they belong to whoever called the loop, and nobody counts.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import numba
from numba.core import cgutils
from numba.experimental import structref
from numba.extending import intrinsic, overload

Kept = TypeVar("Kept")

structs: Any = cgutils  # numba says little of types
kinds: Any = numba.types


@structref.register
class ByReference(numba.types.StructRef):
    """The type of such a tuple in compiled code; fields are read as those of the tuple."""

    def preprocess_fields(self, fields: Any) -> Any:
        """Let a field hold any value of its type."""
        return tuple((name, kinds.unliteral(kind)) for name, kind in fields)


def by_reference(values: Kept) -> Kept:
    """Return a named tuple to be handed on by reference, in compiled code; None, and without the compiler, as it is.

    The tuple must stay where it is as long as what is returned is used: its arrays are not kept alive.
    """
    return values


@intrinsic
def _lent(_: Any, array: Any) -> Any:
    """Return an array that belongs to somebody else."""

    def lend(context: Any, builder: Any, _: Any, arguments: Any) -> Any:
        made = structs.create_struct_proxy(array)(context, builder, value=arguments[0])
        made.meminfo = structs.get_null_value(made.meminfo.type)
        made.parent = structs.get_null_value(made.parent.type)
        return made._getvalue()

    return array(array), lend


@overload(by_reference, strict=False)  # else the annotations of both would have to be the same
def _by_reference(values: Any) -> Callable[[Any], Any] | None:
    if isinstance(values, kinds.NoneType):
        return lambda values: None  # noqa: ARG005  # named as that of `by_reference`
    if not isinstance(values, kinds.BaseNamedTuple):
        return None
    of_fields: Any = ByReference
    kind = of_fields(tuple(zip(values.fields, values.types, strict=True)))
    arrays = {field for field, one in zip(values.fields, values.types, strict=True) if isinstance(one, kinds.Array)}
    lines = [
        f"    made.{one} = " + (f"lent(values.{one})" if one in arrays else f"values.{one}") for one in values.fields
    ]
    source = "\n".join(["def made_of(values):", "    made = new(kind)", *lines, "    return made"])
    names: dict[str, Any] = {"new": structref.new, "kind": kind, "lent": _lent}
    exec(source, names)  # the fields differ
    made: Callable[[Any], Any] = names["made_of"]
    return made
