"""Tables, figures and a self-contained HTML page, all made from records."""

from jaxpt.report.html import Inline, write_report
from jaxpt.report.tables import markdown, terminal

__all__ = ["Inline", "markdown", "terminal", "write_report"]
