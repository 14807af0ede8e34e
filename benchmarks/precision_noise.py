"""Measure what rounding does to the margin of Diffusion-DPO while policy and reference are still almost equal.

The margin is 0.5 beta times a difference of differences of errors. Rounding in half precision moves each error by about
1e-4, and beta multiplies that. Each model has the width of a published one (SD1.5, SDXL, FLUX.1) with few blocks and
random weights; its last layer is scaled so that predictions have a root mean square of 1. A GPU's arithmetic is
emulated on the CPU: products of half-precision inputs, summed in float32, results and sums rounded as autocast does on
CUDA; norms in float32.

The policy is the reference with every weight (`full`), or with adapters (`lora`), moved by 1e-9 and by 1e-6 in random
directions. Printed for each precision, in logits at the beta of the model's recipes:

    noise   root mean square over pairs and moves of the margin minus that in float32
    1e-9, 1e-6   the margin of the first pair

and once for each model the signal: the margin after one step of 1e-6 along the sign of the loss's gradient, float32.

Run `python benchmarks/precision_noise.py [sd15 sdxl flux]`; about 20 minutes on one core, 8 GB. `--tiny` is a rehearsal
with narrow models.
"""

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

PAIRS = 3
MOVES = (1e-9, 1e-6)
TF32 = "tf32"
PRODUCTS = {F.linear, F.conv2d, torch.matmul, torch.bmm, Tensor.matmul, F.scaled_dot_product_attention}
IN_FLOAT32 = {F.group_norm, F.layer_norm, F.softmax, torch.softmax, Tensor.softmax, F.rms_norm}

# Modules that start or replace the residual stream, and the last layers, by the end of their names.
STREAM = ("conv_in", "conv_shortcut", "downsamplers.0.conv", "upsamplers.0.conv", "proj_in", "x_embedder")
STREAM_TEXT = ("context_embedder",)
LAST = ("conv_norm_out", "conv_out", "norm_out", "proj_out")


@dataclass(frozen=True)
class Precision:
    """Rounding of a forward pass. `half` is a dtype, or TF32, or None for float32."""

    name: str
    half: torch.dtype | str | None = None
    activations: bool = True
    """False rounds weights only; their products are exact."""
    float32_stream: bool = False
    float32_last: bool = False
    float32_results: bool = False
    """True keeps the results of products in float32: only their inputs are rounded."""


PRECISIONS = (
    Precision("float32"),
    Precision("tf32", TF32),
    Precision("bf16, weights only", torch.bfloat16, activations=False),
    Precision("bf16", torch.bfloat16),
    Precision("bf16, last layers float32", torch.bfloat16, float32_last=True),
    Precision("bf16, residual stream float32", torch.bfloat16, float32_stream=True),
    Precision("bf16, both", torch.bfloat16, float32_stream=True, float32_last=True),
    Precision("bf16, all results float32", torch.bfloat16, float32_results=True, float32_last=True),
    Precision("fp16", torch.float16),
    Precision("fp16, last layers float32", torch.float16, float32_last=True),
    Precision("fp16, both", torch.float16, float32_stream=True, float32_last=True),
)
LORA = ("float32", "bf16", "bf16, both", "fp16", "fp16, both")


# --- arithmetic of a GPU ----------------------------------------------------------------------------------------------


def round_tf32(values: Tensor) -> Tensor:
    """Round float32 to the ten explicit mantissa bits of TF32, half away from zero."""
    bits = values.contiguous().view(torch.int32)
    return ((bits + 0x1000) & ~0x1FFF).view(torch.float32)


