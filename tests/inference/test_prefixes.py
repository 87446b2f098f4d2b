"""Grouping by common beginnings against brute force."""

import random
from itertools import combinations

from posttrain.inference.prefixes import LEAST, shared_prefixes


def alike(a, b):
    return next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))


def made(seed):
    draw = random.Random(seed)
    roots = [tuple(draw.randrange(5) for _ in range(draw.choice([10, 70, 200]))) for _ in range(4)]
    return [draw.choice(roots) + tuple(draw.randrange(5) for _ in range(draw.randrange(1, 60))) for _ in range(40)]


def test_sequences_of_one_group_begin_alike_and_keep_two_tokens_of_their_own():
    for seed in range(30):
        sequences = made(seed)
        lengths = shared_prefixes(sequences)
        assert lengths.keys() == set(sequences)
        groups = {}
        for sequence, length in lengths.items():
            assert length == 0 or LEAST <= length <= len(sequence) - 2
            if length:
                groups.setdefault(sequence[:length], []).append(sequence)
        for prefix, members in groups.items():
            assert len(members) > 1
            # The token after the prefix is common too: its log-probability is computed once for all.
            assert all(alike(a, b) > len(prefix) for a, b in combinations(members, 2))


def test_few_shot_prompts_share_all_of_their_examples():
    draw = random.Random(0)
    shots = {subject: tuple(draw.randrange(99) for _ in range(300)) for subject in range(5)}
    sequences = [(1, 2, 3, *shots[i % 5], 100 + i, 7, 8) for i in range(100)]
    assert set(shared_prefixes(sequences).values()) == {302}
    assert set(shared_prefixes([(i, *sequence) for i, sequence in enumerate(sequences)]).values()) == {0}
