"""Runs generated Triton functions in Triton's interpreter, which must be chosen before Triton is imported.

Reads the path of a folder per line; there, `gates.py` holds the functions and `cases.npz` the arrays; writes what the
functions give to `found.npz` and answers with a line, empty if all went well.
"""
# mypy: ignore-errors

import importlib.util
import os
import sys
import traceback
from itertools import count
from pathlib import Path

os.environ["TRITON_INTERPRET"] = "1"

import numpy as np
import torch
import triton
import triton.language as tl

MODULES = count()


@triton.jit
def _load(pointers, offsets):
    tiles = ()
    for i in tl.static_range(len(pointers)):
        tiles = tiles + (tl.load(pointers[i] + offsets),)  # noqa: RUF005 (Triton has no starred tuples)
    return tiles


@triton.jit
def _store(pointers, tiles, offsets, shape: tl.constexpr):
    for i in tl.static_range(len(pointers)):
        tl.store(pointers[i] + offsets, tl.broadcast_to(tiles[i], shape))


@triton.jit
def gates_kernel(
    xs, ws, first, incoming, outs, dxs, dws, G: tl.constexpr, D: tl.constexpr, T: tl.constexpr, C: tl.constexpr
):
    rows, columns = tl.arange(0, T)[:, None], tl.arange(0, C)[None, :]
    at = rows * C + columns
    x, w = _load(xs, at), _load(ws, columns)
    starts = tl.load(first + rows) != 0
    a, u = G(x, w, starts)
    _store(outs, (a, u), at, (T, C))
    da, du = _load(incoming, at)
    dx, dw = D(x, w, starts, da, du)
    _store(dxs, dx, at, (T, C))
    _store(dws, dw, at, (T, C))


@triton.jit
def out_kernel(
    read, xs, ws, incoming, out, dread, dxs, dws, G: tl.constexpr, D: tl.constexpr, T: tl.constexpr, C: tl.constexpr
):
    rows, columns = tl.arange(0, T)[:, None], tl.arange(0, C)[None, :]
    at = rows * C + columns
    x, w = _load(xs, at), _load(ws, columns)
    y = tl.load(read + at)
    tl.store(out + at, tl.broadcast_to(G(y, x, w), (T, C)))
    dy, dx, dw = D(y, x, w, tl.load(incoming + at))
    tl.store(dread + at, tl.broadcast_to(dy, (T, C)))
    _store(dxs, dx, at, (T, C))
    _store(dws, dw, at, (T, C))


@triton.jit
def _at(which: tl.constexpr, along: tl.constexpr, H: tl.constexpr, T: tl.constexpr):
    """Offsets of a plane of queries (1), of keys (2) or of weights (0), or of a matrix (3), `along` heads or not."""
    heads = tl.arange(0, H) if along else tl.arange(0, 1)
    if which == 3:
        at = heads[:, None] * H + tl.arange(0, H)[None, :]
    elif which == 0:
        at = heads[:, None, None]
    else:
        tokens = tl.arange(0, T)[None, :, None] if which == 1 else tl.arange(0, T)[None, None, :]
        at = heads[:, None, None] * T + tokens
    return at


