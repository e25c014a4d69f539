"""The safetensors format, tensor by tensor: what is read is mapped, what is written goes straight to its place.

Eight bytes with the length of the header, the header as JSON, the tensors. Elements are never converted here: a tensor
is an array of unsigned integers as wide as its elements, so that no format loses a bit and none needs a library.
"""

from __future__ import annotations

import json
import os
import struct
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from archc.diagnostics import error

Bits = NDArray[np.unsignedinteger[Any]]
Element = Literal["F64", "F32", "F16", "BF16"]

WIDTHS: Mapping[str, int] = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2}
"""Bytes of an element, of those formats that weights of ours may have."""


@dataclass(frozen=True)
class Tensor:
    """One tensor of a file: element format, shape, and where its first byte stands."""

    file: Path
    element: Element
    shape: tuple[int, ...]
    offset: int

    def read(self) -> Bits:
        """Its bits, mapped: bytes come from the disk when they are looked at."""
        kind = np.dtype(f"<u{WIDTHS[self.element]}")
        if not prod(self.shape):
            return np.empty(self.shape, kind)
        return np.memmap(self.file, kind, "r", self.offset, self.shape)


def read_header(file: Path) -> dict[str, Tensor]:
    """The tensors of a file by name. `ArchError` E711 where it is damaged or its elements are of another kind."""
    size = file.stat().st_size
    with file.open("rb") as stream:
        (length,) = struct.unpack("<Q", stream.read(8).ljust(8, b"\xff"))
        if length > size - 8:
            raise error("E711", f"'{file}' is no whole safetensors file")
        try:
            header = json.loads(stream.read(length))
        except ValueError:
            raise error("E711", f"the header of '{file}' cannot be read") from None
    header.pop("__metadata__", None)
    return {name: _tensor(file, name, entry, 8 + length, size) for name, entry in header.items()}


def _tensor(file: Path, name: str, entry: Any, start: int, size: int) -> Tensor:
    element, shape, (first, end) = entry["dtype"], tuple(entry["shape"]), entry["data_offsets"]
    if element not in WIDTHS:
        what = f"'{name}' of '{file}' has elements of the kind {element}"
        raise error("E711", what, help=f"weights are {', '.join(WIDTHS)}; quantised ones have to be unpacked before")
    if end - first != prod(shape) * WIDTHS[element] or start + end > size:
        raise error("E711", f"'{file}' ends before its tensor '{name}' does")
    return Tensor(file, element, shape, start + first)


class Writer:
    """A new safetensors file of known tensors, filled in any order."""

    def __init__(self, file: Path, tensors: Mapping[str, tuple[Element, tuple[int, ...]]]) -> None:
        header: dict[str, Any] = {"__metadata__": {"format": "pt"}}  # transformers refuses files without it
        end = 0
        for name, (element, shape) in tensors.items():
            start, end = end, end + prod(shape) * WIDTHS[element]
            header[name] = {"dtype": element, "shape": list(shape), "data_offsets": [start, end]}
        text = json.dumps(header, separators=(",", ":")).encode()
        text += b" " * (-len(text) % 8)
        with file.open("wb") as stream:
            stream.write(struct.pack("<Q", len(text)) + text)
            stream.truncate(8 + len(text) + end)
            if sys.platform == "linux" and end:  # a full disk is an OSError here, and would be a signal while mapped
                os.posix_fallocate(stream.fileno(), 0, 8 + len(text) + end)
        self._tensors = read_header(file)

    def place(self, name: str) -> Bits:
        """The place of one tensor in the file, to be filled: mapped, so that nothing of it is kept in memory."""
        at = self._tensors[name]
        kind = np.dtype(f"<u{WIDTHS[at.element]}")
        if not prod(at.shape):
            return np.empty(at.shape, kind)
        return np.memmap(at.file, kind, "r+", at.offset, at.shape)
