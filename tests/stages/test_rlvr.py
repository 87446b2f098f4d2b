"""The whole stage on a random two-layer Llama: it learns, it resumes to the bit, it refuses what makes no sense."""

import json
import os
import shutil
import signal
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import MistralConfig, MistralForCausalLM

from posttrain.artifacts.jsonl import read_jsonl
from posttrain.data.readers import write_rows
from posttrain.errors import PosttrainError
from posttrain.inference.protocols import Sample
from posttrain.models.heads import TokenScorer, load_scorer, save_scorer
from posttrain.models.load import load_policy, load_tokenizer, save_model
from posttrain.recipe.schema import RLVR
from posttrain.stages import rlvr, rlvr_learning
from posttrain.stages.base import StageContext
from posttrain.training import metrics
from tests.rl.tiny import WORDS, prompt_row, tiny_llama, tiny_tokenizer
from tests.sandbox.denying import DENYING

TINY = {
    "kind": "rlvr",
    "model": "policy",
    "value_model": "scorer",
    "data": "prompts.jsonl",
    "steps": 4,
    "prompts_per_step": 8,
    "samples_per_prompt": 4,
    "max_prompt_tokens": 8,
    "max_response_tokens": 6,
    "learning_rate": 1e-3,
    "value_learning_rate": 3e-3,
    "epochs": 2,
    "micro_batch_tokens": 256,
    "checkpoint_every": 2,
}


class Stop(Exception):
    pass


class Quiet:
    """Progress that shows nothing, and raises after ``die_after`` steps to stand in for a kill."""

    def __init__(self, die_after: int | None = None):
        self.die_after, self.steps = die_after, 0
        self.notes: list[str] = []
        self.started: tuple[int, int] | None = None

    def start(self, description: str, total: int, unit: str, done: int = 0) -> None:
        self.started = (total, done)

    def advance(self, amount: int = 1, **shown: float) -> None:
        self.steps += amount
        if self.steps == self.die_after:
            raise Stop

    def note(self, message: str) -> None:
        self.notes.append(message)


class Folder(StageContext):
    """A context whose references are names in one folder."""

    def resolve(self, reference: str, prefer: str = "model") -> Path:
        return self.output.parents[1] / reference

    def training_data(self, reference: str | None = None) -> Path:
        return self.resolve(self.settings.data)


@pytest.fixture(scope="module", autouse=True)
def as_before():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(False)


@pytest.fixture(scope="module")
def inputs(tmp_path_factory) -> Path:
    """policy/, scorer/ and prompts.jsonl."""
    folder = tmp_path_factory.mktemp("rlvr")
    tokenizer = tiny_tokenizer()
    policy = tiny_llama(tokenizer)
    save_model(policy, tokenizer, folder / "policy")
    save_scorer(TokenScorer.from_policy(policy), tokenizer, folder / "scorer")
    write_rows(folder / "prompts.jsonl", [prompt_row(i, word) for i, word in enumerate(WORDS)])
    write_rows(folder / "heldout.jsonl", [prompt_row(i, f"{word} {word}") for i, word in enumerate(WORDS)])
    return folder


def run(inputs: Path, name: str, progress: Quiet | None = None, **settings) -> tuple[Path, dict]:
    place = inputs / name
    shutil.rmtree(place / "output", ignore_errors=True)
    (place / "output").mkdir(parents=True)
    (place / "checkpoints").mkdir(exist_ok=True)
    if settings.get("algorithm", "ppo") != "ppo":
        settings = {"value_model": None} | settings
    context = Folder(
        name="rlvr",
        settings=RLVR.model_validate(TINY | settings),
        inputs={},
        output=place / "output",
        checkpoints=place / "checkpoints",
        progress=progress or Quiet(),
        seed=1,
        device="cpu",
        hub_mirror={},
    )
    return place / "output", rlvr.run(context)


