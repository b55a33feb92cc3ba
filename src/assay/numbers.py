"""How terminal and page write numbers."""

from __future__ import annotations


def figure(value: float) -> str:
    """Three significant digits, written out where that is short.

    >>> figure(0.12345), figure(1234.5), figure(12.0), figure(3.2e-7)
    ('0.123', '1,234', '12', '3.2e-07')
    """
    if 1000 <= abs(value) < 1e7:
        return f"{value:,.0f}"
    return f"{value:.3g}"


def spread(median: float, least: float, greatest: float) -> str:
    """A median with its range; the range is left out where all trials measured the same.

    >>> spread(1.5, 1.0, 2.0), spread(3.0, 3.0, 3.0)
    ('1.5 (1 to 2)', '3')
    """
    if least == greatest:
        return figure(median)
    return f"{figure(median)} ({figure(least)} to {figure(greatest)})"


def seconds(value: float) -> str:
    """A duration in words."""
    return f"{figure(value)} s" if value < 90 else f"{figure(value / 60)} min"
