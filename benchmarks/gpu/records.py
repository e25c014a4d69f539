"""What was found, a line of JSON for each finding as soon as it is made, so that a run cut off loses little."""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

Row = Mapping[str, Any]


class Log:
    """Appends rows to a file and keeps them; `stage` names the stage of the rows that follow."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self.path, self.rows, self.stage = path, list[Row](), ""
        self._start = time.monotonic()
        path.write_text("", "utf-8")

    def add(self, **found: Any) -> None:
        """One row, on disk and on the terminal before anything else happens."""
        row = {"stage": self.stage, **found, "at_s": round(time.monotonic() - self._start, 1)}
        self.rows.append(row)
        text = json.dumps(row)
        with self.path.open("a", encoding="utf-8") as file:
            file.write(text + "\n")
            file.flush()
            os.fsync(file.fileno())
        print(text, flush=True)

    def of(self, stage: str) -> list[Row]:
        """The rows of a stage."""
        return [row for row in self.rows if row["stage"] == stage]


def file_name(device: str) -> str:
    """A device's name as that of a file.

    >>> file_name("NVIDIA H100 80GB HBM3")
    'nvidia-h100-80gb-hbm3'
    """
    return re.sub(r"[^a-z0-9]+", "-", device.lower()).strip("-")