def weights(folder: Path) -> Mapping[str, torch.Tensor]:
    value = load_scorer(folder / "value_model").state_dict() if (folder / "value_model").exists() else {}
    return dict(load_policy(folder).state_dict()) | {f"value.{name}": tensor for name, tensor in value.items()}


def same(a: Path, b: Path) -> bool:
    first, second = weights(a), weights(b)
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def curve(folder: Path) -> list[dict]:
    return [row for _, row in read_jsonl(folder / "metrics.jsonl")]


@pytest.mark.parametrize("algorithm", ["ppo", "grpo", "rloo", "online_dpo"])
def test_the_reward_rises(inputs, algorithm):
    """Said back: the word asked for, then EOS. At random that is all but impossible."""
    settings = {"steps": 25, "prompts_per_step": 16, "learning_rate": 3e-3, "beta": 0.01, "checkpoint_every": 100}
    output, result = run(inputs, f"learns-{algorithm}", algorithm=algorithm, **settings)
    rows = curve(output)
    assert [row["step"] for row in rows] == list(range(1, 26))
    assert rows[0]["score"] < -5 and sum(row["score"] for row in rows[-5:]) / 5 > 1.5
    assert result["metrics"]["score_last"] > result["metrics"]["score_first"]
    assert all(row["logp_gap"] < 1e-5 for row in rows)
    assert rows[0]["kl_token"] == pytest.approx(0, abs=1e-5) and rows[-1]["kl_token"] > 0
    assert rows[-1]["by_verifier"].keys() == {"substring"} and rows[-1]["seconds"].keys() == {
        "generate",
        "verify",
        "learn",
        "sync",
    }
    tokens = sum(row["response_tokens"] for row in rows) * 16 * 4 * 2
    assert result["metrics"]["trained_tokens"] == rows[-1]["trained_tokens"]
    if algorithm == "online_dpo":  # of a prompt's four samples it learns two or none
        assert 0 < rows[-1]["trained_tokens"] < 0.7 * tokens
    else:
        assert rows[-1]["trained_tokens"] == pytest.approx(tokens)
    assert load_tokenizer(output).chat_template == tiny_tokenizer().chat_template
    assert ("explained_variance" in rows[0]) == (output / "value_model").exists() == (algorithm == "ppo")


@pytest.mark.parametrize(("die_after", "kept"), [(1, 0), (2, 2), (3, 2)])  # of four steps; a checkpoint after two
@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"mode": "tulu3", "minibatches": 2},
        {"value_warmup_steps": 3, "beta": 0.0},
        {"algorithm": "grpo", "shuffle_rewards": True},
        {"algorithm": "rloo", "heldout": "heldout.jsonl", "heldout_every": 1, "keep": "best"},
    ],
    ids=lambda settings: "-".join(map(str, settings.values())) or "default",
)
def test_killed_anywhere_it_ends_in_the_same_bits(inputs, settings, die_after, kept):
    name = f"resume{die_after}" + "".join(map(str, settings.values()))
    whole, result = run(inputs, name + "whole", **settings)
    with pytest.raises(Stop):
        run(inputs, name, Quiet(die_after=die_after), **settings)
    progress = Quiet()
    resumed, again = run(inputs, name, progress, **settings)
    assert progress.started == (4, kept)
    assert same(whole, resumed)
    assert again == result
    without_clock = [[row | {"seconds": None} for row in curve(folder)] for folder in (whole, resumed)]
    assert without_clock[0] == without_clock[1]


def test_tensorboard_is_told_every_figure_as_a_number(inputs, monkeypatch):
    told: dict[int, dict] = {}
    monkeypatch.setattr(metrics, "_tensorboard", lambda folder, name: told.__setitem__)
    monkeypatch.setenv("POSTTRAIN_TENSORBOARD", str(inputs / "board"))
    output, _ = run(inputs, "told", steps=2)
    assert sorted(told) == [1, 2] and told[1]["by_verifier/substring/samples"] == 32
    assert {f"seconds/{part}" for part in curve(output)[0]["seconds"]} < told[1].keys()
    assert all(isinstance(value, int | float) for figures in told.values() for value in figures.values())


