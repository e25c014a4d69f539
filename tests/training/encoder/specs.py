"""Encoders with more than one input or output, and their projects with a text to train on."""

from pathlib import Path

import archc
from tests.training.project import Backend, Project, write_text

SPEC = """
## Two layers, with a second input and a second output, and positions for 64 tokens.
encoder filler(width = 32, depth = 2, vocab = 257, heads = 2, length = 64) {
    input segment
    block layer_ {
        x = x + attention(layer_norm(x), heads, mask = everything)
        x = x + mlp(layer_norm(x), 2 * width)
    }
    x = E[vocab width](tokens) + P[length width](pos) + S[kinds = 2 width](segment)
    x = stack(x, depth, [layer_])
    logits = layer_norm(x) @ E[width -> vocab]
    tied E
    init default = normal(0.02)
    return logits, mean(x, over = time) @ V[answers = 2]
}
"""
SUMMED = """
encoder summed(width = 8, vocab = 257) {
    x = E[vocab width](tokens)
    return (x + mean(x, over = time)) @ U[width -> vocab]
}
"""
DECODER = """
model small(width = 8, vocab = 256, length = 48) {
    input voice
    x = E[vocab width](tokens) + P[length width](pos) + V[voices = 2 width](voice)
    x = x + scan(decay = sigmoid(x @ W_a[width -> width']), input = x) * s[width]
    return x @ U[width -> vocab], x @ R[width -> one = 1]
}
"""
MASK = 256


def laid_out(folder: Path, backend: Backend, cache: Path, spec: str = SPEC) -> Project:
    archc.compile(spec, backend=backend, out=folder, force=True)
    write_text(folder / "text")
    return Project(folder, backend, cache)
