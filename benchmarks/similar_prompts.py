"""Measure the search for near-duplicate prompts: CPU seconds at several numbers of prompts, and against comparing all.

Prompts have 5 to 30 words from a vocabulary in which a few words are frequent, as in collections of prompts; a fifth of
them are earlier prompts with a word changed. Run `python benchmarks/similar_prompts.py`; it takes about two minutes
and 1.5 GiB on an idle core.
"""

import resource
import time

import numpy as np

from alignment.statistics.prompt_groups import group_prompts
from alignment.statistics.prompts import EvalPrompt
from alignment.statistics.similar_prompts import similar_groups

COUNTS = (5_000, 100_000, 1_000_000)
COMPARED = 5_000
"""Number of prompts that are also compared pair by pair."""
NUM_WORDS = 50_000
ENDING = " ".join(f"end{number}" for number in range(20))


def main() -> None:
    """Print one line for each number of prompts, and one for prompts of a single template."""
    for count in COUNTS:
        prompts = drawn(count)
        start = time.process_time()
        groups = similar_groups(prompts)
        seconds = time.process_time() - start
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
        line = f"{count:9,d} prompts: {seconds:7.1f} s, {len(set(groups)):9,d} groups, peak memory {peak:.1f} GiB"
        if count == COMPARED:
            start = time.process_time()
            expected = group_prompts([EvalPrompt(place, prompt, "") for place, prompt in enumerate(prompts)])
            line += f"; comparing all takes {(time.process_time() - start) / seconds:.0f} times as long"
            assert expected == groups
        print(line, flush=True)
    prompts = [f"photo of a thing{i // 40} and a kind{i % 40} of {ENDING}" for i in range(COMPARED)]
    start = time.process_time()
    assert set(similar_groups(prompts)) == {0}
    print(f"{COMPARED:9,d} prompts of one template: {time.process_time() - start:7.1f} s", flush=True)


def drawn(count: int) -> list[str]:
    """Return distinct prompts, some of them near-duplicates."""
    rng = np.random.default_rng(0)
    words = (rng.zipf(1.2, size=count * 18) - 1) % NUM_WORDS
    ends = np.cumsum(rng.integers(5, 31, size=count)) % (len(words) - 30)
    lengths = rng.integers(5, 31, size=count)
    found: dict[str, None] = {}
    earlier: list[list[str]] = []
    for end, length in zip(ends.tolist(), lengths.tolist(), strict=True):
        own = [f"w{word}" for word in words[end : end + length]]
        if earlier and rng.random() < 0.2:
            own = list(earlier[int(rng.integers(len(earlier)))])
            own[int(rng.integers(len(own)))] = f"w{int(rng.integers(NUM_WORDS))}"
        earlier.append(own)
        found[" ".join(own)] = None
    return list(found)


if __name__ == "__main__":
    main()