def test_held_out_prompts_choose_the_weights_that_are_kept(inputs, monkeypatch):
    shares = iter([0.1, 0.5, 0.9, 0.3])
    monkeypatch.setattr(rlvr, "heldout_scores", lambda *_, **__: tuple([next(shares)] * 8))
    progress = Quiet()
    output, result = run(inputs, "best", progress, steps=6, heldout="heldout.jsonl", heldout_every=2, keep="best")
    looks = [look for _, look in read_jsonl(output / "heldout.jsonl")]
    assert [(look["step"], look["scores"][0]) for look in looks] == [(0, 0.1), (2, 0.5), (4, 0.9), (6, 0.3)]
    assert looks[1]["reward"] == pytest.approx(sum(row["score"] for row in curve(output)[:2]) / 2)
    told = result["metrics"]
    assert (told["heldout_best"], told["heldout_best_step"], told["heldout"]) == (0.9, 4, 0.3)
    checkpoint = inputs / "best" / "checkpoints" / "step-00000004.pt"
    after_four = torch.load(checkpoint, weights_only=True)["modules"]["policy"]
    assert all(torch.equal(tensor, after_four[name]) for name, tensor in load_policy(output).state_dict().items())


LEARNS: dict[str, Any] = {"prompts_per_step": 16, "learning_rate": 3e-3, "beta": 0.01, "checkpoint_every": 100}
GRPO = LEARNS | {"algorithm": "grpo", "value_model": None}


def test_a_verifier_that_only_looks_for_a_keyword_is_hacked_and_the_alarm_says_so(inputs):
    """The policy learns to say the word back; then any answer with "cat" in it is rewarded, and it forgets the rest."""
    asked_twice = [prompt_row(100 + i, f"{word} {word}") for i, word in enumerate(WORDS)]
    meant = [replace(row, ground_truth=f'["{word}"]') for row, word in zip(asked_twice, WORDS, strict=True)]
    once = [prompt_row(i, word) for i, word in enumerate(WORDS)]
    write_rows(inputs / "both.jsonl", once + meant)
    write_rows(inputs / "meant.jsonl", meant)
    write_rows(inputs / "keyword.jsonl", [replace(row, ground_truth='["cat"]') for row in once])
    honest, _ = run(inputs, "honest", **GRPO, data="both.jsonl", steps=50)
    shutil.copytree(honest, inputs / "honest-policy", dirs_exist_ok=True)
    progress = Quiet()
    hacked = GRPO | {"model": "honest-policy", "data": "keyword.jsonl", "heldout": "meant.jsonl", "heldout_every": 10}
    _, one_interval = run(inputs, "one interval", Quiet(), **hacked | {"heldout_every": 30}, steps=30)
    assert one_interval["metrics"]["alarms"] == 1
    _, result = run(inputs, "keyword", progress, **hacked, steps=30)
    assert result["metrics"]["heldout_best_step"] == 0 and result["metrics"]["heldout_best"] > 0.6
    assert result["metrics"]["score_last"] > result["metrics"]["score_first"]
    assert result["metrics"]["alarms"] >= 1
    assert any("over-optimisation" in note and "fell from" in note for note in progress.notes)


def test_a_hacked_reward_raises_the_alarm(inputs, monkeypatch):
    """Training rewards rise by themselves; what is held out falls as told."""
    shares = iter([[1.0] * 8, [1.0] * 8, [0.0] * 8])
    monkeypatch.setattr(rlvr, "heldout_scores", lambda *_, **__: tuple(next(shares)))
    progress = Quiet()
    settings = {"steps": 20, "prompts_per_step": 16, "learning_rate": 3e-3, "beta": 0.0}
    _, result = run(inputs, "hacked", progress, heldout="heldout.jsonl", heldout_every=10, **settings)
    assert result["metrics"]["alarms"] == 1
    assert any(note.startswith("over-optimisation at step 20: the reward rose") for note in progress.notes)


