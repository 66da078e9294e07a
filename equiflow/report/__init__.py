"""Reports about trained flows: tables on the terminal, figures, one HTML page.

Start with `Report`. `page.py` makes one HTML page of it. The packages behind both are in the extra `report`.
"""

from equiflow.report.numbers import write_json
from equiflow.report.report import Report
from equiflow.report.terminal import print_line, print_table
from equiflow.report.words import comparison_rows

__all__ = ["Report", "comparison_rows", "print_line", "print_table", "write_json"]
