"""Renames what a drawn spec names itself to what Python, the frameworks and the emitted code already use."""

from __future__ import annotations

import re
from random import Random

from archc.elaborate.builtins import NAMES
from archc.ops.pair import MASKS

AWKWARD = tuple(
    """
    False None True and_ as assert async await break class def del elif else except finally for from global if import
    is lambda nonlocal pass raise try while with yield match case type self cls super
    abs all any bool bytes dict enumerate float frozenset id input_ int isinstance iter len list map object print
    property range repr round set slice str sorted tuple vars zip
    math torch nn F jnp jax nnx np Tensor checkpoint fp32 rngs unroll remat stacked single unflatten Layers Frozen Model
    causal_conv selective_scan chunked_scan over_rows remember softmax_over numerics kernels
    training forward parameters buffers modules children state_dict train eval half double to apply register_buffer
    add_module get_parameter requires_grad_ zero_grad named_parameters T device dtype init_state run step run_layers
    layers tokens pattern replaced layer part new old state states inputs i batch context streams pos_ rows program
    keys_ VOCAB FP32 NO_DECAY FLOPS STACKS RENAMED attributes sow iter_modules copy_from value shape name x_ y E W
    _parameters _modules __init__ __call__ __class__ __dict__ _ __
    """.split()
)
KEPT = frozenset("model encoder block fn return loop shared init frozen tied input size default first last at".split())


def renamed(text: str, rng: Random, library: frozenset[str]) -> str:
    """The spec with some of its own names exchanged for awkward ones, each everywhere.

    `library`: the fns and parameters of the library, which keep their names.
    """
    words = list(dict.fromkeys(re.findall(r"[A-Za-z_]\w*", text)))
    language = KEPT | NAMES | frozenset(MASKS) | library | {"tokens", "pos", "layer", "x", "logits", "stack"}
    own = [word for word in words if word not in language]
    new = rng.sample([name for name in AWKWARD if name not in words], min(len(own), rng.randint(1, 6)))
    names = dict(zip(rng.sample(own, len(new)), new, strict=True))
    return re.sub(r"[A-Za-z_]\w*", lambda found: names.get(found[0], found[0]), text)