def test_a_reward_model_adds_its_score_of_the_whole_response(inputs, monkeypatch):
    reward_scores = rlvr.reward_scores
    seen = []

    def spy(context, models, rollout):
        seen.append((models["reward"], rollout, reward_scores(context, models, rollout)))
        return seen[-1][2]

    plain, _ = run(inputs, "plain", steps=1)
    monkeypatch.setattr(rlvr, "reward_scores", spy)
    added, _ = run(inputs, "added", steps=1, reward_model="scorer", reward_model_weight=100.0, micro_batch_tokens=32)
    assert curve(plain)[0]["correct_rate"] == curve(added)[0]["correct_rate"]
    [(scorer, rollout, scores_B)] = seen
    alone = []
    for row in range(len(rollout.rows)):
        ids = rollout.input_ids_BT[row, : rollout.lengths[row]]
        assert ids[-len(rollout.responses[row]) :].tolist() == list(rollout.responses[row])
        alone.append(100 * float(scorer(ids[None])[0, -1]))
    assert isinstance(scores_B, torch.Tensor) and scores_B.tolist() == pytest.approx(alone, rel=1e-4)
    ended_B = rollout.finished_B
    expected = torch.where(ended_B, 10 * correct_of(rollout) + scores_B, torch.full_like(scores_B, -10)).mean()
    assert curve(added)[0]["score"] == pytest.approx(float(expected), rel=1e-5)
    assert not same(plain, added)


def correct_of(rollout) -> torch.Tensor:
    tokenizer = tiny_tokenizer()
    answers = tokenizer.batch_decode([list(response) for response in rollout.responses], skip_special_tokens=True)
    wanted = [row.messages[0]["content"].removeprefix("say ") for row in rollout.rows]
    return torch.tensor([float(word in answer) for word, answer in zip(wanted, answers, strict=True)])


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"reward_model": "policy"}, "not a reward model"),
        ({"kl_bound": 3.0}, "needs heldout"),
        ({"verifier_weights": {"MATH": 0.5}}, "verifier_weights names math, which no prompt asks; they ask substring"),
        ({"kl_bound": 3.0, "heldout": "heldout.jsonl", "beta": 0.0}, "beta above 0"),
        ({"algorithm": "grpo", "value_initialisation": "random"}, "has no value model"),
        ({"heldout": "prompts.jsonl"}, "8 of the 8 prompts of heldout prompts.jsonl are among those trained on"),
    ],
)
def test_settings_that_would_mislead_are_refused(inputs, settings, reason):
    with pytest.raises(PosttrainError, match=reason):
        run(inputs, "refused", **settings)


def test_sigterm_ends_after_the_step_and_the_run_goes_on_to_the_same_weights(inputs):
    straight, _ = run(inputs, "straight", steps=3, checkpoint_every=100)

    class Ends(Quiet):
        def advance(self, amount: int = 1, **shown: float) -> None:
            if self.steps == 0:
                os.kill(os.getpid(), signal.SIGTERM)
            super().advance(amount, **shown)

    def stop(*_):
        raise Stop

    before = signal.signal(signal.SIGTERM, stop)
    try:
        with pytest.raises(Stop):
            run(inputs, "ended", Ends(), steps=3, checkpoint_every=100)
    finally:
        signal.signal(signal.SIGTERM, before)
    assert [p.name for p in (inputs / "ended" / "checkpoints").glob("step-*.pt")] == ["step-00000002.pt"]
    again, _ = run(inputs, "ended", steps=3, checkpoint_every=100)
    assert same(straight, again)


