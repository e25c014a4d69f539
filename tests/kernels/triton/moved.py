"""Bytes in the code of kernels against those that the report prints: per token and element of the scan's tile.

The report counts what must cross memory: every input once, every result once. In the code of a kernel stand loads and
stores. Where there are more of them than the report has, the tests say which, and why:

- positions and what is kept for the backward pass: a few bytes that the report leaves out, as it says;
- what neighbours share is loaded by each of them, and comes from a cache for all but one: the tokens before a segment
  in a convolution, keys and queries of the heads and value slices of a scan of outer products, those of the channels in
  a selective scan;
- what a selective scan reads again, a few tokens after it did, where keeping it would take the registers of states;
- sums over programs, that are added up outside for the sake of one order: the gradients of keys and queries. These do
  cross memory: without them several programs would have to add into one array.
"""

from collections import Counter

from archc.backends.torch.launches import Launched
from archc.backends.torch.moved import accesses

from archc.fuse.fused_scan import FusedScan
from archc.fuse.scans import fused_scans
from archc.fuse.traffic import Traffic
from archc.specs_index import program
from tests.kernels.triton.shipped import SETTINGS, launches

Moved = dict[str, float]


def started(spec: str, kernel: str) -> Launched:
    """The launch of a kernel in training, the one with the most programs."""
    found = [each for name, each in launches(spec, 90).items() if name.startswith(f"{kernel}:")]
    return max((each for each in found if each.use == "training"), key=lambda each: each.programs)


def moved(found: Launched, channels: str, times: tuple[float, ...]) -> Moved:
    """Bytes by argument in the loops of a kernel, stores in capitals. times: how often each loop runs per token."""
    total: Counter[str] = Counter()
    for each in accesses(found.launch, 90):
        if each.loops:
            name = each.argument.upper() if each.stores else each.argument
            total[name] += each.bytes * times[each.loops[-1]] / found.launch.constants[channels]
    return dict(total)


def fused(spec: str) -> FusedScan:
    return next(iter(fused_scans(program(spec, SETTINGS).graph).values()))


def reported(spec: str) -> Traffic:
    traffic = fused(spec).traffic
    assert traffic is not None
    return traffic