class Emulation(TorchFunctionMode):
    """Run products, norms and softmax as autocast on CUDA does, with sums in float32."""

    def __init__(self, precision: Precision) -> None:
        super().__init__()
        self.precision = precision
        self.exact = 0
        """Depth of modules that run in float32."""

    def __torch_function__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Round the inputs and the result of one function."""
        kwargs = kwargs or {}
        if self.precision.half is None or func not in PRODUCTS | IN_FLOAT32:
            return func(*args, **kwargs)
        exact = func in IN_FLOAT32 or self.exact
        change = _float32 if exact else self._input
        result = func(*[change(value) for value in args], **{name: change(value) for name, value in kwargs.items()})
        keep = exact or self.precision.half == TF32 or self.precision.float32_results or not self.precision.activations
        return result if keep else result.to(self.precision.half)

    def _input(self, value: Any) -> Any:
        half, is_weight = self.precision.half, isinstance(value, nn.Parameter)
        if not isinstance(value, Tensor) or not value.is_floating_point():
            return value
        if not (self.precision.activations or is_weight):
            return value.float()
        if isinstance(half, torch.dtype):
            return value.to(half).float()
        return round_tf32(value.float())


def _float32(value: Any) -> Any:
    return value.float() if isinstance(value, Tensor) and value.is_floating_point() else value


@contextmanager
def emulated(model: nn.Module, precision: Precision) -> Iterator[None]:
    """Run `model` in a precision until the context ends."""
    mode, hooks = Emulation(precision), []
    for name, module in model.named_modules():
        # FLUX calls the last layer of its single blocks proj_out too.
        if precision.float32_last and name in LAST:
            hooks += [
                module.register_forward_pre_hook(_deeper(mode, 1)),
                module.register_forward_hook(_deeper(mode, -1)),
            ]
        if precision.float32_stream and name.endswith(STREAM + STREAM_TEXT):
            hooks.append(module.register_forward_hook(lambda module, inputs, result: result.float()))
    try:
        with mode:
            yield
    finally:
        for hook in hooks:
            hook.remove()


def _deeper(mode: Emulation, by: int) -> Callable[..., None]:
    def change(*unused: Any) -> None:
        mode.exact += by

    return change


# --- models -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Subject:
    """A model of random weights, and its inputs for a pair of images."""

    model: nn.Module
    inputs: Callable[[torch.Generator], dict[str, Any]]
    beta: float


def unet_subject(config: dict[str, Any], side: int, *, text: int, pooled: int, beta: float) -> Subject:
    """Build a UNet of diffusers; `pooled` is the width of SDXL's pooled text state, 0 for the others."""
    from diffusers import UNet2DConditionModel

    model: nn.Module = UNet2DConditionModel(sample_size=side, **config)

    def inputs(generator: torch.Generator) -> dict[str, Any]:
        timestep = torch.randint(1000, (1,), generator=generator)
        states_BLD = torch.randn(1, 77, text, generator=generator).repeat(2, 1, 1)
        given = {
            "sample": torch.randn(2, 4, side, side, generator=generator),
            "timestep": timestep.repeat(2),
            "encoder_hidden_states": states_BLD,
        }
        if pooled:
            sizes = torch.tensor([[1024.0, 1024.0, 0.0, 0.0, 1024.0, 1024.0]]).repeat(2, 1)
            embeds = torch.randn(1, pooled, generator=generator).repeat(2, 1)
            given["added_cond_kwargs"] = {"text_embeds": embeds, "time_ids": sizes}
        return given

    return Subject(model, inputs, beta)


def sd15(*, tiny: bool = False, side: int = 32) -> Subject:
    """Stable Diffusion 1.5 with one layer a block instead of two."""
    widths = (32, 64, 64, 64) if tiny else (320, 640, 1280, 1280)
    config = {"block_out_channels": widths, "layers_per_block": 1, "cross_attention_dim": 768, "attention_head_dim": 8}
    return unet_subject(config, side, text=768, pooled=0, beta=5000.0)


def sdxl(*, tiny: bool = False) -> Subject:
    """SDXL with one layer a block instead of two and 1, 1, 2 transformer layers instead of 1, 2, 10."""
    config = {
        "block_out_channels": (32, 64, 128) if tiny else (320, 640, 1280),
        "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        "layers_per_block": 1,
        "transformer_layers_per_block": (1, 1, 2),
        "attention_head_dim": (2, 4, 8) if tiny else (5, 10, 20),
        "cross_attention_dim": 2048,
        "use_linear_projection": True,
        "addition_embed_type": "text_time",
        "addition_time_embed_dim": 256,
        "projection_class_embeddings_input_dim": 2816,
    }
    return unet_subject(config, 32, text=2048, pooled=1280, beta=5000.0)


