"""Checks values that a user sets, and words the errors."""

import contextlib
import difflib
import json
import math
import numbers
import re

import numpy as np

# A setting without an upper bound must still fit into a tensor.
FLOAT32_MAX = float.fromhex("0x1.fffffep+127")
INT64_MAX = 2**63 - 1

# Messages show at most so many characters of a value.
_SHOWN = 200


def did_you_mean(name, known):
    """Returns `" Did you mean 'x'?"`, or an empty string if no name is similar.

    Case and the characters `-` and space do not count. Otherwise it names one of which
    `name` is the beginning, or that is the beginning of `name`.
    """
    if not isinstance(name, str):
        return ""
    known, name = [str(item) for item in known], name[:_SHOWN]
    plain = "_".join(name.lower().replace("-", " ").split())
    near = [item for item in known if item.lower() == plain]
    near += difflib.get_close_matches(name, known, n=1)
    if len(plain) > 2:
        near += [item for item in known if item.lower().startswith(plain)]
    near += difflib.get_close_matches(plain, known, n=1)
    near += [item for item in known if len(item) > 2 and plain.startswith(item.lower())]
    return f" Did you mean '{near[0]}'?" if near else ""


def shown(value):
    """Returns any value as text of a bounded length, for a message."""
    try:
        text = repr(value)
    except Exception:
        # An integer of too many digits, or an object whose `repr` fails.
        return f"a value of type {type(value).__name__} that cannot be printed"
    if len(text) <= _SHOWN:
        return text
    return f"{text[: _SHOWN // 2]}... ({len(text)} characters)"


@contextlib.contextmanager
def naming(what):
    """Puts a name before the message of a `ValueError` or `TypeError`.

    Args:
        what: The setting, component or config in which the error is.
    """
    try:
        yield
    except (TypeError, ValueError) as error:
        kind = TypeError if isinstance(error, TypeError) else ValueError
        raise kind(f"{what}: {error}") from error


def check_bool(value, name):
    """Checks that a value is True or False, and returns it as a bool.

    Args:
        value: Bool of Python or NumPy.
        name: The setting, written as in a message: "`soft`".

    Raises:
        TypeError: If it is anything else.
    """
    if not isinstance(value, bool | np.bool_):
        raise TypeError(f"{name} must be True or False. Received: {shown(value)}")
    return bool(value)


def check_choice(value, name, choices):
    """Raises an error unless a value is one of some strings, or `None` if allowed.

    Args:
        value: Value of any type.
        name: The setting, written as in a message: "`group_reduction`".
        choices: The allowed values: strings, and perhaps `None`.

    Raises:
        ValueError: If it is none of them; the message suggests the nearest one.
    """
    if value is None or isinstance(value, str):
        if value in choices:
            return
    words = [repr(c) if c is None else f"{c}" for c in choices]
    raise ValueError(
        f"{name} must be one of {', '.join(words)}."
        f"{did_you_mean(value, words) if isinstance(value, str) else ''} "
        f"Received: {shown(value)}"
    )


def check_in_range(
    value, name, low=None, high=None, *, integer=False, open_low=False, open_high=False
):
    """Checks that a number is in a range, and returns it as a float or an integer.

    Args:
        value: Number of any type except bool. An integer may be given as 3.0.
        name: The setting, written as in a message: "`decay`", "Option 'seed'".
        low: Lowest value, or `None`.
        high: Highest value, or `None` for the most that float32, or int64, holds.
        integer: Whether the number must be whole.
        open_low: Whether `low` itself is excluded.
        open_high: Whether `high` itself is excluded.

    Raises:
        TypeError: If the value is not a number, or is not whole but must be.
        ValueError: If it is outside the range.
    """
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        raise _wrong_type(value, name, integer)
    number = _whole(value) if integer else _as_float(value)
    if number is None:
        raise _wrong_type(value, name, integer)
    limit = INT64_MAX if integer else FLOAT32_MAX
    least, most = -limit if low is None else low, limit if high is None else high
    above = number > least if open_low else number >= least
    below = number < most if open_high else number <= most
    if above and below:
        return number
    hint = ""
    if high == 1 and 1 < number <= 100:
        hint = " (a fraction, not a percentage)"
    elif high is None and number > limit and value != math.inf:
        hint = f" ({'int64' if integer else 'float32'} holds at most {limit:g})"
    allowed = _interval(low, high, integer, open_low, open_high)
    raise ValueError(
        f"{name} must be {allowed}{hint}. Received: {_number_as_text(value)}"
    )


def check_option(options, name, low, high, *, integer=False):
    """Raises unless a pruner's option is a number in [low, high].

    Args:
        options: Dict of options.
        name: The option's name.
        low: Lowest value.
        high: Highest value.
        integer: Whether it must be an integer.
    """
    value, name = options[name], f"Option '{name}'"
    # Options are saved unchanged, so only Python's own numbers are accepted.
    if not isinstance(value, int if integer else int | float):
        raise _wrong_type(value, name, integer)
    check_in_range(value, name, low, high, integer=integer)


