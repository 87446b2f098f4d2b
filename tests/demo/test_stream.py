"""Answers that grow are those of one long request, at temperature 0, and end where they should."""

import socket

import pytest

from posttrain.cli.demo import first_and_furthest, models_of, talker
from posttrain.cli.main import main
from posttrain.data.chat import prepare_tokenizer
from posttrain.demo.app import _plain, _shown, answers
from posttrain.demo.stream import STRETCH, grow
from posttrain.inference.protocols import SampleRequest, SamplingParameters
from posttrain.models.load import fit_vocabulary, load_policy, load_tokenizer, save_model
from posttrain.nano import BASE_MODEL
from tests.report.made_up import artifact

QUESTION = {"role": "user", "content": "There are 16 rings with Ben. Ben buys 38 more. How many rings does Ben have?"}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run whose SFT and DPO stages both hold the shipped model."""
    home = tmp_path_factory.mktemp("runs") / "made-up"
    tokenizer, model = prepare_tokenizer(load_tokenizer(BASE_MODEL), "tulu"), load_policy(BASE_MODEL)
    fit_vocabulary(model, tokenizer)
    for number, stage in enumerate(("sft", "dpo")):
        save_model(model, tokenizer, artifact(home, stage, stage, started=f"2026-01-0{number + 1}"))
    return home


def test_growing_gives_the_greedy_answer(run):
    stages = models_of(run)
    assert list(stages) == ["sft", "dpo"]
    assert first_and_furthest(stages) == ("sft", "dpo") and first_and_furthest({"dpo": stages["dpo"]}) == ("dpo", "dpo")
    model = talker(stages["sft"])
    prompt = tuple(model.render([QUESTION]))
    sampling = SamplingParameters(temperature=0.0, max_tokens=3 * STRETCH, stop_token_ids=model.stop)
    (whole,) = model.sampler.generate([SampleRequest("whole", 0, prompt, sampling)])
    grown = list(grow(model.sampler, prompt, sampling, model.decode, "turn"))
    assert grown[-1] == model.decode(whole.token_ids)
    assert [len(text) for text in grown] == sorted(len(text) for text in grown)


def test_a_full_context_is_told_and_does_not_crash(run):
    model = talker(models_of(run)["sft"])
    long = {"role": "user", "content": "word " * 3 * model.sampler.context_length}
    sampling = {"temperature": 0.0, "top_p": 1.0, "max_tokens": 8, "seed": 0}
    (last,) = list(answers([model], [[long]], sampling, ""))[-1]
    assert "longer than this model's" in last[-1]["content"]


def test_a_port_in_use_and_one_that_is_none_are_told(run, capsys):
    pytest.importorskip("gradio", reason="the extra `demo`")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert main(["demo", str(run), "--no-browser", "--port", str(port)]) == 2
    assert f"port {port}: the demo cannot be served there" in capsys.readouterr().err
    for port in ("99999", "0", "-1"):
        assert main(["demo", str(run), "--no-browser", f"--port={port}"]) == 2
        assert f"--port {port}: a port is a number from 1 to 65535." in capsys.readouterr().err


def test_the_two_sides_are_answered_in_turn_with_the_system_message(run):
    model = talker(models_of(run)["dpo"])
    sampling = {"temperature": 0.0, "top_p": 1.0, "max_tokens": 8, "seed": 0}
    made = list(answers([model, model], [[QUESTION], [QUESTION]], sampling, "Be brief."))
    assert len(made[0][0]) == 2 and len(made[0][1]) == 1
    assert made[-1][0] == made[-1][1]


def test_text_that_looks_like_markup_is_shown_and_kept_as_text():
    history = [{"role": "assistant", "content": '<script>1 &amp; 2</script> "quoted"'}]
    shown = _shown(history)
    assert "<" not in shown[0]["content"]
    assert _plain(shown) == history
    assert _plain([{"role": "assistant", "content": [{"type": "text", "text": shown[0]["content"]}]}]) == history
