"""Others that compute the same: torch.compile of the plain equations, and packages that are installed.

Each takes what a case draws and gives what the case's kernel gives, gates included. Layouts that a package wants are
made inside of the timed call where a model would have to make them; the comments say which.
"""
# mypy: disable-error-code="no-untyped-call,import-not-found"

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import conv1d, gelu, pad, silu, softplus

from benchmarks.gpu.cases import LOCAL, Case, Inputs, compose, positions
from benchmarks.gpu.place import Place

Contender = Callable[[Inputs], Tensor]


def contenders(case: Case, place: Place) -> Mapping[str, Contender]:
    """By name; the first two are the project's own paths."""
    made, found = case.project(), dict[str, Contender]()

    def on(kernels: bool) -> Contender:
        def run(x: Inputs) -> Tensor:
            with made.path(kernels):
                return case.run(made, x, positions({"T": x[0].shape[1]}, x[0].device))

        return run

    found["archc"] = on(True)
    found["eager"] = on(False)
    if not place.dry:
        found["torch.compile"] = torch.compile(PLAIN[case.name], dynamic=False)
    for package, name, run in PEERS.get(case.name, ()):
        if find_spec(package) and not place.dry:
            found[name] = run
    if place.dry:  # what would be compiled, to see that it is the same function
        found["plain"] = PLAIN[case.name]
    return found


# ---- the equations for torch.compile -----------------------------------------------------------------------------


def _scan(a: Tensor, u: Tensor) -> Tensor:
    """`h[t] = a[t] h[t-1] + u[t]` along the axis 1, by the operator that torch has for it."""
    if not a.is_cuda:
        return _doubling(a, u)
    from torch._higher_order_ops.associative_scan import associative_scan

    h: Tensor = associative_scan(lambda x, y: (x[0] * y[0], y[0] * x[1] + y[1]), (a, u), dim=1)[1]
    return h


def _doubling(a: Tensor, u: Tensor) -> Tensor:
    """The same in log2(T) passes (Hillis and Steele 1986)."""
    step, ones = 1, [0, 0] * (a.dim() - 2)
    while step < a.shape[1]:
        late = pad(u, (*ones, step, 0))[:, :-step]
        u = a * late + u
        a = a * pad(a, (*ones, step, 0), value=1.0)[:, :-step]
        step *= 2
    return u


def rg_lru(x: Inputs) -> tuple[Tensor, Tensor]:
    """Griffin's logarithm of decays and input (De et al. 2024, equations 1 to 4) in single precision, one document."""
    _, v, r, i, _, b_r, b_i, rate = (z.float() for z in x)
    log_a = rate * torch.sigmoid(r + b_r)
    m = torch.sqrt(-torch.expm1(2 * log_a))
    m = torch.cat([torch.ones_like(m[:, :1]), m[:, 1:]], 1)
    return log_a, m * torch.sigmoid(i + b_i) * v


def _gated(h: Tensor, x: Inputs) -> Tensor:
    """The state times the side branch, in the type of the inputs."""
    return (h * gelu(x[0].float() + x[4], approximate="tanh")).to(x[0].dtype)


def _diagonal(x: Inputs) -> Tensor:
    log_a, u = rg_lru(x)
    return _gated(_scan(log_a.exp(), u), x)


def _given(x: Inputs) -> Tensor:
    return _scan(x[0].float(), x[1].float()).to(x[1].dtype)


def _selective(x: Inputs) -> Tensor:
    """With every state in memory: what no kernel would do."""
    u, z, dt, bias, D, A, B, C = (each.float() for each in x)
    dt = softplus(dt + bias)
    h = _scan(torch.exp(dt[..., None] * A), (dt * u)[..., None] * B[:, :, None])
    return (((h * C[:, :, None]).sum(-1) + D * u) * silu(z)).to(x[0].dtype)


def _heads(x: Inputs) -> Tensor:
    dt, rate, k, v, q = x
    return _chunks((dt * rate)[..., None], k.float(), dt[..., None] * v.float(), q.float()).to(v.dtype)


def _keys(x: Inputs) -> Tensor:
    log_a, k, v, q = x
    return _chunks(log_a, k.float(), v.float(), q.float()).to(v.dtype)


def _chunks(log_a: Tensor, k: Tensor, v: Tensor, q: Tensor, size: int = 16) -> Tensor:
    """[B, T, G, H, K or 1] and so on; pairs of a chunk one by one, states from chunk to chunk by the scan."""
    time = v.shape[1]
    filled = (pad(x, (0, 0, 0, 0, 0, 0, 0, -time % size)).unflatten(1, (-1, size)) for x in (log_a, k, v, q))
    log_a, k, v, q = (x.movedim(2, -2) for x in filled)  # [B, n, G, H, size, axis]
    total = log_a.cumsum(-2)
    spans = total[..., :, None, :] - total[..., None, :, :]
    ordered = torch.ones(size, size, dtype=torch.bool, device=v.device).tril()[..., None]
    scores = (q[..., :, None, :] * k[..., None, :, :] * spans.masked_fill(~ordered, -torch.inf).exp()).sum(-1)
    added = (k * (total[..., -1:, :] - total).exp()).mT @ v
    states = _scan(total[..., -1, :, None].exp().expand_as(added), added)
    before = torch.cat([torch.zeros_like(states[:, :1]), states[:, :-1]], 1)
    y = scores @ v + (q * total.exp()) @ before
    return y.movedim(-2, 2).flatten(1, 2)[:, :time]