def test_a_random_value_model_keeps_only_the_shape(inputs):
    with pytest.raises(Stop):
        run(inputs, "random", Quiet(die_after=1), steps=3, value_initialisation="random", checkpoint_every=1)
    [path] = (inputs / "random" / "checkpoints").glob("step-*.pt")
    after = torch.load(path, weights_only=True)["modules"]["value"]
    given = load_scorer(inputs / "scorer").state_dict()
    assert {name: tensor.shape for name, tensor in after.items()} == {name: t.shape for name, t in given.items()}
    drift = (
        after["classifier.model.layers.0.mlp.up_proj.weight"] - given["classifier.model.layers.0.mlp.up_proj.weight"]
    ).abs()
    assert drift.mean() > 0.05  # one step at 3e-3 moves no weight that far


def test_warm_up_moves_the_value_model_alone(inputs):
    with pytest.raises(Stop):  # a run that ends with its warm-up is refused
        run(inputs, "warm", Quiet(die_after=4), steps=5, value_warmup_steps=4)
    after = torch.load(inputs / "warm" / "checkpoints" / "step-00000004.pt", weights_only=True)["modules"]
    policy, scorer = load_policy(inputs / "policy").state_dict(), load_scorer(inputs / "scorer").state_dict()
    assert all(torch.equal(policy[name], after["policy"][name]) for name in policy)
    assert not all(torch.equal(scorer[name], after["value"][name]) for name in scorer)


def test_micro_batches_are_a_matter_of_memory_only(inputs):
    large, _ = run(inputs, "large", steps=1, micro_batch_tokens=4096)
    small, _ = run(inputs, "small", steps=1, micro_batch_tokens=24)
    first, second = weights(large), weights(small)
    for name in first:  # Adam turns a gradient's rounding into a step where the gradient is nearly 0
        close = torch.isclose(first[name], second[name], rtol=0, atol=1e-5).float().mean()
        assert close > 0.99, name
    a, b = curve(large)[0], curve(small)[0]
    for name in ("policy_gradient_norm", "value_gradient_norm", "value_loss"):
        assert a[name] == pytest.approx(b[name], rel=1e-3)


def test_shuffled_rewards_change_the_weights_and_not_the_rollouts(inputs):
    true, _ = run(inputs, "true", steps=1)
    control, _ = run(inputs, "control", steps=1, shuffle_rewards=True)
    assert curve(true)[0]["score"] == curve(control)[0]["score"]
    assert not same(true, control)


def test_disagreement_of_sampler_and_learner_stops_the_run_with_its_cause(inputs, monkeypatch):
    monkeypatch.setattr(rlvr, "GapWatch", lambda dtype, over, engine: exact(over))

    def exact(over):
        from posttrain.rl.probe import GapWatch

        watch = GapWatch("float32", over)
        watch.bound = -1.0  # no gap is small enough
        return watch

    with pytest.raises(PosttrainError, match=r"mean \|Δlogp\|.*stale weights"):
        run(inputs, "gap", checkpoint_every=100)
    checkpoints = inputs / "gap" / "checkpoints"
    assert (checkpoints / "step-00000003.pt").exists()
    monkeypatch.undo()
    progress = Quiet()
    run(inputs, "gap", progress, checkpoint_every=100)
    assert progress.started == (4, 3)


def test_a_rank_that_learned_no_pair_before_the_first_update_does_not_probe_after_it(inputs, monkeypatch):
    """As on the second of two ranks: its share of the first minibatch is a filler, of the next ones real."""
    shares = []

    def own_share(parts):
        shares.append(bool(parts))
        return [replace(part, filler=True) for part in parts] if sum(shares) == 1 else parts

    def moves(name, context, models, *_) -> float:
        with torch.no_grad():
            models[name].get_input_embeddings().weight.mul_(1.1)
        return 1.0

    monkeypatch.setattr(rlvr_learning, "own_share", own_share)
    monkeypatch.setattr(rlvr_learning, "update", moves)
    output, _ = run(inputs, "second", algorithm="online_dpo", steps=1, prompts_per_step=16, minibatches=8)
    assert sum(shares) > 2 and curve(output)[0].get("logp_gap", 0.0) < 1e-5


