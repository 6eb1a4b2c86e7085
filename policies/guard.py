"""A user's policy as the pools call it: given what it cannot change, its answers checked, its errors placed."""

from __future__ import annotations

from collections.abc import Collection, Container, Sequence
from typing import Any, NoReturn

from lrcsim.base.errors import PolicyError
from lrcsim.base.user_code import fail, is_users, key_of, written_in
from lrcsim.policies.base import Policy

ON_REQUEST = {
    "weights": "weights",
    "layer_weights": "weights",
    "next_use": "future",
    "upcoming": "future",
    "profile": "profile",
}
"""Fields of a `View`, and what a policy must need or want for them to be filled in."""


class NotAsked:
    """Stands in a `View` for what the policy did not say that it needs: empty, and an error where it is looked at."""

    __slots__ = ("_field", "_need", "_policy")

    def __init__(self, field: str, need: str, policy: str) -> None:
        self._field, self._need, self._policy = field, need, policy

    def __bool__(self) -> bool:
        return False

    def __len__(self) -> int:
        return 0

    def __repr__(self) -> str:
        return f"<view.{self._field}, not asked for>"

    def _refuse(self, *_: object, **__: object) -> NoReturn:
        raise PolicyError(
            f'view.{self._field} is empty, it is filled in only for who asks: write needs = {{"{self._need}"}} in '
            f"class {self._policy}"
        )

    __getitem__ = __iter__ = __contains__ = __reversed__ = __array__ = __getattr__ = _refuse
    __add__ = __radd__ = __mul__ = __rmul__ = __sub__ = __rsub__ = __truediv__ = __rtruediv__ = _refuse
    __lt__ = __gt__ = __le__ = __ge__ = __float__ = __int__ = __index__ = _refuse


def guarded(policy: Policy) -> Policy:
    """Return a policy whose ``view`` is set as a pool is to call it: lrcsim's own as it is."""
    return _Guarded(policy) if is_users(type(policy)) else policy


def inner(policy: Policy) -> Policy:
    """Return the policy itself."""
    return policy.policy if isinstance(policy, _Guarded) else policy


def where_victim(policy: Policy) -> str:
    """Return where a user's policy has its ``victim``, to end an error with; empty for lrcsim's own."""
    return written_in(type(inner(policy)), "victim")


class _Guarded(Policy):
    """Calls a user's policy."""

    def __init__(self, policy: Policy) -> None:
        self.policy = policy
        self.kind = type(policy)
        for name in ("name", "aliases", "params", "needs", "wants", "bypass", "refills", "summary", "source"):
            setattr(self, name, getattr(policy, name))
        self.view = policy.view
        for field, need in ON_REQUEST.items():
            if need not in policy.needs | policy.wants and not getattr(self.view, field):
                setattr(self.view, field, NotAsked(field, need, self.kind.__name__))

    def label(self) -> str:
        return self.policy.label()

    def reset(self) -> None:
        try:
            self.policy.reset()
        except BaseException as error:
            fail(error, self.kind, f"policy {self.name} failed in reset()", "reset")

    def access(self, batch: Sequence[int], missed: Sequence[int]) -> None:
        try:
            self.policy.access(tuple(batch), tuple(missed))
        except BaseException as error:
            self._fail(error, "access")

    def victim(self, protected: Container[int]) -> int:
        try:
            return key_of(self.policy.victim(protected), self.kind, "victim")
        except BaseException as error:
            self._fail(error, "victim")

    def evicted(self, key: int) -> None:
        try:
            self.policy.evicted(key)
        except BaseException as error:
            self._fail(error, "evicted")

    def elsewhere(self, keys: Sequence[int]) -> None:
        try:
            self.policy.elsewhere(tuple(keys))
        except BaseException as error:
            self._fail(error, "elsewhere")

    def refill(self) -> Collection[int] | None:
        try:
            wanted: Any = self.policy.refill()
            if wanted is None:
                return None
            keys = {key_of(key, self.kind, "refill") for key in wanted}
            outside = next((key for key in keys if key // self.view.stride not in self.view.layers), None)
            if outside is not None:
                raise PolicyError(f"refill() asks for {outside}, which is no expert of this pool")
            return keys
        except BaseException as error:
            self._fail(error, "refill")

    def _fail(self, error: BaseException, method: str) -> NoReturn:
        step, layer = self.view.step, self.view.layer
        fail(error, self.kind, f"policy {self.name} failed at step {step}, layer {layer}", method)