@triton.jit
def mix_kernel(
    a, qs, ks, ws, d, out, da, dqs, dks, dws,
    F: tl.constexpr, G: tl.constexpr, QS: tl.constexpr, KS: tl.constexpr, WS: tl.constexpr, H: tl.constexpr,
    T: tl.constexpr,
):  # fmt: skip
    at = tl.arange(0, H)[:, None, None] * T * T + tl.arange(0, T)[None, :, None] * T + tl.arange(0, T)[None, None, :]
    q, k, w = (), (), ()
    for i in tl.static_range(len(qs)):
        where = _at(1, QS[i], H, T)
        q = q + ((qs[i] + where, where >= 0),)  # noqa: RUF005
    for i in tl.static_range(len(ks)):
        where = _at(2, KS[i], H, T)
        k = k + ((ks[i] + where, where >= 0),)  # noqa: RUF005
    for i in tl.static_range(len(ws)):
        w = w + (tl.load(ws[i] + _at(WS[i][0], WS[i][1], H, T)),)  # noqa: RUF005
    x = tl.load(a + at)
    tl.store(out + at, F(x, q, k, w))
    dx, dq, dk, dw = G(x, q, k, w, tl.load(d + at), 1, 2)
    tl.store(da + at, dx)
    for i in tl.static_range(len(qs)):
        tl.static_assert(dq[i].shape == q[i][0].shape)
        tl.store(dqs[i] + _at(1, QS[i], H, T), dq[i])
    for i in tl.static_range(len(ks)):
        tl.static_assert(dk[i].shape == k[i][0].shape)
        tl.store(dks[i] + _at(2, KS[i], H, T), dk[i])
    for i in tl.static_range(len(ws)):
        tl.static_assert(dw[i].shape == w[i].shape)
        tl.store(dws[i] + _at(WS[i][0], WS[i][1], H, T), dw[i])


def imported(path):
    spec = importlib.util.spec_from_file_location(f"gates_{next(MODULES)}", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def run(folder):
    module = imported(folder / "gates.py")
    given = {k: torch.from_numpy(v) for k, v in np.load(folder / "cases.npz").items()}

    def many(name):
        return tuple(given[k] for k in sorted(given) if k.startswith(name))

    if "a" in given:
        np.savez(folder / "found.npz", **mixed(module, given, many))
        return
    xs, ws, incoming = many("x"), many("w"), many("d")
    shape = xs[0].shape

    def empty(count):
        return tuple(torch.full(shape, torch.nan, dtype=xs[0].dtype) for _ in range(count))

    outs, dxs, dws = empty(2), empty(len(xs)), empty(len(ws))
    gates_kernel[(1,)](
        xs, ws, given["first"], incoming[:2], outs, dxs, dws,
        G=module.g_device, D=module.g_grad, T=shape[0], C=shape[1],
    )  # fmt: skip
    found = {"gates": torch.stack([*outs, *dxs, *dws])}
    if hasattr(module, "g_out_device"):
        out, dread, dxs, dws = *empty(2), empty(len(xs)), empty(len(ws))
        out_kernel[(1,)](
            given["read"], xs, ws, incoming[0], out, dread, dxs, dws,
            G=module.g_out_device, D=module.g_out_grad, T=shape[0], C=shape[1],
        )  # fmt: skip
        found["out"] = torch.stack([out, dread, *dxs, *dws])
    np.savez(folder / "found.npz", **{k: v.numpy() for k, v in found.items()})


def mixed(module, given, many):
    """The composition of a module and its derivatives."""
    a, groups = given["a"], [many(key) for key in "qkw"]
    out, da = torch.full_like(a, torch.nan), torch.full_like(a, torch.nan)
    back = [tuple(torch.full_like(x, torch.nan) for x in group) for group in groups]
    qs, ks = (tuple(len(x) > 1 for x in group) for group in groups[:2])
    ws = tuple((3 if x.dim() == 2 else 0, len(x) > 1) for x in groups[2])
    mix_kernel[(1,)](
        a, *groups, given["d"], out, da, *back, F=module.g_before, G=module.g_before_grad, QS=qs, KS=ks, WS=ws,
        H=a.shape[0], T=a.shape[1],
    )  # fmt: skip
    found = {"out": out, "da": da}
    found |= {f"d{key}{i:02}": x for key, group in zip("qkw", back, strict=True) for i, x in enumerate(group)}
    return {k: v.numpy() for k, v in found.items()}


if __name__ == "__main__":
    for line in sys.stdin:
        try:
            run(Path(line.strip()))
            print(flush=True)
        except Exception:
            print(traceback.format_exc().replace("\n", "\\n"), flush=True)
