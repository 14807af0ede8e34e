"""The sample grid: the same prompts and seeds, drawn repeatedly while the weights change."""

import io
import json
import logging
from pathlib import Path

import torch
from accelerate.utils import broadcast_object_list
from torch import nn

from alignment.backbones.interface import Backbone
from alignment.contracts.jobs import SAMPLES_INDEX_FILE, SampleLine
from alignment.files.durable import write_bytes
from alignment.files.paths import resolve_below
from alignment.training.metrics import append_line, cut_back, read_lines

logger = logging.getLogger(__name__)

GRID_STEPS = 20
GRID_GUIDANCE = 5.0


class SampleGrid:
    """Draws and logs the grid of a run; each (step, image) at most once over all attempts."""

    def __init__(
        self,
        out: Path,
        prompts: tuple[str, ...],
        *,
        backbone: Backbone,
        denoiser: nn.Module,
        device: torch.device,
        is_main: bool = True,
    ) -> None:
        """Processes other than the main one draw only to take part in passes of sharded weights; they log nothing."""
        self.out = out
        self.prompts = prompts
        self._backbone = backbone
        self._denoiser = denoiser
        self._device = device
        self._is_main = is_main

    def cut_back(self, step: int) -> None:
        """Remove images beyond a step, because a resumed run will draw those again.

        ValueError when the index names a file outside the output folder.
        """
        index = self.out / SAMPLES_INDEX_FILE
        for line in read_lines(index):
            if line["step"] > step:
                resolve_below(self.out, line["path"], index).unlink(missing_ok=True)
        cut_back(index, step)

    def keys(self) -> tuple[str, ...]:
        """`STEP/KEY` of every logged image."""
        return tuple(f"{line['step']}/{line['key']}" for line in read_lines(self.out / SAMPLES_INDEX_FILE))

    def draw(self, step: int, *, jointly: bool = False) -> None:
        """Draw the images of a step that are not logged yet. The global generator's state is restored afterwards.

        `jointly`: all processes call this together, and draw what the main process has not logged.
        """
        logged = self.keys()
        wanted = [number for number in range(len(self.prompts)) if f"{step}/{_key(number)}" not in logged]
        if jointly:
            [wanted] = broadcast_object_list([wanted])
        if not wanted:
            return
        logger.info("drawing %d sample images at step %d", len(wanted), step)
        # The sampler is built again for each grid: between grids the VAE should not use memory that training needs.
        with torch.random.fork_rng(), torch.no_grad():
            sampler = self._backbone.sampler(self._denoiser, self._device, self.prompts)
            for number in wanted:
                image = sampler.draw(self.prompts[number], number, GRID_STEPS, guidance_scale=GRID_GUIDANCE)
                buffer = io.BytesIO()
                image.save(buffer, format="PNG")
                if self._is_main:
                    self._log(step, number, buffer.getvalue())

    def _log(self, step: int, number: int, png: bytes) -> None:
        line = SampleLine(
            step=step,
            key=_key(number),
            path=f"samples/step_{step:06d}/{number:02d}.png",
            prompt=self.prompts[number],
        )
        path = self.out / line.path
        path.parent.mkdir(parents=True, exist_ok=True)
        write_bytes(path, png)
        append_line(self.out / SAMPLES_INDEX_FILE, json.dumps(line.model_dump()))


def _key(number: int) -> str:
    return f"samples/{number:02d}"