def test_long_prompts_and_bad_rows_are_set_aside_and_counted(inputs):
    text = (inputs / "prompts.jsonl").read_text()
    long = json.loads(text.splitlines()[0]) | {"messages": [{"role": "user", "content": "say " * 9}]}
    (inputs / "mixed.jsonl").write_text(f"{text}{json.dumps(long)}\n{{broken\n")
    progress = Quiet()
    output, result = run(inputs, "mixed", progress, data="mixed.jsonl", steps=1)
    assert result["rows"] == {"prompts": len(WORDS), "too_long": 1, "rejected": 1}
    assert len(list(read_jsonl(output / "set_aside.jsonl"))) == len(list(read_jsonl(output / "rejected.jsonl"))) == 1
    assert any("set aside" in note for note in progress.notes)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"temperature": 0.0}, "temperature"),
        ({"algorithm": "grpo", "samples_per_prompt": 1}, "samples_per_prompt"),
        ({"dtype": "bfloat16"}, "float32"),
        ({"max_prompt_tokens": 2}, "max_prompt_tokens"),
        ({"micro_batch_tokens": 5}, "micro_batch_tokens"),
        ({"value_warmup_steps": 4}, "value_warmup_steps"),
        ({"value_model": None}, "value_model"),
        ({"algorithm": "grpo", "value_model": "scorer"}, "value_model to null"),
        ({"algorithm": "rloo", "value_warmup_steps": 1}, "value_warmup_steps to 0"),
        ({"reward_model_weight": 0.5}, "reward_model: name one"),
        ({"gpus_per_actor": 1.0}, "rollout_actors"),
    ],
)
def test_settings_that_make_no_sense_are_refused_by_name(inputs, settings, message):
    with pytest.raises(PosttrainError, match=message):
        run(inputs, "refused", **settings)


def test_a_negative_kl_coefficient_is_no_setting():
    with pytest.raises(ValueError, match="beta"):
        RLVR.model_validate(TINY | {"beta": -0.05})


def test_actors_beside_a_gpu_do_not_draw_on_its_cpu_unasked():
    asked = TINY | {"rollout_actors": 1, "staleness": 1}
    with pytest.raises(PosttrainError, match="gpus_per_actor"):
        rlvr.check_device(RLVR.model_validate(asked), "cuda")
    rlvr.check_device(RLVR.model_validate(asked), "cpu")
    rlvr.check_device(RLVR.model_validate(asked | {"gpus_per_actor": 0.5}), "cuda")
    with pytest.raises(PosttrainError, match="gpus_per_actor is 0.5, but RLVR runs on a CPU"):
        rlvr.check_device(RLVR.model_validate(asked | {"gpus_per_actor": 0.5}), "cpu")


@pytest.fixture
def windowed(inputs, monkeypatch) -> list[str]:
    """A policy that attends to 4 positions, and in vLLM's place a stand-in; the prompts it has been asked."""
    tokenizer, asked = tiny_tokenizer(), []
    shape = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "max_position_embeddings": 32}
    heads = {"num_attention_heads": 2, "num_key_value_heads": 2, "sliding_window": 4}
    ids = {"vocab_size": len(tokenizer), "bos_token_id": None, "eos_token_id": 1, "pad_token_id": 0}
    save_model(MistralForCausalLM(MistralConfig(**shape, **heads, **ids)).eval(), tokenizer, inputs / "windowed")

    class StandIn:
        context_length = 32

        def update_weights(self, tensors, version):
            self.version = version

        def generate(self, requests):
            for request in requests:
                asked.append(request.prompt_id)
                yield Sample(request, (5, 1), (-1.0, -1.0), "stop", self.version)

        def close(self):
            pass

    monkeypatch.setattr(rlvr, "build_engine", lambda *_, **__: StandIn())
    return asked