def plain_dict(value, name):
    """Returns a dict of options as a file holds it: of plain values only.

    Args:
        value: Dict from strings to `None`, bools, numbers, strings, lists and dicts.
            NumPy's scalars become Python's, and tuples become lists.
        name: The setting, written as in a message: "`pruner_options`".

    Raises:
        TypeError: If it is no such dict.
    """
    if not isinstance(value, dict) or not all(isinstance(key, str) for key in value):
        raise TypeError(
            f"{name} is a dict from names to values. Received: {shown(value)}"
        )
    try:
        return json.loads(json.dumps(value, default=_plain_number))
    except (TypeError, ValueError, RecursionError) as error:
        raise TypeError(
            f"{name} holds a value that cannot be saved; use numbers, strings, bools, "
            f"lists and dicts: {error}. Received: {shown(value)}"
        ) from error


def _plain_number(value):
    if isinstance(value, np.generic):
        return value.item()
    raise TypeError(f"{shown(value)} is of type {type(value).__name__}")


def check_sparsities(config, assign):
    """Checks the sparsities of a `PruningConfig` and makes them floats.

    Args:
        config: The config.
        assign: Function that sets a field, by its name.
    """
    for key, highest_is_open in (
        ("target_sparsity", True),
        ("initial_sparsity", True),
        ("min_sparsity", False),
        ("max_sparsity", False),
    ):
        value = getattr(config, key)
        if key == "max_sparsity" and value is None:
            continue
        value = check_in_range(value, f"`{key}`", 0, 1, open_high=highest_is_open)
        assign(key, value)
    if config.initial_sparsity > config.target_sparsity:
        raise ValueError(
            "`initial_sparsity` must not exceed `target_sparsity`. Received: "
            f"{config.initial_sparsity} > {config.target_sparsity}"
        )
    most = 1.0 if config.max_sparsity is None else config.max_sparsity
    if config.min_sparsity > most:
        raise ValueError(
            "`min_sparsity` must not exceed `max_sparsity`. Received: "
            f"{config.min_sparsity} > {most}"
        )
    highest = config.pattern.max_sparsity
    for key in ("target_sparsity", "min_sparsity"):
        if getattr(config, key) > highest:
            raise ValueError(
                f"Pattern '{config.pattern}' prunes at most {highest:g} of a kernel, "
                f"so `{key}` cannot be met. Lower it to {highest:g}, or use "
                f"another pattern. Received: {getattr(config, key)}"
            )
    is_absolute = config.allocation is not None and config.allocation.is_absolute
    # Caps on the shares of groups that share weights say little of their sparsity.
    is_free = is_absolute or config.pattern.overlaps
    if not is_free and not (config.min_sparsity <= config.target_sparsity <= most):
        raise ValueError(
            "The caps cannot meet the target: kernels that each have a sparsity in "
            f"[{config.min_sparsity}, {most}] cannot have "
            f"{config.target_sparsity} together. Change `min_sparsity`, "
            "`max_sparsity` or `target_sparsity`."
        )


def check_steps(config, assign):
    """Checks the steps of a `PruningConfig` and makes them integers."""
    for key, lowest in (("begin_step", 0), ("end_step", 0), ("frequency", 1)):
        value = getattr(config, key)
        if value is not None:
            assign(key, check_in_range(value, f"`{key}`", lowest, integer=True))
    if None not in (config.begin_step, config.end_step):
        if config.end_step < config.begin_step:
            raise ValueError(
                "`end_step` must not come before `begin_step`. Received: "
                f"begin_step={config.begin_step}, end_step={config.end_step}"
            )


def check_mask_bits(config, assign):
    """Checks `mask_bits` of a `PruningConfig` and makes it an integer."""
    bits = check_in_range(config.mask_bits, "`mask_bits`", integer=True)
    if bits not in (1, 8):
        raise ValueError(
            "`mask_bits` must be 8 (a byte a weight) or 1 (packed, an eighth of it). "
            f"Received: {bits}"
        )
    assign("mask_bits", bits)


def _as_float(value):
    try:
        return float(value)
    except OverflowError:
        # An integer such as 10**400.
        return math.inf if value > 0 else -math.inf


def _whole(value):
    """Returns a number as an integer, or `None` if it is not whole."""
    try:
        whole = int(value)
    except (OverflowError, ValueError):
        return None
    return whole if whole == value else None


def _wrong_type(value, name, integer):
    kind = "an integer" if integer else "a number"
    return TypeError(f"{name} must be {kind}. Received: {shown(value)}")


def _interval(low, high, integer, open_low, open_high):
    if high is not None:
        left, right = "(" if open_low else "[", ")" if open_high else "]"
        return f"in {left}{low:g}, {high:g}{right}"
    if low is None:
        return "an integer" if integer else "finite"
    bound = f"> {low:g}" if open_low else f">= {low:g}"
    bound = "positive" if bound == "> 0" else bound
    return bound if integer else f"finite and {bound}"


def _number_as_text(value):
    """Returns a number as text of a bounded length."""
    try:
        text = str(value)
    except ValueError:
        return "an integer of more digits than Python prints"
    return text if len(text) <= 40 else f"{text[:20]}... ({len(text)} characters)"


def one_line(text):
    """Returns a text, e.g. an error's, as one line without the codes of bold words."""
    return " ".join(re.sub("\x1b\\[[0-9;]*m", "", str(text)).split())
