"""The value of the token before."""

import torch
from torch import Tensor


def prev(x: Tensor, pos: Tensor, state: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
    """`y[t] = x[t-1]`, zero where `pos == 0`.

    x: [B, T, *axes]. pos: [T] (whole documents, the state is not read) or [B, T]. state: the last value [B, *axes] or
    None.
    Returns y like x, and x[T-1].
    """
    past = torch.zeros_like(x[:, 0]) if state is None or pos.dim() == 1 else state.to(x.dtype)
    y = torch.cat([past[:, None], x[:, :-1]], 1)
    if pos.dim() == 2:
        y = y.masked_fill((pos == 0).reshape(pos.shape + (1,) * (x.dim() - 2)), 0)
    return y, None if state is None else x[:, -1]