WINDOWED: dict[str, Any] = {"model": "windowed", "algorithm": "grpo", "engine": "vllm", "steps": 1}


def test_vllm_draws_and_answers_alone_what_the_local_engine_cannot(inputs, windowed):
    heldout = {"heldout": "heldout.jsonl", "heldout_every": 1}
    output, result = run(inputs, "windowed-run", **WINDOWED, **heldout)
    assert len(windowed) == 32 + 2 * len(WORDS), "a step's samples, and a look before it and behind"
    assert result["metrics"]["heldout"] == 0.0
    with pytest.raises(PosttrainError, match=r"attends to 4 positions only.* use vllm, with rollout_actors: 0; or"):
        run(inputs, "windowed-actors", **WINDOWED, **heldout, rollout_actors=1)


def test_an_unknown_verifier_is_refused_before_anything_runs(inputs):
    write_rows(inputs / "unknown.jsonl", [prompt_row(0, "red", "substrin")])
    progress = Quiet()
    with pytest.raises(PosttrainError, match="substring"):
        run(inputs, "unknown", progress, data="unknown.jsonl")
    assert progress.started is None


def test_programs_are_refused_without_namespaces_unless_the_recipe_allows_it(inputs, monkeypatch):
    monkeypatch.setattr("posttrain.sandbox.jails._BEGIN", DENYING)
    row = prompt_row(0, "red", "code")
    write_rows(inputs / "code.jsonl", [replace(row, ground_truth='["assert f() == 1"]')])
    progress = Quiet()
    with pytest.raises(PosttrainError, match="allow_degraded_sandbox"):
        run(inputs, "code", progress, data="code.jsonl")
    assert progress.started is None
    run(inputs, "code", progress, data="code.jsonl", steps=1, allow_degraded_sandbox=True)
    assert any("degraded sandbox" in note for note in progress.notes)


def test_labels_that_cannot_be_read_train_nothing_and_are_reported(inputs):
    unreadable = replace(prompt_row(99, "cat"), ground_truth="[]")
    write_rows(inputs / "some.jsonl", [prompt_row(0, "red"), unreadable])
    progress = Quiet()
    output, result = run(inputs, "some", progress, data="some.jsonl", steps=2)
    assert (
        result["metrics"]["verifier_errors"] == 2 * 32 / 2 and [row["error_rate"] for row in curve(output)] == [0.5] * 2
    )
    tokens = sum(row["response_tokens"] for row in curve(output)) * 32 * 2
    assert 0.3 * tokens < result["metrics"]["trained_tokens"] < 0.7 * tokens
    assert "cannot be judged" in progress.notes[0]
    assert [note.partition(",")[0] for note in progress.notes[1:]] == [
        f"step {step}: 16 of 32 verdicts are errors" for step in (1, 2)
    ]
    assert result["metrics"]["verifier_alarms"] == 2
    write_rows(inputs / "none.jsonl", [unreadable])
    with pytest.raises(PosttrainError, match="not one of 32 answers"):
        run(inputs, "none", data="none.jsonl")


def test_a_value_model_with_other_token_ids_is_refused(inputs):
    tokenizer = load_tokenizer(inputs / "scorer")
    tokenizer.add_tokens(["other"])
    shutil.copytree(inputs / "scorer", inputs / "foreign", dirs_exist_ok=True)
    tokenizer.save_pretrained(inputs / "foreign")
    with pytest.raises(PosttrainError, match="token ids"):
        run(inputs, "foreign-run", value_model="foreign")


def test_activations_made_again_give_the_same_bits(inputs):
    kept, _ = run(inputs, "kept", steps=2)
    again, _ = run(inputs, "again", steps=2, activation_checkpointing=True)
    assert same(kept, again)
