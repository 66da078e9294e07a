"""Tables print what all their estimates have in common once."""

from __future__ import annotations

from equiflow.statistics import Estimate, noted
from equiflow.statistics.tables import ShownAsTable, html_table, table, without_shared_notes


def test_shared_notes_are_printed_once_and_others_stay_in_their_rows():
    rows = {
        "a": Estimate(1.0, 0.1, note="only 3 tau_int long; unadjusted"),
        "b": Estimate(2.0, 0.1, note="unadjusted"),
        "nfe": 12,
    }
    text = table(rows)
    assert text.splitlines() == [
        "a    1.00 ± 0.10 (only 3 tau_int long)",
        "b    2.00 ± 0.10",
        "nfe  12",
        "note: unadjusted",
    ]
    assert rows["a"].note == "only 3 tau_int long; unadjusted"  # values are left as they are


def test_what_is_not_shared_by_all_is_not_taken_out():
    rows = {"a": Estimate(1.0, 0.1, note="unadjusted"), "b": Estimate(2.0, 0.1)}
    assert without_shared_notes(rows) == (rows, "")
    assert table(rows).splitlines()[0] == "a  1.00 ± 0.10 (unadjusted)"
    assert without_shared_notes({"a": rows["a"]}) == ({"a": rows["a"]}, "")
    assert without_shared_notes({})[1] == ""


def test_a_note_is_added_once():
    one = noted(Estimate(1.0, 0.1), "unadjusted", "", "unadjusted")
    assert one.note == "unadjusted"
    assert noted(one, "unadjusted") == one
    assert noted(one, "short").note == "unadjusted; short"


class Result(ShownAsTable):
    def __init__(self, rows: dict[str, object], below: str = "") -> None:
        self.rows, self.below = rows, below

    def _rows(self) -> dict[str, object]:
        return self.rows

    def _below(self) -> str:
        return self.below


def test_a_result_shows_the_same_table_printed_and_at_a_prompt():
    result = Result({"log Z": Estimate(1.0, 0.1), "nfe": 12}, "warning: few")
    assert str(result) == repr(result) == "log Z  1.00 ± 0.10\nnfe    12\nwarning: few"
    assert str(Result({"nfe": 12})) == "nfe  12"
    assert str(Result({}, "nothing")) == "nothing"


def test_a_notebook_shows_the_same_cells_without_markup_from_names():
    rows = {"<phi^2>": Estimate(1.0, 0.1, note="a & b"), "M": Estimate(2.0, 0.1, note="a & b")}
    html = Result(rows, "x < y\n")._repr_html_()
    assert html.startswith("<div><b>Result</b><table><tr><th>&lt;phi^2&gt;</th><td>1.00 ± 0.10</td></tr>")
    assert html.endswith("</table><pre>note: a &amp; b\nx &lt; y</pre></div>")
    assert "<pre>" not in html_table("t", {"n": 1})
