"""Weights saved by one backend are read by the other: the emitted folders as they stand, each in its own process."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np

from archc import api
from tests.xla import FLAGS

TOKENS = "np.arange(24).reshape(2, 12) * 7 % 256"
TORCH = f"""
import sys
from pathlib import Path
import numpy as np, torch
from checkpoint import load_weights, named_weights
from model import Model
from safetensors.torch import save_file
torch.manual_seed(1)
model, found, made = Model(), sys.argv[1], sys.argv[2]
if found: load_weights(model, Path(found))
save_file({{k: v.contiguous() for k, v in named_weights(model).items()}}, made + ".safetensors")
with torch.no_grad(): np.save(made, model(torch.tensor({TOKENS})).numpy())
"""
FLAX = f"""
import sys
from pathlib import Path
import jax.numpy as jnp, numpy as np
from checkpoint import load_weights, named_weights
from flax import nnx
from model import Model
from safetensors.numpy import save_file
model, found, read, made = Model(rngs=nnx.Rngs(2)), *sys.argv[1:]
run = nnx.jit(lambda model: model(jnp.asarray({TOKENS})))
save_file({{k: np.asarray(v) for k, v in named_weights(model).items()}}, made + ".safetensors")
np.save(made, run(model))
load_weights(model, Path(found))
np.save(read, run(model))
"""


def test_weights_saved_by_one_backend_are_read_by_the_other(tmp_path: Path) -> None:
    for backend in ("torch", "flax"):
        api.compile("recurrentgemma:tiny", backend=backend, settings={"depth": 3}, out=tmp_path / backend)

    def run(backend: str, script: str, *arguments: str) -> None:
        command = [sys.executable, "-c", script, *arguments]
        folder, quick = tmp_path / backend, os.environ | {"XLA_FLAGS": FLAGS}
        done = subprocess.run(
            command, cwd=folder, env=quick, capture_output=True, text=True, stdin=subprocess.DEVNULL, check=False
        )
        assert done.returncode == 0, done.stderr

    def path(name: str) -> str:
        return str(tmp_path / name)

    def logits(name: str) -> np.ndarray:
        array: np.ndarray = np.load(tmp_path / f"{name}.npy")
        return array

    run("torch", TORCH, "", path("of_torch"))
    run("flax", FLAX, path("of_torch.safetensors"), path("read_by_flax"), path("of_flax"))
    run("torch", TORCH, path("of_flax.safetensors"), path("read_by_torch"))
    np.testing.assert_allclose(logits("read_by_flax"), logits("of_torch"), rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(logits("read_by_torch"), logits("of_flax"), rtol=1e-4, atol=1e-4)
    assert np.abs(logits("of_flax") - logits("of_torch")).max() > 0.1
    first, last = (tmp_path / f"{name}.safetensors" for name in ("of_flax", "read_by_torch"))
    assert first.stat().st_size == last.stat().st_size
