"""A report in a notebook's cell."""

import html
import re

import fake_records
import pytest

from jaxpt import report
from jaxpt.errors import InputError


def test_the_cell_holds_the_whole_page(tmp_path):
    page = report.write_report(fake_records.separated(), tmp_path)
    shown = report.Inline(page, height=300)
    frame = shown._repr_html_()
    assert repr(shown) == f"report: {page}"
    page.unlink()  # what is shown does not need the file
    source = re.fullmatch(r'<iframe srcdoc="([^"]*)"[^>]*height: 300px[^>]*></iframe>', frame)
    assert "LOOK and its peers on digits" in html.unescape(source[1])
    assert html.unescape(source[1]).endswith("</body></html>\n")


def test_no_file(tmp_path):
    with pytest.raises(InputError, match="there is no report '.*none.html': make it"):
        report.Inline(tmp_path / "none.html")