def _conv(x: Inputs) -> Tensor:
    stream = pad(x[0].mT, (x[1].shape[0] - 1, 0))
    return silu(conv1d(stream, x[1].T[:, None], x[2], groups=x[1].shape[1])).mT


def _composed(window: int | None, x: Inputs) -> Tensor:
    """Maps of all pairs, which a compiler may keep in pieces."""
    q, k, v, *tokens = x
    place = torch.arange(q.shape[1], device=q.device)
    behind = place[:, None] - place
    seen = (behind >= 0) & (behind < (window or len(place)))
    s = compose(torch.einsum("bqhd,bkhd->bhqk", q, k) * q.shape[3] ** -0.5, *tokens[:6])
    p = torch.softmax(s.float().masked_fill(~seen, -torch.inf), -1).to(q.dtype)
    return torch.einsum("bhqk,bkhd->bqhd", compose(p, *tokens[6:]), v)


PLAIN: Mapping[str, Contender] = {
    "diagonal scan with gates": _diagonal,
    "diagonal scan alone": _given,
    "selective scan with gates": _selective,
    "outer products, a decay per head": _heads,
    "outer products, a decay per key": _keys,
    "convolution with bias and silu": _conv,
    "attention with composed heads": partial(_composed, None),
    "attention with composed heads, a window": partial(_composed, LOCAL),
}


# ---- packages ----------------------------------------------------------------------------------------------------


def _fla_hgrn(x: Inputs) -> Tensor:
    """Gates by themselves, in single precision as the scan takes them."""
    from fla.ops.hgrn import fused_recurrent_hgrn

    log_a, u = rg_lru(x)
    return _gated(_first(fused_recurrent_hgrn(u.to(x[0].dtype), log_a)), x)


def _fla_hgrn_given(x: Inputs) -> Tensor:
    from fla.ops.hgrn import fused_recurrent_hgrn

    return _first(fused_recurrent_hgrn(x[1], x[0].float().log()))


def _accelerated(x: Inputs) -> Tensor:
    """Time innermost: three transposes are part of it."""
    from accelerated_scan.scalar import scan

    log_a, u = rg_lru(x)
    return _gated(_first(scan(log_a.exp().mT.contiguous(), u.mT.contiguous())).mT, x)


def _accelerated_given(x: Inputs) -> Tensor:
    from accelerated_scan.scalar import scan

    return _first(scan(x[0].mT.contiguous(), x[1].mT.contiguous())).mT


def _mamba(x: Inputs) -> Tensor:
    """Channels before time, as Mamba's own projections give them: views, made contiguous inside."""
    from mamba_ssm.ops.selective_scan_interface import selective_scan_fn

    u, z, dt, bias, D, A, B, C = x
    u, z, dt, B, C = (each.mT.contiguous() for each in (u, z, dt, B, C))
    return _first(selective_scan_fn(u, dt, A, B, C, D, z, delta_bias=bias, delta_softplus=True)).mT


def _mamba2(x: Inputs) -> Tensor:
    from mamba_ssm.ops.triton.ssd_combined import mamba_chunk_scan_combined

    dt, rate, k, v, q = x
    y = mamba_chunk_scan_combined(v[:, :, 0], dt[:, :, 0], rate[0], k[:, :, 0], q[:, :, 0], chunk_size=256)
    return _first(y)[:, :, None]


def _fla_heads(x: Inputs) -> Tensor:
    from fla.ops.simple_gla import chunk_simple_gla

    dt, rate, k, v, q = x
    k, q = (each[:, :, 0].expand(-1, -1, v.shape[3], -1).contiguous() for each in (k, q))
    value = (dt[..., None] * v).to(v.dtype)[:, :, 0]
    return _first(chunk_simple_gla(q, k, value, (dt * rate)[:, :, 0], scale=1.0))[:, :, None]


def _fla_keys(x: Inputs) -> Tensor:
    from fla.ops.gla import chunk_gla

    log_a, k, v, q = (each[:, :, :, 0] for each in x)
    return _first(chunk_gla(q, k, v, log_a, scale=1.0))[:, :, :, None]


def _first(found: Any) -> Tensor:
    y: Tensor = found[0] if isinstance(found, tuple) else found
    return y


PEERS: Mapping[str, tuple[tuple[str, str, Contender], ...]] = {
    "diagonal scan with gates": (
        ("fla", "fla hgrn, gates apart", _fla_hgrn),
        ("accelerated_scan", "accelerated-scan, gates and transposes apart", _accelerated),
    ),
    "diagonal scan alone": (
        ("fla", "fla hgrn", _fla_hgrn_given),
        ("accelerated_scan", "accelerated-scan, transposes apart", _accelerated_given),
    ),
    "selective scan with gates": (("mamba_ssm", "mamba-ssm, transposes apart", _mamba),),
    "outer products, a decay per head": (
        ("mamba_ssm", "mamba-ssm", _mamba2),
        ("fla", "fla simple_gla", _fla_heads),
    ),
    "outer products, a decay per key": (("fla", "fla gla", _fla_keys),),
}
"""By case: the package that has to be importable, what it is called here, and how it is called."""
