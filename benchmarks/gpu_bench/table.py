"""The bars: each a figure of the measured rows, its goal, and a verdict; what is absent is `not measured`."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

Row = Mapping[str, Any]
Rows = Mapping[str, Row]


@dataclass(frozen=True)
class Bar:
    """A goal. `figure` returns None where a row is absent or failed."""

    title: str
    figure: Callable[[Rows], float | None]
    sign: str
    goal: float

    def line(self, rows: Rows) -> str:
        """Return the bar as a row of a Markdown table."""
        value = self.figure(rows)
        if value is None:
            return f"| {self.title} | not measured | {self.sign} {self.goal:g} | |"
        met = value >= self.goal if self.sign == ">=" else value <= self.goal
        return f"| {self.title} | {value:.3g} | {self.sign} {self.goal:g} | {'met' if met else 'missed'} |"


def of(name: str, key: str) -> Callable[[Rows], float | None]:
    """Return one figure of a row."""
    return lambda rows: _value(rows, name, key)


def ratio(name: str, other: str, key: str) -> Callable[[Rows], float | None]:
    """Return a figure of one row over that of another."""

    def figure(rows: Rows) -> float | None:
        own, theirs = _value(rows, name, key), _value(rows, other, key)
        return None if own is None or not theirs else own / theirs

    return figure


def share_of_rate(name: str) -> Callable[[Rows], float | None]:
    """Return the operations of a run over the card's measured rate of products."""

    def figure(rows: Rows) -> float | None:
        rate, pace, work = (
            _value(rows, *key) for key in (("matrix rate", "tflops"), (name, "pairs_s"), (name, "tflop_pair"))
        )
        return None if rate is None or pace is None or work is None else pace * work / rate

    return figure


def _value(rows: Rows, name: str, key: str) -> float | None:
    value = rows.get(name, {}).get(key)
    return None if value is None or rows[name].get("error") else float(value)


BARS = (
    Bar("SD1.5 LoRA r8 512 px, times the peer's defaults", ratio("sd15 lora", "peer sd15", "pairs_s"), ">=", 1.5),
    Bar("SD1.5 LoRA, times the tuned peer", ratio("sd15 lora", "peer sd15 tuned", "pairs_s"), ">=", 1.25),
    Bar("SD1.5 LoRA, memory of the peer's", ratio("sd15 lora", "peer sd15", "peak_gib"), "<=", 0.7),
    Bar("SDXL LoRA 1024 px, times the peer's defaults", ratio("sdxl lora", "peer sdxl", "pairs_s"), ">=", 1.4),
    Bar("SDXL LoRA, times the tuned peer", ratio("sdxl lora", "peer sdxl tuned", "pairs_s"), ">=", 1.2),
    Bar("SDXL LoRA, memory of the peer's", ratio("sdxl lora", "peer sdxl", "peak_gib"), "<=", 0.6),
    Bar("SDXL full DPO, GiB at micro-batch 4", of("sdxl full 4", "peak_gib"), "<=", 80),
    Bar("SDXL full DPO, GiB at micro-batch 1, all blocks", of("sdxl full 1 all blocks", "peak_gib"), "<=", 40),
    Bar("SD3.5-medium LoRA 1024 px, GiB", of("sd35 lora", "peak_gib"), "<=", 24),
    Bar("FLUX.1-dev LoRA 1024 px in bf16, GiB", of("flux lora bf16", "peak_gib"), "<=", 32),
    Bar("FLUX.1-dev LoRA 1024 px in NF4, GiB", of("flux lora nf4", "peak_gib"), "<=", 16),
    Bar("SDXL, compiled blocks, times eager", ratio("sdxl compiled", "sdxl lora 1", "pairs_s"), ">=", 1.3),
    Bar(
        "SDXL LoRA, channels last, times the usual order",
        ratio("sdxl lora channels last", "sdxl lora", "pairs_s"),
        ">=",
        1,
    ),
    Bar("SDXL, every second block repeated, time", ratio("sdxl lora every 2", "sdxl lora", "step_ms"), "<=", 1.15),
    Bar("SDXL, all blocks repeated, time", ratio("sdxl lora all blocks", "sdxl lora", "step_ms"), "<=", 1.35),
    Bar("idle share of the GPU, SDXL LoRA", of("sdxl lora", "idle_share"), "<=", 0.03),
    Bar("encode, share of the bare VAE's rate", of("encode", "ratio"), ">=", 0.9),
    Bar("drawing SDXL, share of the bare pipeline's rate", of("drawing", "ratio"), ">=", 0.95),
    Bar("MFU of SDXL LoRA against the measured rate", share_of_rate("sdxl lora"), ">=", 0.45),
)


def table(rows: Rows) -> str:
    """Return the bars as a Markdown table, and below them the errors of rows."""
    lines = ["| bar | measured | goal | |", "|---|---|---|---|", *(bar.line(rows) for bar in BARS)]
    failed = [f"{name}: {row['error']}" for name, row in rows.items() if row.get("error")]
    return "\n".join([*lines, "", *failed])
