"""The token that a model's output favours at each position (argmax of its logits), where it computed one."""

from __future__ import annotations

from typing import Any

import torch

from lrcsim.base.errors import ConfigError

UNKNOWN = -1


def predicts_tokens(model: Any) -> bool:
    """Tell whether the model's output are scores of the next token: it can generate, as an encoder cannot."""
    return hasattr(model, "generate") and bool(model.can_generate())


def predicted_ids(output: Any, rows: int, device: Any) -> Any:
    """Return the predicted token of every row of a forward pass, int32 [rows]; -1 where no output was computed.

    In generation a model computes the output of a prompt's last position only; an encoder has none.

    Args:
        output: of the model (or its encoder); ``logits`` are [batch, positions, vocabulary], of the last positions.
        rows: batch x tokens that ran.
        device: where to make what the output does not have.

    Raises:
        ConfigError: the output is of other positions than ran.
    """
    logits = getattr(output, "logits", None)
    if logits is None:
        return torch.full((rows,), UNKNOWN, dtype=torch.int32, device=device)
    batch, positions = logits.shape[:2]
    width = rows // batch
    if rows % batch or positions > width:
        raise ConfigError(
            f"the model gave outputs of {batch} x {positions} positions for {rows} tokens: it cannot be recorded"
        )
    best = logits.argmax(dim=-1).to(torch.int32)
    return torch.nn.functional.pad(best, (width - positions, 0), value=UNKNOWN).reshape(-1)
