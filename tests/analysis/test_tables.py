"""Tables print what all their estimates have in common once."""

from __future__ import annotations

from equiflow.analysis.tables import table, without_shared_notes
from equiflow.statistics import Estimate, noted


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