def flux(*, tiny: bool = False) -> Subject:
    """FLUX.1 with one double and two single blocks instead of 19 and 38, 256 image and 64 text tokens."""
    from diffusers import FluxTransformer2DModel

    heads, size, rope = (4, 32, (8, 12, 12)) if tiny else (24, 128, (16, 56, 56))
    model: nn.Module = FluxTransformer2DModel(
        num_layers=1,
        num_single_layers=2,
        num_attention_heads=heads,
        attention_head_dim=size,
        axes_dims_rope=rope,
        guidance_embeds=True,
    )
    positions = F.pad(torch.cartesian_prod(torch.arange(16), torch.arange(16)), (1, 0)).float()

    def inputs(generator: torch.Generator) -> dict[str, Any]:
        return {
            "hidden_states": torch.randn(2, 256, 64, generator=generator),
            "timestep": torch.rand(1, generator=generator).repeat(2),
            "guidance": torch.full((2,), 3.5),
            "pooled_projections": torch.randn(1, 768, generator=generator).repeat(2, 1),
            "encoder_hidden_states": torch.randn(1, 64, 4096, generator=generator).repeat(2, 1, 1),
            "txt_ids": torch.zeros(64, 3),
            "img_ids": positions,
        }

    return Subject(model, inputs, beta=100.0)


def built(make: Callable[..., Subject], **settings: Any) -> Subject:
    """Build a subject of seed 0 whose predictions have a root mean square of 1."""
    torch.manual_seed(0)
    subject = make(**settings)
    subject.model.eval()
    last = getattr(subject.model, "conv_out", None) or subject.model.proj_out
    with torch.no_grad():
        size = predict(subject, 0, PRECISIONS[0]).square().mean().sqrt()
        for weight in last.parameters():
            weight.div_(size)
    return subject


# --- margins ----------------------------------------------------------------------------------------------------------


def predict(subject: Subject, pair: int, precision: Precision) -> Tensor:
    """Return the predictions for both images of a pair."""
    inputs = subject.inputs(torch.Generator().manual_seed(pair))
    with emulated(subject.model, precision):
        prediction: Tensor = subject.model(**inputs, return_dict=False)[0]
    return prediction


def gap(subject: Subject, pair: int, precision: Precision) -> Tensor:
    """Return the chosen image's error minus the rejected one's, squared and summed in float64."""
    prediction = predict(subject, pair, precision).double()
    target = torch.randn(prediction.shape[1:], generator=torch.Generator().manual_seed(1000 + pair)).double()
    chosen, rejected = (prediction - target).square().flatten(1).mean(dim=1)
    return chosen - rejected


@torch.no_grad()
def gaps(subject: Subject, precision: Precision, pairs: int) -> Tensor:
    """Return the gap of each pair."""
    return torch.stack([gap(subject, pair, precision) for pair in range(pairs)])


@contextmanager
def moved(weights: Sequence[nn.Parameter], by: float) -> Iterator[None]:
    """Move each weight by plus or minus `by`, and restore it."""
    generator = torch.Generator().manual_seed(7)
    kept = [weight.detach().clone() for weight in weights]
    with torch.no_grad():
        for weight in weights:
            weight.add_((torch.randint(0, 2, weight.shape, generator=generator) * 2 - 1).to(weight) * by)
    try:
        yield
    finally:
        with torch.no_grad():
            for weight, old in zip(weights, kept, strict=True):
                weight.copy_(old)


