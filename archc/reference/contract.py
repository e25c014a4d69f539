"""Contraction and look-up in NumPy."""

from __future__ import annotations

from archc.ir.graph import Value
from archc.reference.frame import Array, Evaluate, Frame, sum_of_products


def _sum_of_products(value: Value, operands: tuple[Array, ...], frame: Frame) -> Array:
    left, right = zip(operands, value.operands, strict=True)
    return sum_of_products(left, right, value.type)


def _rows(value: Value, operands: tuple[Array, ...], frame: Frame) -> Array:
    table, index = operands
    return table[index]


RULES: dict[str, Evaluate] = {"contract": _sum_of_products, "lookup": _rows}
