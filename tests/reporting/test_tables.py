"""How a report looks as text and as HTML."""

import html.parser
import re

import pytest

from keras_pruner.reporting import Report, ReportRow

FROZEN = "frozen: the layer has trainable=False"


def row(path, zeros=5, skipped=None, parameters=10, pattern="1x1"):
    pattern = "-" if skipped else pattern
    return ReportRow(path, (parameters,), pattern, parameters, zeros, skipped)


def report_of(*rows):
    size = sum(row.parameters for row in rows)
    return Report(rows, parameters=size, raw_bytes=4 * size, zipped_bytes=size)


def table_of(text):
    """The lines of a table as lists of cells, from its head to the totals."""
    lines = [line for line in text.split("\n") if line.startswith("  ")]
    return [re.split(r"\s{2,}", line.strip()) for line in lines]


def names_of(report, **options):
    """The first cell of each line, without head and total."""
    return [cells[0] for cells in table_of(report.to_text(width=200, **options))][1:-1]


def test_table_has_a_line_a_kernel_and_a_note_a_reason():
    found = report_of(
        row("a/kernel"),
        row("b/kernel", 0, FROZEN),
        row("c/kernel", None, "packed"),
        row("d/kernel", 10, FROZEN),
    )
    text = found.to_text(width=80)
    assert table_of(text) == [
        ["kernel", "shape", "pattern", "sparsity", "parameters", "zeros", "note"],
        ["a/kernel", "10", "1x1", "50.00%", "10", "5"],
        ["b/kernel", "10", "-", "0.00%", "10", "0", "[1]"],
        ["c/kernel", "10", "-", "-", "10", "-", "[2]"],
        ["d/kernel", "10", "-", "100.00%", "10", "10", "[1]"],
        ["total", "50.00%", "40", "15"],
    ]
    assert text.endswith(f"\n[1] {FROZEN}\n[2] packed")
    assert "Nothing is left of: d/kernel." in text


def test_rows_of_one_reason_share_a_line_in_the_place_of_the_first():
    frozen = [row(f"base/{name}/kernel", i, FROZEN) for i, name in enumerate("abcd")]
    found = report_of(row("stem/kernel"), *frozen[:2], row("head/kernel"), *frozen[2:])
    text = found.to_text(width=100)
    assert table_of(text)[1:] == [
        ["stem/kernel", "10", "1x1", "50.00%", "10", "5"],
        ["4 kernels", "10", "-", "15.00%", "0% to 30%", "40", "6", "[1]"],
        ["head/kernel", "10", "1x1", "50.00%", "10", "5"],
        ["total", "26.67%", "60", "16"],
    ]
    assert "6 kernels in 3 lines; `to_text(expand=True)` lists each." in text
    assert names_of(found, expand=True) == [row.path for row in found.kernels]
    assert len(found.rows()) == len(found.kernels) == 6
    # Three are few enough to be listed.
    few = report_of(*frozen[:3], row("head/kernel"))
    assert len(names_of(few)) == 4 and "lists each" not in str(few)


def test_reasons_that_differ_in_numbers_are_one():
    reasons = [f"needs 4 inputs, but it has {i % 3 + 1}" for i in range(5)]
    found = report_of(*(row(f"{r[-1]}/{i}", 0, r) for i, r in enumerate(reasons)))
    assert names_of(found) == ["5 kernels"]
    assert "[1] needs 4 inputs, but it has N" in str(found)
    # Literally equal reasons keep their numbers.
    found = report_of(*(row(str(i), 0, reasons[0]) for i in range(4)))
    assert "[1] needs 4 inputs, but it has 1" in str(found)


def blocks(number):
    parts = ("query", "key", "dense_1", "dense_2")
    return [row(f"block_{i}/{part}/kernel", i) for i in range(number) for part in parts]


def test_equal_blocks_share_lines_once_they_are_many():
    assert len(names_of(report_of(*blocks(10)))) == 40
    found = report_of(row("stem_1/kernel"), *blocks(11), row("tail/kernel"))
    # The last number of a path is not enough for `query` and `key` to differ.
    assert names_of(found) == [
        "stem_1/kernel",
        "block_*/query/kernel (11)",
        "block_*/key/kernel (11)",
        *(f"block_{i}/dense_*/kernel (2)" for i in range(11)),
        "tail/kernel",
    ]
    assert len(names_of(report_of(*blocks(50)))) == 3
    cells = table_of(found.to_text(width=200))[2]
    assert cells[-4:] == ["50.00%", "0% to 100%", "110", "55"]
    assert len(names_of(found, expand=True)) == 46


def test_kernels_of_two_patterns_share_no_line():
    rows = [row(f"a_{i}/kernel", pattern="1x1") for i in range(30)]
    rows += [row(f"a_{i}/kernel", pattern="2:4") for i in range(30, 60)]
    assert names_of(report_of(*rows)) == ["a_*/kernel (30)"] * 2


