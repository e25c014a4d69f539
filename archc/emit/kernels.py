"""What the functions of kernel files are called that run each class of scans, convolutions and sums over keys."""

from __future__ import annotations

from collections.abc import Mapping

from archc.fuse.parts import is_complex
from archc.passes.scan_class import ScanClass, ScanKind

SCANS: Mapping[ScanKind, str] = {
    "diagonal": "scan",
    "selective": "selective_scan",
    "long_convolution": "long_convolution",
    "chunked": "chunked_scan",
    "chunked_key": "chunked_key_scan",
    "delta": "delta_scan",
}
"""Of scans whose equations are operations of their own."""
GATED: Mapping[ScanKind, str] = {
    "diagonal": "gated_scan",
    "selective": "gated_selective_scan",
    "chunked": "gated_chunked_scan",
    "chunked_key": "gated_chunked_key_scan",
}
"""Of scans whose equations run inside."""
GATED_COMPLEX = "gated_complex_scan"
"""Of a diagonal scan of a complex state, whose equations run inside."""
CONV = "causal_conv"
"""Of convolutions, with or without equations behind them."""
ATTENTION, BOTH_WAYS = "attention", "bidirectional_attention"
"""Of plain attention, causal or to later keys too."""
COMPOSED, SORTED, PROGRAM = "composed_attention", "over_buckets", "over_rows"
"""Of attention with composed heads, of pairs within buckets, of any other program of pairs."""
NORMALISED, GATED_NORMALISED = "normalised_chunked_scan", "gated_normalised_scan"
"""Of scans of outer products with a normaliser, without and with their equations."""


def kernel_of(found: ScanClass, *, gated: bool) -> str:
    """The function that runs a scan, with or without the equations around it."""
    if found.normaliser is not None:
        return GATED_NORMALISED if gated else NORMALISED
    if gated and is_complex(found.scan):
        return GATED_COMPLEX
    return (GATED if gated else SCANS)[found.kind]
