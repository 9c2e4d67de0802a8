"""For people: pictures, and one self-contained page by which a person can judge a mixture.

Needs the extra ``report``.
"""

from dgmm.report.looks import with_unit
from dgmm.report.page import write_report
from dgmm.report.steps import steps_figure

__all__ = [
    "steps_figure",
    "with_unit",
    "write_report",
]
