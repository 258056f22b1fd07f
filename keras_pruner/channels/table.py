"""Shows a graph of channels as text."""

import textwrap

_WIDTH = 100


def table_of(graph):
    """Returns a text table: a line for each group, then the pinned axes by reason."""
    num_groups, num_pins = len(graph.groups), len(graph.pins)
    lines = [
        f"Model '{graph.name}': {num_groups} groups, {num_pins} pinned axes",
        "",
    ]
    rows = [
        (group.name, group.kind, str(group.size), ", ".join(map(_axis, group.members)))
        for group in graph.groups
    ]
    lines += _columns(("group", "kind", "size", "removed from"), rows) if rows else []
    by_reason = {}
    for pin in graph.pins:
        by_reason.setdefault(pin.reason, []).append(f"{pin.path}[{pin.axis}]")
    rows = [(reason, ", ".join(axes)) for reason, axes in by_reason.items()]
    if rows:
        lines += [
            *([""] if graph.groups else []),
            *_columns(("pinned by", "axes"), rows),
        ]
    return "\n".join(lines)


def _axis(member):
    """Returns a member as text, with the indices that go with one channel."""
    counts = {len(indices) for indices in member.indices}
    times = "" if counts == {1} else f" x {'-'.join(map(str, sorted(counts)))}"
    return f"{member.path}[{member.axis}]{times}"


def _columns(head, rows):
    """Returns lines of columns, the last one folded."""
    widths = [
        min(40, max(len(row[i]) for row in [head, *rows])) for i in range(len(head) - 1)
    ]
    last = max(30, _WIDTH - sum(widths) - 2 * len(widths))
    lines = []
    for row in [head, *rows]:
        cells = [
            textwrap.wrap(text, width, break_long_words=False) or [""]
            for text, width in zip(row, [*widths, last], strict=True)
        ]
        for number in range(max(map(len, cells))):
            texts = [cell[number] if number < len(cell) else "" for cell in cells]
            padded = [
                text.ljust(width)
                for text, width in zip(texts, [*widths, 0], strict=True)
            ]
            lines.append("  ".join(padded).rstrip())
    return lines
