"""What a run says while it goes on: metrics.csv, TensorBoard (if installed), events, a bar."""

from __future__ import annotations

import csv
import math
import sys
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import torch
from torch import Tensor
from tqdm import tqdm

from geoseg.data.split import VALIDATE
from geoseg.errors import GeosegError
from geoseg.events import Progress
from geoseg.spec import model_id
from geoseg.train.devices import described
from geoseg.train.learner import Job
from geoseg.train.task import Judged

EVERY = 10  # steps between looks at the loss, for which a GPU has to be waited for


class Log:
    """One row per step in log/metrics.csv: step, rate, loss and its terms; where it validated, also
    the scores.

    A run that goes on after `step` drops the rows that were written after its checkpoint.
    Not `active`: says nothing, as in all processes but one.
    """

    def __init__(self, job: Job, step: int, *, active: bool = True) -> None:
        self.step, self._active = step, active
        self._rows: list[dict[str, Any]] = []
        if not active:
            return
        folder = job.folder / "log"
        folder.mkdir(exist_ok=True)
        self._path = folder / "metrics.csv"
        self._columns = _columns(job)
        _keep(self._path, step, self._columns)
        self._board = _board(folder, step)
        config, total = job.config, job.config.schedule.steps
        self._listener = job.listener
        self._progress = Progress(
            job.listener,
            {k: k for k in range(total)},
            first=step,
            recipe=config.name,
            model=model_id(config.name, config.version),
            device=described(config.schedule),
        )
        self._bar = tqdm(
            total=total, initial=step, unit="step", disable=not job.progress, file=sys.stderr
        )

    def loss(self, values: dict[str, Tensor], rate: float) -> None:
        """The loss of the next step and its terms, and the learning rate that it was made with."""
        if len(self._rows) >= EVERY:
            self.flush()
        self.step += 1
        self._rows.append({"step": self.step, "rate": rate, **values})
        if self._active:
            self._progress.advance(self.step)

    def scores(self, found: Judged) -> None:
        """Of the validation after the last step."""
        scores = found.as_dict()
        self._rows[-1] |= scores
        if self._active:
            metrics = {k: v if math.isfinite(v) else None for k, v in scores.items()}
            self._listener({"event": "score", "step": self.step, "metrics": metrics})

    def flush(self) -> None:
        """Write what has come together; a loss that is no number ends the run."""
        rows, self._rows = self._rows, []
        if not rows:
            return
        names = [name for name, value in rows[0].items() if isinstance(value, Tensor)]
        losses = torch.stack([row[name] for row in rows for name in names]).tolist()
        for i, row in enumerate(rows):
            row |= zip(names, losses[i * len(names) :], strict=False)
            if row["loss"] != row["loss"]:
                raise GeosegError(
                    f"the loss of step {row['step']} is no number: make schedule.lr smaller, or "
                    "take schedule.precision: float32"
                )
        if self._active:
            self._write(rows)

    def _write(self, rows: list[dict[str, Any]]) -> None:
        with self._path.open("a", newline="") as file:
            csv.DictWriter(file, self._columns, lineterminator="\n").writerows(rows)
        if self._board is not None:
            for row in rows:
                for name, value in row.items():
                    if name != "step":
                        self._board.add_scalar(name, value, row["step"])
        self._bar.update(len(rows))
        shown = {k: f"{v:.3f}" for k, v in rows[-1].items() if k in ("loss", "iou", "ap50")}
        self._bar.set_postfix(shown)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._active:
            self._bar.close()
            if self._board is not None:
                self._board.close()


def _columns(job: Job) -> list[str]:
    places = dict.fromkeys(s.place for s in job.sheets if (s.parts == VALIDATE).any())
    return ["step", "rate", *job.task.columns(places)]


def _keep(path: Path, rows: int, columns: list[str]) -> None:
    """Cut a log to its header and so many rows; a kill may have torn what follows."""
    lines = path.read_text().splitlines(keepends=True)[1 : rows + 1] if path.exists() else []
    part = path.with_suffix(".part")
    with part.open("w", newline="") as file:
        csv.DictWriter(file, columns, lineterminator="\n").writeheader()
        file.writelines(lines)
    part.replace(path)


def _board(folder: Path, step: int) -> Any:
    """A writer for TensorBoard; None where it is not installed."""
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        return None
    return SummaryWriter(folder, purge_step=step + 1)
