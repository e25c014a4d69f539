"""A report as a pydantic model: what Python gets and JSON is written from."""

from __future__ import annotations

from pydantic import BaseModel

from archc.reports.model import Findings


class Report(BaseModel, Findings, frozen=True, extra="forbid"):
    """Everything the compiler can say about a model without running it. The fields are those of `Findings`."""

    @classmethod
    def of(cls, found: Findings) -> Report:
        """The same answers; they are checked once more."""
        return cls(**vars(found))