def test_narrow_terminals_leave_out_columns_and_break_no_number():
    big = report_of(
        row("backbone/encoder/attention_output/kernel", 123_456_789, None, 987_654_321),
        row("head/kernel", 0, FROZEN),
    )
    heads = {}
    for width in (40, 50, 60, 70, 80, 90, 120):
        text = big.to_text(width=width)
        assert max(map(len, text.split("\n"))) <= width
        table = table_of(text)
        heads[width] = table[0]
        assert "12.50%" in text and "0.00%" in text
        if "parameters" in table[0]:
            assert "987,654,321" in text
    assert heads[40] == ["kernel", "sparsity", "note"]
    assert heads[120][-3:] == ["parameters", "zeros", "note"]
    lengths = [len(head) for head in heads.values()]
    assert lengths == sorted(lengths) and len(set(lengths)) > 3
    # Paths break after slashes.
    assert table_of(big.to_text(width=40))[1][0] == "backbone/encoder/"


def test_width_is_that_of_the_terminal(monkeypatch):
    reason = "a reason that is longer than any terminal " * 5
    found = report_of(row("a/kernel", 5, reason))
    monkeypatch.setenv("COLUMNS", "60")
    assert 50 < max(map(len, str(found).split("\n"))) <= 60
    monkeypatch.setenv("COLUMNS", "130")
    assert 110 < max(map(len, repr(found).split("\n"))) <= 130
    # The tests' output is no terminal.
    monkeypatch.setenv("COLUMNS", "0")
    monkeypatch.setattr("sys.__stdout__", None)
    assert 80 < max(map(len, str(found).split("\n"))) <= 100


def test_shares_are_not_rounded_to_all_or_nothing():
    found = report_of(row("a", 99_999, None, 100_000), row("b", 1, None, 100_000))
    lines = table_of(found.to_text(width=80))
    assert [cells[3] for cells in lines[1:3]] == [">99.99%", "<0.01%"]


def test_names_are_no_markup():
    found = report_of(row("[red]a[/red]/<b>:smile:</b>", 5, "<i>[bold]"))
    text = found.to_text(width=100)
    assert "[red]a[/red]/<b>:smile:</b>" in text and "[1] <i>[bold]" in text
    page = found.to_html()
    assert "<b>" not in page and "<i>" not in page
    assert "[red]a[/red]/&lt;b&gt;:smile:&lt;/b&gt;" in page


def test_a_page_says_the_sentences_and_never_that_zeros_are_fast():
    found = report_of(row("a/kernel"))
    for text in (" ".join(str(found).split()), found.to_html()):
        assert "inference is not faster by zeros alone" in text
        assert "Sparsity 50.00% of the pruned kernels" in text


class Page(html.parser.HTMLParser):
    """Collects the open tags, each with its style, and the texts within."""

    def __init__(self, text):
        super().__init__()
        self.stack, self.cells, self.texts = [], [], []
        self.feed(text)
        assert self.stack == []

    def handle_starttag(self, tag, attributes):
        if tag != "br":
            self.stack.append((tag, dict(attributes).get("style", "")))

    def handle_endtag(self, tag):
        assert self.stack.pop()[0] == tag

    def handle_data(self, data):
        self.texts.append(data)
        tag, style = self.stack[-1]
        if tag in ("td", "th"):
            self.cells.append((data, style))


def test_page_is_a_table_with_bars_and_works_on_dark_pages():
    frozen = [row(f"base/{i}/kernel", i, FROZEN) for i in range(4)]
    page = Page(report_of(row("head/kernel", 2), *frozen).to_html())
    cells = dict(page.cells)
    assert "text-align: left" in cells["head/kernel"]
    assert "text-align: right" in cells["20.00%"]
    assert (
        "linear-gradient(to right, rgba(66, 133, 244, 0.35) 20.00%" in cells["20.00%"]
    )
    assert "gradient" not in cells["1x1"] and "gradient" not in cells["0.00%"]
    # Text has the page's color, so it is readable on any page.
    assert not re.search(r"(?<!-)color: (?!inherit)", report_of(*frozen).to_html())
    assert {"4 kernels", "these 4 kernels", "base/3/kernel", FROZEN} <= set(page.texts)
    assert page.texts.count(FROZEN) == 1
    flat = report_of(row("head/kernel"), *frozen).to_html(expand=True)
    assert "<details>" not in flat and flat.count(FROZEN) == 4


@pytest.mark.parametrize("expand", [False, True])
def test_notebooks_show_the_page(expand):
    found = report_of(*(row(f"{i}", 0, FROZEN) for i in range(5)))
    assert found._repr_html_() == found.to_html()
    assert ("<details>" in found.to_html(expand=expand)) is not expand
