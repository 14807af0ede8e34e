"""A PAL judge: a frozen CLIP and a preference head with fixed prototype weights, in one folder.

    judge/
        embedder/           the CLIP in transformers' layout
        head.json           `HeadFile`, with the mixture
        head.safetensors    the head without its users

B counts (image, prompt) pairs, K prototypes.
"""

import json
import shutil
from collections.abc import Sequence
from pathlib import Path

import torch
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor

from alignment.catalogues.rewards import Pal
from alignment.config import validate
from alignment.contracts.reward_models import HeadFile, check_mixture
from alignment.files.durable import write_json
from alignment.files.tensors import write_tensors
from alignment.rewards.clip_model import DTYPE, PROCESSOR_BACKEND, ClipModel
from alignment.rewards.dead_weights import check_alive
from alignment.rewards.interface import scorer_digest
from alignment.rewards.pal_head import PreferenceHead

EMBEDDER_DIR = "embedder"
HEAD_FILE = "head.json"
WEIGHTS_FILE = "head.safetensors"
USERS = "user_logits_UK"


class PalScorer:
    """exp(s) * cos(f(image), sum_k w_k g_k(prompt)), or minus the distance from PAL-A's ideal point.

    Source: the authors' deployment code. With cross-entropy and with the logistic link, differences of two images of
    one prompt are log-odds of being preferred by that mixture; with hinge, they have no such meaning. Only
    cross-entropy has the factor exp(s).
    """

    def __init__(self, weights_dir: Path, params: Pal, *, weights_digest: str, device: torch.device) -> None:
        self.digest = scorer_digest(
            params, weights_digest=weights_digest, processor_backend=PROCESSOR_BACKEND, dtype=DTYPE
        )
        head, file = _read_head(weights_dir)
        if not file.mixture:
            raise ValueError(f"{weights_dir / HEAD_FILE} states no mixture. Export the head as a judge first.")
        self._head = head.to(device)
        self._mixture_K = torch.tensor(file.mixture, device=device)
        self._clip = ClipModel(weights_dir / EMBEDDER_DIR, device)

    @torch.no_grad()
    def score(self, images_B: Sequence[Image.Image], prompts: Sequence[str]) -> Tensor:
        """Return scores_B; see `alignment.rewards.interface.Scorer`."""
        if len(images_B) != len(prompts):
            raise ValueError(f"{len(images_B)} images for {len(prompts)} prompts. Pass one prompt per image.")
        if not prompts:
            return torch.empty(0)
        distinct = list(dict.fromkeys(prompts))
        rows = [distinct.index(prompt) for prompt in prompts]
        weights_BK = self._mixture_K.expand(len(distinct), -1)
        points_BD = self._head.points_of(weights_BK, self._clip.embed_texts(distinct))[rows]
        scores_B: Tensor = self._head.scores(self._clip.embed_images(images_B), points_BD)
        return scores_B.float().cpu()


def write_judge(head: PreferenceHead, mixture: tuple[float, ...], embedder_dir: Path, folder: Path) -> None:
    """Write a folder that `PalScorer` loads: the embedder's files, and the head without its users."""
    check_mixture(mixture, head.params.num_prototypes)
    shutil.copytree(embedder_dir, folder / EMBEDDER_DIR, dirs_exist_ok=True)
    file = HeadFile(head=head.params, image_width=head.image_width, text_width=head.text_width, mixture=tuple(mixture))
    _write(head, file, folder)


def write_head(head: PreferenceHead, users: Sequence[str], folder: Path) -> None:
    """Write the head with the logits of its users, for fitting new users later."""
    file = HeadFile(head=head.params, image_width=head.image_width, text_width=head.text_width, users=tuple(users))
    _write(head, file, folder)


def _write(head: PreferenceHead, file: HeadFile, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {name: tensor for name, tensor in head.state_dict().items() if file.users or name != USERS}
    write_tensors(folder / WEIGHTS_FILE, tensors)
    write_json(folder / HEAD_FILE, file.model_dump(mode="json"))


def _read_head(folder: Path) -> tuple[PreferenceHead, HeadFile]:
    """Read a head, in evaluation mode, and its head.json. ValueError names a missing file or a mismatch."""
    lacking = [name for name in (HEAD_FILE, WEIGHTS_FILE) if not (folder / name).is_file()]
    if lacking:
        raise ValueError(f"The preference head {folder} lacks {', '.join(lacking)}. Export it with train_reward again.")
    file = _read_file(folder / HEAD_FILE)
    with torch.random.fork_rng():
        head = PreferenceHead(file.head, file.image_width, file.text_width, num_users=len(file.users))
    tensors = load_file(folder / WEIGHTS_FILE)
    if not file.users:
        tensors[USERS] = head.user_logits_UK.detach()
    try:
        head.load_state_dict(tensors)
    except RuntimeError as error:
        raise ValueError(f"{folder / WEIGHTS_FILE} does not fit {HEAD_FILE}: {error}") from error
    # A user without a preference between the groups has logits of zero.
    check_alive({name: tensor for name, tensor in tensors.items() if name != USERS}, f"preference head {folder}")
    return head.eval().requires_grad_(False), file


def _read_file(path: Path) -> HeadFile:
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise ValueError(f"{path} cannot be read as JSON: {error}.") from error
    return validate(HeadFile, data, what=str(path))
