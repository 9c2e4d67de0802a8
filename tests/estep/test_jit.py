"""What is compiled is said, once, and kept."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

#: A small function of this package, and one of somebody else.
PROGRAM = """
import logging, sys, numba, numpy as np
logging.basicConfig(level="INFO", stream=sys.stdout, format="%(message)s")
from dgmm.estep import complete_rows
print("theirs", numba.njit(lambda x: x + 1)(1))
for dtype in "f4", "f8":
    complete_rows(np.ones((3, 2), dtype))
"""


def test_compiling_is_said_once_and_only_where_it_happens(tmp_path: Path) -> None:
    environment = {**os.environ, "NUMBA_CACHE_DIR": str(tmp_path)}
    said = [
        subprocess.run(
            [sys.executable, "-c", PROGRAM], env=environment, capture_output=True, text=True, check=True
        ).stdout
        for _ in range(2)
    ]
    assert said == ["theirs 2\ncompiling for this machine, the first time here: some seconds\n", "theirs 2\n"]
