"""Reports about trained flows: tables on the terminal, figures, one HTML page.

Start with `Report`. `page.py` makes one HTML page of it. The packages behind both are in the extra `report`.
"""

from equiflow.report.numbers import write_json
from equiflow.report.report import Report, comparison_rows
from equiflow.report.terminal import print_line, print_table

__all__ = ["Report", "comparison_rows", "print_line", "print_table", "write_json"]
