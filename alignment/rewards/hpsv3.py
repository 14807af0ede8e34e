"""HPSv3: Qwen2-VL reads an image and a rubric that contains the prompt; a small network rates the reward token's state.

    judge/
        config.json             Qwen2-VL's, with the vocabulary size of the weights
        model.safetensors       language_model.* and visual.* in transformers' names
        head.safetensors        layers 0, 3 and 5 of the authors' head
        tokenizer.json          Qwen2-VL's with <|Reward|>
        instruction.txt         the rubric: {text_prompt} marks the prompt, the rating is read at <|Reward|>

B counts images, L tokens.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor
from transformers import AutoTokenizer, Qwen2VLImageProcessorPil, Qwen2VLModel
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import smart_resize

from alignment.catalogues.rewards import HpsV3
from alignment.rewards.affine_head import AffineHead
from alignment.rewards.clip_model import DTYPE, PROCESSOR_BACKEND
from alignment.rewards.interface import scorer_digest
from alignment.rewards.judge_files import require_files
from alignment.rewards.whole_weights import load_whole

REWARD_TOKEN = "<|Reward|>"
PROMPT = "{text_prompt}"
INSTRUCTION_FILE = "instruction.txt"
HEAD_FILE = "head.safetensors"
NEEDED = ("config.json", "model.safetensors", HEAD_FILE, "tokenizer.json", INSTRUCTION_FILE)
PIXELS = 256 * 28 * 28
"""Pixels of every image, independent of its shape: about 448 x 448."""
IMAGE_TOKEN = "<|image_pad|>"
CHAT = (
    "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n"
    "<|im_start|>user\n<|vision_start|>{image}<|vision_end|>{text}<|im_end|>\n<|im_start|>assistant\n"
)
"""Qwen2-VL's chat format for one image and one text."""


class HpsV3Scorer:
    """mu, the first of the head's two numbers. The difference of two images of one prompt is approximately log-odds.

    Source: Ma et al. 2025, arXiv:2508.03789. The second number, the log of the deviation, is ignored. Departure:
    float32 throughout; the authors load bfloat16.
    """

    def __init__(self, weights_dir: Path, params: HpsV3, *, weights_digest: str, device: torch.device) -> None:
        self.digest = scorer_digest(
            params, weights_digest=weights_digest, processor_backend=PROCESSOR_BACKEND, dtype=DTYPE
        )
        require_files(weights_dir, "HPSv3 folder", NEEDED)
        self._instruction = (weights_dir / INSTRUCTION_FILE).read_text(encoding="utf-8")
        self._tokenizer = AutoTokenizer.from_pretrained(weights_dir, local_files_only=True, padding_side="right")
        self._model = _RewardModel(weights_dir, self._tokenizer.convert_tokens_to_ids(REWARD_TOKEN), device)

    def score(self, images_B: Sequence[Image.Image], prompts: Sequence[str]) -> Tensor:
        """Return scores_B; see `alignment.rewards.interface.Scorer`. Prompts are never cut."""
        if len(images_B) != len(prompts):
            raise ValueError(f"{len(images_B)} images for {len(prompts)} prompts. Pass one prompt per image.")
        if not prompts:
            return torch.empty(0)
        patches = self._model.patches(images_B)
        texts = [self._text(prompt, n) for prompt, n in zip(prompts, self._model.num_tokens(patches), strict=True)]
        tokens = self._tokenizer(texts, padding=True, return_tensors="pt")
        rewards_B2 = self._model.rewards(
            tokens.input_ids, tokens.attention_mask, patches["pixel_values"], grid_B3=patches["image_grid_thw"]
        )
        return rewards_B2[:, 0].float().cpu()

    def _text(self, prompt: str, num_image_tokens: int) -> str:
        """The conversation. The reward token is removed from the prompt, because the rating is read at that token."""
        instruction = self._instruction.replace(PROMPT, prompt.replace(REWARD_TOKEN, ""))
        return CHAT.format(image=IMAGE_TOKEN * num_image_tokens, text=instruction)


class _RewardModel:
    """Qwen2-VL without its language head, and the rating head."""

    def __init__(self, folder: Path, reward_token_id: int, device: torch.device) -> None:
        self.device = device
        self._reward_token_id = reward_token_id
        model = load_whole(Qwen2VLModel, folder, what="HPSv3 folder")
        self._model: Any = model.to(device).eval().requires_grad_(False)
        self._head = AffineHead.from_weights(load_file(folder / HEAD_FILE), folder, "relu", biased=True).to(device)
        vision = self._model.config.vision_config
        self._factor = vision.patch_size * vision.spatial_merge_size
        self._merged = vision.spatial_merge_size**2
        self._processor = Qwen2VLImageProcessorPil(
            do_resize=False,
            patch_size=vision.patch_size,
            temporal_patch_size=vision.temporal_patch_size,
            merge_size=vision.spatial_merge_size,
        )

    def patches(self, images_B: Sequence[Image.Image]) -> Any:
        """Return pixel_values of all images' patches and image_grid_thw B3. Images are resized to about `PIXELS`."""
        resized = []
        for image in images_B:
            width, height = image.size
            rows, columns = smart_resize(height, width, factor=self._factor, min_pixels=PIXELS, max_pixels=PIXELS)
            resized.append(image.convert("RGB").resize((columns, rows), Image.Resampling.BICUBIC))
        return self._processor(images=resized, return_tensors="pt")

    def num_tokens(self, patches: Any) -> list[int]:
        """Return the number of tokens of each image."""
        return [int(grid_3.prod()) // self._merged for grid_3 in patches["image_grid_thw"]]

    @torch.no_grad()
    def image_states(self, pixel_values: Tensor, grid_B3: Tensor) -> Tensor:
        """Return the vision tower's output for the language model: all images' tokens, concatenated."""
        seen = self._model.visual(pixel_values.to(self.device), grid_thw=grid_B3.to(self.device))
        states: Tensor = seen.pooler_output
        return states

    @torch.no_grad()
    def rewards(self, ids_BL: Tensor, mask_BL: Tensor, pixel_values: Tensor, *, grid_B3: Tensor) -> Tensor:
        """Return mu and log sigma, B2. Positions of all tokens, including images', are 0 to L - 1 on all three axes.

        The authors' code passes no positions, which had this meaning in their version of transformers. The current
        default, positions by row and column, gives other rewards.
        """
        rows, length = ids_BL.shape
        positions_3BL = torch.arange(length, device=self.device).expand(3, rows, length)
        states_BLD = self._model(
            input_ids=ids_BL.to(self.device),
            attention_mask=mask_BL.to(self.device),
            position_ids=positions_3BL,
            pixel_values=pixel_values.to(self.device),
            image_grid_thw=grid_B3.to(self.device),
        ).last_hidden_state
        at_BL = ids_BL.to(self.device) == self._reward_token_id
        if not bool((at_BL.sum(dim=1) == 1).all()):
            raise ValueError(f"Each text must contain {REWARD_TOKEN} once. Check {INSTRUCTION_FILE} of the judge.")
        rewards_B2: Tensor = self._head(states_BLD[at_BL])
        return rewards_B2
