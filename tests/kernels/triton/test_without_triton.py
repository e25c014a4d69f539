"""Where Triton is not installed the kernels are operations on tensors, and nothing else is missing."""

import subprocess
import sys
from pathlib import Path

from archc.backends.torch import kernels as folder

PROGRAM = """
import sys
sys.modules["triton"] = None
import torch
from kernels.activation import Activation
from kernels.composed import Composed, composed_attention
from kernels.conv import causal_conv
from kernels.gated import Gates, gated_scan
from kernels.pairs import Keys
from kernels.scan import scan
u, pos = torch.randn(2, 5, 3), torch.arange(5)
h, _ = scan(0.5, u, pos)
gates = Gates(lambda x, first: (0.5 * torch.ones_like(x), x))
assert gates.fused is None
assert torch.equal(gated_scan(gates, (u,), (), pos)[0], h)
silu = Activation(torch.nn.functional.silu)
assert silu.fused is None
y, _ = causal_conv(u, torch.ones(1, 3), pos, bias=torch.ones(3), activation=silu)
torch.testing.assert_close(y, torch.nn.functional.silu(u + 1))
q = torch.randn(1, 4, 2, 3)
composed = Composed("plain")
assert composed.fused is None
y = composed_attention(lambda rows: 2 * rows.query_tokens(q), composed, q, q, q, Keys(torch.arange(4), 4), scale=1.0)
assert torch.equal(y, 2 * q)
"""


def test_kernels_run_without_triton() -> None:
    subprocess.run(
        [sys.executable, "-P", "-c", PROGRAM], check=True, env={"PYTHONPATH": str(Path(folder.__path__[0]).parent)}
    )
