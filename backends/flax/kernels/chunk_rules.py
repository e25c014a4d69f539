"""The rules of a chunk on a machine: with one decay per head, and perhaps a normaliser, or with one per key."""

from typing import NamedTuple

from kernels.chunk import Rule, Turns, head_rule
from kernels.halves import Swap
from kernels.key_chunk import key_rule
from kernels.normalised_chunk import normalised_rule
from kernels.tiles import Gates


class Rules(NamedTuple):
    """Those of a machine; keys_before: what is read is the state before the update."""

    heads: Rule
    normalised: Rule
    keys: Rule
    keys_before: Rule

    def rule(self, gates: Gates, per_key: bool) -> Rule:
        """That of a scan."""
        if per_key:
            return self.keys_before if gates.before else self.keys
        return self.normalised if gates.normalised else self.heads


def rules(turns: Turns, swap: Swap) -> Rules:
    """Those of a machine that sums over tiles, and exchanges halves of blocks of tokens, like this."""
    return Rules(
        heads=head_rule(turns),
        normalised=normalised_rule(turns),
        keys=key_rule(swap, before=False),
        keys_before=key_rule(swap, before=True),
    )
