"""Numbers as people read them."""

from __future__ import annotations

_BYTES = ("bytes", "KiB", "MiB", "GiB", "TiB")
_LARGE = ((1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"))


def in_bytes(count: float) -> str:
    """A size in the largest binary unit that leaves it above one.

    >>> in_bytes(512), in_bytes(184_320), in_bytes(16_777_216)
    ('512 bytes', '180 KiB', '16 MiB')
    """
    power = 0
    while count >= 1024 and power < len(_BYTES) - 1:
        count, power = count / 1024, power + 1
    return f"{three(count)} {_BYTES[power]}"


def large(count: float) -> str:
    """Three figures and a decimal prefix.

    >>> large(2_682_862_080), large(0), large(999), large(5.5312e9)
    ('2.68G', '0', '999', '5.53G')
    """
    for size, letter in _LARGE:
        if count >= size:
            return f"{three(count / size)}{letter}"
    return three(count)


def three(number: float) -> str:
    """About three figures, without a useless point.

    >>> three(180), three(2.6828), three(12.34), three(0.5)
    ('180', '2.68', '12.3', '0.5')
    """
    digits = 0 if number >= 100 else 1 if number >= 10 else 2
    text = f"{number:.{digits}f}"
    return text.rstrip("0").rstrip(".") if "." in text else text
