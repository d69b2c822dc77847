"""Tables, figures and a self-contained HTML page, all made from records."""

from jaxpt.report.html import write_report
from jaxpt.report.inline import Inline
from jaxpt.report.tables import markdown, terminal

__all__ = ["Inline", "markdown", "terminal", "write_report"]
