"""Names as attributes of emitted modules, and so in checkpoints: none that Python or a framework has a use for."""

from __future__ import annotations

from keyword import iskeyword

MODULES = frozenset(
    """
    T_destination add_module apply bfloat16 buffers call_super_init children compile cpu cuda double dump_patches eval
    extra_repr float forward get_buffer get_extra_state get_parameter get_submodule half ipu iter_children iter_modules
    load_state_dict modules mtia named_buffers named_children named_modules named_parameters parameters perturb
    register_backward_hook register_buffer register_forward_hook register_forward_pre_hook register_full_backward_hook
    register_full_backward_pre_hook register_load_state_dict_post_hook register_load_state_dict_pre_hook
    register_module register_parameter register_state_dict_post_hook register_state_dict_pre_hook requires_grad
    set_attributes set_extra_state set_submodule share_memory sow state_dict to to_empty train training type xpu
    zero_grad
    """.split()
)
"""What `torch.nn.Module` and `flax.nnx.Module` have, less underscores at the end."""
EMITTED = frozenset(
    "FLOPS FP32 NO_DECAY RENAMED STACKS VOCAB init_state layers remat run run_layers step tokens".split()
)
"""What emitted classes have besides what the spec names."""


def attribute(name: str) -> str:
    """A name of the spec as an attribute of a module: `lambda` becomes `lambda_`.

    A reserved name with underscores behind it gets another one, so that different names stay different. Python and the
    frameworks keep names that begin with an underscore for themselves.

    >>> [attribute(name) for name in ("W_q", "lambda", "lambda_", "_parameters")]
    ['W_q', 'lambda_', 'lambda__', 'w_parameters']
    """
    if name.startswith("_"):
        return f"w{name}"
    plain = name.rstrip("_")
    return f"{name}_" if iskeyword(plain) or plain in MODULES | EMITTED else name
