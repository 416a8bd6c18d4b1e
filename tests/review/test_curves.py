"""Curves as SVG."""

import re

from persam_dreambooth.review import curves


def test_chart_draws_each_curve_to_scale_and_escapes_names():
    drawn = curves.chart("<t>", {"<b>": [(0.0, 1.0), (10.0, 3.0)], "flat": [(5.0, 2.0)], "none": []})
    first, second, third = re.findall(r"polyline points='([^']*)'", drawn)
    left, right, top, bottom = curves.LEFT, curves.WIDTH - curves.RIGHT, curves.TOP, curves.HEIGHT - curves.BOTTOM
    assert first == f"{left:.1f},{bottom:.1f} {right:.1f},{top:.1f}"
    assert second == f"{(left + right) / 2:.1f},{(top + bottom) / 2:.1f}" and third == ""
    assert "&lt;b&gt;" in drawn and "<b>" not in drawn and "<t>" not in drawn
    assert [tick for tick in ("1", "1.5", "2", "2.5", "3") if f">{tick}</text>" not in drawn] == []
    assert "Nothing to draw" in curves.chart("t", {"a": []})
    assert "polyline" in curves.chart("t", {"a": [(1.0, 0.5)]})
