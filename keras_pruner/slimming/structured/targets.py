"""Reads what a smaller model shall cost."""

import numbers
import re
from typing import NamedTuple

from keras_pruner.checks import did_you_mean, shown

# Kinds of targets, each with its units.
UNITS = {
    "parameters": {"": 1, "K": 1e3, "M": 1e6, "B": 1e9},
    "flops": {"": 1, "FLOPS": 1, "KFLOPS": 1e3, "MFLOPS": 1e6, "GFLOPS": 1e9},
    "bytes": {"": 1, "B": 1, "KB": 1e3, "MB": 1e6, "GB": 1e9},
    "latency": {"S": 1, "MS": 1e-3, "US": 1e-6},
}
_EXAMPLES = {
    "parameters": "0.5 or '1 M'",
    "flops": "0.5 or '200 MFLOPs'",
    "bytes": "0.5 or '1 MB'",
    "latency": "0.5 or '5 ms'",
}


class Target(NamedTuple):
    """What a smaller model costs at most.

    Args:
        kind: `"parameters"`, `"flops"`, `"bytes"` or `"latency"`.
        share: Share of the given model's cost in (0, 1), or `None`.
        amount: Number of parameters, FLOPs, bytes or seconds, or `None`.
    """

    kind: str
    share: float | None = None
    amount: float | None = None

    def budget(self, whole):
        """Returns the highest cost, for a model that costs `whole`."""
        return self.amount if self.share is None else self.share * whole

    def __str__(self):
        if self.share is not None:
            return f"{self.kind}={self.share:g}"
        return f"{self.kind}={as_text(self.kind, self.amount)}"


def read_target(target, keywords):
    """Returns the one `Target` that a user names.

    Args:
        target: Dict of one kind and its value, or `None`.
        keywords: Dict from all kinds to values or `None`.

    Raises:
        TypeError: If a value has the wrong type.
        ValueError: If none or several are named, or a value is out of range.

    Example:

    >>> print(read_target({"flops": 0.5}, {}))
    flops=0.5
    >>> print(read_target(None, {"bytes": "1.5 MB"}))
    bytes=1.5 MB
    """
    given = {k: v for k, v in keywords.items() if v is not None}
    if target is not None:
        if not isinstance(target, dict):
            raise TypeError(
                "`target` is a dict of one kind and its value, e.g. {'flops': 0.5} for "
                f"half of the FLOPs. Received: {shown(target)}"
            )
        given = {**target, **given}
    for kind in given:
        if kind not in UNITS:
            raise ValueError(
                f"Unknown target {shown(kind)}. Known: {', '.join(UNITS)}."
                f"{did_you_mean(kind, UNITS)}"
            )
    if len(given) != 1:
        known = ", ".join(f"`{kind}={text}`" for kind, text in _EXAMPLES.items())
        received = ", ".join(given) or "none"
        raise ValueError(f"Give one target: {known}. Received: {received}")
    ((kind, value),) = given.items()
    return _read(kind, value)


def _read(kind, value):
    wrong = (
        f"`{kind}` is a share of the given model in (0, 1), or an amount, e.g. "
        f"{_EXAMPLES[kind]}. Received: {shown(value)}"
    )
    if isinstance(value, str):
        return Target(kind, amount=_amount_of(kind, value, wrong))
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        raise TypeError(wrong)
    value = float(value)
    if 0 < value < 1:
        return Target(kind, share=value)
    if kind != "latency" and 1 < value < float("inf"):
        return Target(kind, amount=value)
    raise ValueError(wrong)


def _amount_of(kind, text, wrong):
    units = UNITS[kind]
    found = re.fullmatch(r"\s*([0-9.]+(?:[eE][+-]?[0-9]+)?)\s*([A-Za-z]*)\s*", text)
    unit = found and found.group(2).upper()
    if not found or unit not in units:
        names = ", ".join(filter(None, units))
        raise ValueError(f"{wrong}. Units: {names}")
    try:
        amount = float(found.group(1)) * units[unit]
    except ValueError:
        raise ValueError(wrong) from None
    if amount <= 0:
        raise ValueError(wrong)
    return amount


def as_text(kind, amount):
    """Returns an amount with its unit.

    Example:

    >>> [as_text(*pair) for pair in [("flops", 2.5e8), ("latency", 0.0042)]]
    ['250 MFLOPs', '4.2 ms']
    """
    if kind == "latency":
        return f"{1e3 * amount:.3g} ms"
    suffix = {"flops": "FLOPs", "bytes": "B", "parameters": ""}[kind]
    for size, prefix in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if amount >= size:
            return f"{amount / size:.3g} {prefix}{suffix}".strip()
    return f"{amount:.0f} {suffix}".strip()
