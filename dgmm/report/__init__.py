"""For people: pictures, and one self-contained page by which a person can judge a mixture.

Needs the extra ``report``.
"""

from dgmm.report.page import write_report

__all__ = [
    "write_report",
]