def margins(subject: Subject, precision: Precision, weights: Sequence[nn.Parameter], pairs: int) -> dict[float, Tensor]:
    """Return the margin of each pair after each move of the weights: 0.5 beta times the fall of the gap."""
    before = gaps(subject, precision, pairs)
    found = {}
    for by in MOVES:
        with moved(weights, by):
            found[by] = 0.5 * subject.beta * (before - gaps(subject, precision, pairs))
    return found


def signal(subject: Subject) -> float:
    """Return the first pair's margin after a step of 1e-6 along the sign of the gradient, in float32."""
    precision, weights = PRECISIONS[0], list(subject.model.parameters())
    before = gap(subject, 0, precision)
    before.backward()
    with torch.no_grad():
        for weight in weights:
            if weight.grad is not None:
                weight.sub_(weight.grad.sign() * 1e-6)
        after = gap(subject, 0, precision)
        for weight in weights:
            if weight.grad is not None:
                weight.add_(weight.grad.sign() * 1e-6)
            weight.grad = None
    return float(0.5 * subject.beta * (before.detach() - after))


def adapters(subject: Subject) -> list[nn.Parameter]:
    """Add adapters of rank 8 to the attention; return their second factors, which start at zero."""
    from peft import LoraConfig

    targets = ["to_q", "to_k", "to_v", "to_out.0"]
    subject.model.add_adapter(LoraConfig(r=8, lora_alpha=8, target_modules=targets, init_lora_weights="gaussian"))
    return [weight for name, weight in subject.model.named_parameters() if "lora_B" in name]


def report(subject: Subject, title: str, weights: Sequence[nn.Parameter], names: Sequence[str], pairs: int) -> None:
    """Print the rows of one way of training."""
    exact: dict[float, Tensor] = {}
    for precision in PRECISIONS:
        if precision.name not in names:
            continue
        found = margins(subject, precision, weights, pairs)
        exact = exact or found
        noise = torch.cat([found[by] - exact[by] for by in MOVES]).square().mean().sqrt()
        first = "".join(f"{float(found[by][0]):>12.5f}" for by in MOVES)
        print(f"{title:12s} {precision.name:32s} noise {float(noise):9.5f}  margins {first}", flush=True)


def noise(subject: Subject, names: Sequence[str], pairs: int) -> dict[str, float]:
    """Return the noise of each named precision when every weight is moved."""
    weights = list(subject.model.parameters())
    chosen = [precision for precision in PRECISIONS if precision.name in names]
    found = {precision.name: margins(subject, precision, weights, pairs) for precision in (PRECISIONS[0], *chosen)}
    exact = found.pop(PRECISIONS[0].name)
    return {
        name: float(torch.cat([of_name[by] - exact[by] for by in MOVES]).square().mean().sqrt())
        for name, of_name in found.items()
    }


def report_sizes(pairs: int) -> None:
    """Print the noise of the narrow SD1.5 at three sizes of the latent, to see how it falls with the mean over more."""
    for side in (16, 32, 64):
        found = noise(built(sd15, tiny=True, side=side), ("bf16", "fp16"), pairs)
        shown = "  ".join(f"{name} {value:.4f}" for name, value in found.items())
        print(f"narrow sd15, latents of {side} x {side}: noise {shown}", flush=True)


def main(names: Sequence[str], *, tiny: bool, pairs: int) -> None:
    """Measure each named model, then the sizes of the latent."""
    makers = {"sd15": sd15, "sdxl": sdxl, "flux": flux}
    for name in names or list(makers):
        subject = built(makers[name], tiny=tiny)
        size = sum(weight.numel() for weight in subject.model.parameters()) / 1e6
        print(f"{name}: {size:.0f} M weights, beta {subject.beta:g}, signal {signal(subject):.3f}", flush=True)
        every = [precision.name for precision in PRECISIONS]
        report(subject, f"{name} full", list(subject.model.parameters()), every, pairs)
        report(subject, f"{name} lora", adapters(subject), LORA, pairs)
    report_sizes(4 * pairs)


if __name__ == "__main__":
    given = sys.argv[1:]
    main([name for name in given if not name.startswith("-")], tiny="--tiny" in given, pairs=PAIRS)
