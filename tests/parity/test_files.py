"""Weights saved by one backend are read by the other: the emitted folders as they stand, each in its own process."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np

from archc import api

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
model, found, made = Model(rngs=nnx.Rngs(2)), sys.argv[1], sys.argv[2]
if found: load_weights(model, Path(found))
save_file({{k: np.asarray(v) for k, v in named_weights(model).items()}}, made + ".safetensors")
np.save(made, model(jnp.asarray({TOKENS})))
"""


def test_weights_saved_by_one_backend_are_read_by_the_other(tmp_path: Path) -> None:
    torch, flax = tmp_path / "torch", tmp_path / "flax"
    api.compile("recurrentgemma:tiny", backend="torch", out=torch)
    api.compile("recurrentgemma:tiny", backend="flax", out=flax)

    def logits(folder: Path, script: str, name: str, found: str = "") -> np.ndarray:
        weights = str(tmp_path / f"{found}.safetensors") if found else ""
        command = [sys.executable, "-c", script, weights, str(tmp_path / name)]
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, stdin=subprocess.DEVNULL)
        assert done.returncode == 0, done.stderr
        array: np.ndarray = np.load(tmp_path / f"{name}.npy")
        return array

    of_torch = logits(torch, TORCH, "of_torch")
    np.testing.assert_allclose(logits(flax, FLAX, "read_by_flax", "of_torch"), of_torch, rtol=1e-4, atol=1e-4)
    of_flax = logits(flax, FLAX, "of_flax")
    np.testing.assert_allclose(logits(torch, TORCH, "read_by_torch", "of_flax"), of_flax, rtol=1e-4, atol=1e-4)
    assert np.abs(of_flax - of_torch).max() > 0.1
    first, last = (tmp_path / f"{name}.safetensors" for name in ("of_flax", "read_by_torch"))
    assert first.stat().st_size == last.stat().st_size
