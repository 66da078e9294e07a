"""Reports for people: tables on the terminal, figures, one HTML page. Needs the extra `report`."""

from equiflow.report.report import Report, comparison_rows, write_json
from equiflow.report.terminal import print_line, print_table

__all__ = ["Report", "comparison_rows", "print_line", "print_table", "write_json"]
