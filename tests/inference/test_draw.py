"""Drawing a token, against brute force over the whole vocabulary."""

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from posttrain.inference.draw import draw_tokens
from posttrain.inference.randomness import stream_key, uniforms

GRID = 4000


def brute_force_nucleus(probabilities: list[float], top_p: float) -> list[float]:
    """The likeliest tokens, one after another, until their mass reaches top_p; the rest is nothing."""
    kept, mass = set(), 0.0
    for token in sorted(range(len(probabilities)), key=lambda t: -probabilities[t]):
        if kept and mass >= top_p:
            break
        kept.add(token)
        mass += probabilities[token]
    return [p / mass if t in kept else 0.0 for t, p in enumerate(probabilities)]


@settings(max_examples=60, deadline=None)
@given(
    logits=st.lists(st.integers(-40, 40), min_size=2, max_size=12, unique=True),
    top_p=st.sampled_from([0.05, 0.311, 0.52, 0.877, 0.993, 1.0]),
    temperature=st.sampled_from([0.3, 1.0, 2.5]),
)
def test_an_even_grid_of_uniforms_gives_each_token_its_nucleus_share(logits, top_p, temperature):
    row_V = torch.tensor(logits) / 8.0
    grid = (torch.arange(GRID, dtype=torch.float64) + 0.5) / GRID
    tokens, logprobs = draw_tokens(
        row_V.expand(GRID, -1), grid, torch.full((GRID,), temperature), torch.full((GRID,), top_p, dtype=torch.float64)
    )
    expected = brute_force_nucleus((row_V.double() / temperature).softmax(-1).tolist(), top_p)
    shares = torch.bincount(tokens, minlength=len(logits)) / GRID
    for share, wanted in zip(shares.tolist(), expected, strict=True):
        assert abs(share - wanted) <= 1.5 / GRID
    torch.testing.assert_close(logprobs, (row_V / temperature).log_softmax(-1)[tokens], atol=1e-6, rtol=0)


def test_rows_with_different_settings_do_not_disturb_each_other():
    torch.manual_seed(0)
    logits, u = torch.randn(6, 50), torch.rand(6, dtype=torch.float64)
    temperature, top_p = (
        torch.tensor([0.0, 1.0, 0.5, 1.0, 0.0, 2.0]),
        torch.tensor([1.0, 0.5, 1.0, 0.9, 0.2, 1.0]).double(),
    )
    allowed = torch.rand(6, 50) > 0.5
    together = draw_tokens(logits, u, temperature, top_p, allowed)
    for row in range(6):
        one = slice(row, row + 1)
        alone = draw_tokens(logits[one], u[one], temperature[one], top_p[one], allowed[one])
        assert together[0][row] == alone[0][0] and together[1][row] == alone[1][0]
    assert allowed[torch.arange(6), together[0]].all()
    assert together[0][0] == logits[0].masked_fill(~allowed[0], -9e9).argmax()


def test_tokens_without_mass_are_never_drawn_even_at_the_ends():
    logits = torch.tensor([[-200.0, 0.0, -200.0, 0.0, -200.0]])
    for u in (0.0, 0.5, 1 - 2.0**-52):
        token, _ = draw_tokens(logits, torch.tensor([u], dtype=torch.float64), torch.ones(1))
        assert token.item() in (1, 3)


def test_streams_are_uniform_and_unrelated():
    positions = np.arange(20_000)
    keys = [stream_key(seed, prompt, index) for seed in (0, 1) for prompt in ("a", "b") for index in (0, 1)]
    assert len(set(keys)) == len(keys)
    streams = [uniforms(np.full(len(positions), key, np.uint64), positions) for key in keys]
    for stream in streams:
        assert 0 <= stream.min() and stream.max() < 1
        assert stats.kstest(stream, "uniform").pvalue > 1e-4
        assert abs(np.corrcoef(stream[:-1], stream[1:])[0, 1]) < 0.03
    correlations = np.corrcoef(streams) - np.eye(len(streams))
    assert np.abs(correlations).max() < 0.03
    # Across streams at one position, as a batch uses them.
    across = uniforms(np.array([stream_key(0, str(i), 0) for i in range(20_000)], np.uint64), np.zeros(20_000, int))
    assert stats.kstest(across, "uniform").pvalue > 1e-4


def test_splitmix64_matches_its_published_sequence():
    """The first outputs for seed 1234567, as published with the reference implementation."""
    reference = [6457827717110365317, 3203168211198807973, 9817491932198370423]
    drawn = uniforms(np.full(3, 1234567, np.uint64), np.arange(3))
    assert drawn.tolist() == [(value >> 12) * 2.0**-52 for value in reference]
