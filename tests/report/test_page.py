"""The page of a run: what it holds, and that no text in it is markup."""

import base64
import hashlib
import html
import io
import itertools
import json
import re
import shutil
import socket
import time
import zlib
from html.parser import HTMLParser

import pytest
import rich.console

from posttrain.artifacts.atomic import write_json
from posttrain.artifacts.jsonl import write_jsonl
from posttrain.artifacts.lock import Lock
from posttrain.cli.demo import models_of
from posttrain.cli.export import finished
from posttrain.cli.main import main
from posttrain.errors import PosttrainError
from posttrain.report.card import model_card
from posttrain.report.curves import FIRST, POINTS, Curve, curves
from posttrain.report.graph import BOX, graph
from posttrain.report.instances import BLOCK, Instances
from posttrain.report.lineage import decontamination
from posttrain.report.markdown import render
from posttrain.report.matches import overlaps
from posttrain.report.page import write_page
from posttrain.report.watch import Watched, look, sparkline, table
from tests.report.made_up import HOSTILE, SHARED, artifact, made_up_run


class Elements(HTMLParser):
    def __init__(self, page):
        super().__init__()
        self.started, self.text, self.within = [], {}, []
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.started.append((tag, dict(attrs)))

    def handle_data(self, data):
        tag = self.started[-1][0] if self.started else ""
        self.text.setdefault(tag, []).append(data)


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    return write_page(made_up_run(tmp_path_factory.mktemp("runs"))).read_text(encoding="utf-8")


def test_no_text_of_a_run_becomes_an_element(page):
    found = Elements(page)
    assert HOSTILE not in page
    assert not [attrs for tag, attrs in found.started if tag == "img" or any(name.startswith("on") for name in attrs)]
    scripts = [attrs for tag, attrs in found.started if tag == "script"]
    assert [attrs.get("type") for attrs in scripts] == ["application/json", None, "application/octet-stream"]
    assert any(HOSTILE[:8] in text for text in found.text["pre"])


def test_only_the_pages_own_script_may_run_and_nothing_is_fetched(page):
    (script,) = re.findall(r"<script>(.*?)</script>", page, re.S)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    (policy,) = [a["content"] for tag, a in Elements(page).started if a.get("http-equiv") == "Content-Security-Policy"]
    assert "default-src 'none'" in policy and f"script-src 'sha256-{digest}'" in policy
    outside = re.findall(
        r"(?:src|href|url\()=?[\"']?(?!#|data:)(\w+:|//)[^\s]*", re.sub(r"<script.*?</script>", "", page, flags=re.S)
    )
    assert not outside


def test_every_answer_is_in_the_page_once_and_in_order(tmp_path):
    count = BLOCK + 7
    page = write_page(made_up_run(tmp_path, count)).read_text(encoding="utf-8")
    blocks = [json.loads(zlib.decompress(base64.b64decode(b))) for b in re.findall(r'class="block">([^<]*)<', page)]
    assert [len(block) for block in blocks] == [BLOCK, 7]
    listed = [entry for block in blocks for entry in block]
    assert [entry[0] for entry in listed] == [str(number) for number in range(count)]
    assert listed[5][2]["DPO"][1].startswith("DPO says 5 <script>")
    (listing,) = re.findall(r'id="index">([^<]*)<', page)
    index = json.loads(listing)
    (task,) = index["tasks"]
    assert task["outcomes"]["SFT"] == ("ccww" * count)[:count]
    assert (index["compare"], task["n"], task["first"]) == ({"development": ["SFT", "DPO"]}, count, 0)


def test_the_page_shows_scores_differences_data_matches_pairs_and_lineage(page):
    text = re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", re.sub(r"<(script|style).*?</\1>", "", page, flags=re.S)))
    assert "50.0 [35.2, 64.8]" in text  # Wilson's interval of 20 of 40
    assert "+25.0 [" in text
    assert "looked at once" in text
    assert "contaminated 1" in text and "MIT 99" in text
    assert f"<mark>{SHARED}</mark>" in page
    assert page.count(f"<mark>{SHARED}</mark>") == 2  # in the training row and in the item
    assert "rated 1 · stage:sft" in text
    assert "some/model" in text and "51,234" in text


def test_what_limits_and_mars_the_scores_is_told_as_in_the_markdown(tmp_path):
    run = made_up_run(tmp_path)
    report = json.loads((run / "report.json").read_text())
    suite = report["suites"]["development"]
    suite["limits"] = {"instances": 20, "prompt_tokens": None}
    (pair,) = suite["compare"]
    pair["missing"] = ["sums@test"]
    pair["per_task"]["nano_problems@nano"] |= {"same_protocol": False, "left_out": 2}
    (run / "report.json").write_text(json.dumps(report))
    page = html.unescape(re.sub(r"<[^>]+>", "", write_page(run).read_text(encoding="utf-8")))
    for line in render(report).splitlines():
        if line.startswith(("- Limits: instances 20.", "- DPO − SFT leaves out", "- † ")):
            assert line.removeprefix("- ") in page
            page = page.replace(line.removeprefix("- "), "told", 1)
    assert page.count("told") == 4
    assert "average †" in page and "nano_problems@nano †" in page


@pytest.mark.parametrize("overlapping", [0, 1])
def test_what_the_data_was_not_checked_against_is_told_with_overlaps_and_without(tmp_path, overlapping):
    run = made_up_run(tmp_path)
    path = run / "mixture" / "key-of-mixture" / "decontamination.json"
    found = json.loads(path.read_text()) | {"not_run": ["development/gsm8k@paper"]}
    found["sources"][0]["evaluations"][0]["overlapping"] = overlapping
    path.write_text(json.dumps(found))
    report = json.loads((run / "report.json").read_text())
    report["decontamination"]["mixture"] = decontamination(path.parent)
    (run / "report.json").write_text(json.dumps(report))
    page, told = (
        write_page(run).read_text(encoding="utf-8"),
        "Not checked, for want of their data: development/gsm8k@paper.",
    )
    assert told in page and 'href="#contamination"' in page
    card = model_card("lamp-1", artifact(run, "sft2", "sft", inputs=("mixture",), seed=1), "Tests.")
    assert told in card and ("no overlap with what it was checked against" in card) == (not overlapping)


def test_the_card_names_a_mixture_that_was_not_checked(tmp_path):
    run = made_up_run(tmp_path)
    other = artifact(run, "other_mixture", "mixture")
    write_json(other / "mixture.json", {"sources": [{"source": "some/rows", "used": 3}]})
    card = model_card("lamp-1", artifact(run, "sft2", "sft", inputs=("mixture", "other_mixture"), seed=1), "Tests.")
    assert "- other_mixture: not checked against any evaluation." in card


def test_a_match_of_an_item_that_the_run_did_not_ask_says_so(tmp_path):
    run = made_up_run(tmp_path)
    (found,) = overlaps("mixture", run / "mixture" / "key-of-mixture", {})
    assert found.matches[0].item is None


def test_matches_are_shown_whatever_became_of_the_files_of_rows(tmp_path):
    run = made_up_run(tmp_path)
    (run / "world" / "key-of-world" / "sft.jsonl").write_text('{"id": "t1", "conversations": [\n')
    assert write_page(run).read_text(encoding="utf-8").count(f"<mark>{SHARED}</mark>") == 2


def test_a_folder_without_a_report_is_named(tmp_path):
    with pytest.raises(PosttrainError, match="no such folder"):
        write_page(tmp_path / "absent")
    with pytest.raises(PosttrainError, match="no report yet"):
        write_page(tmp_path)


def test_a_path_reads_the_points_a_few_times_however_many_are_drawn():
    class Counted(tuple):
        reads = 0

        def __iter__(self):
            Counted.reads += 1
            return super().__iter__()

    curve = Curve("loss", Counted((float(n), float(n % 7)) for n in range(POINTS)))
    path = curve.path
    assert path.startswith("M0.0,96.0L") and path.count("L") == POINTS - 1
    assert Counted.reads <= 3  # the least, the greatest, each point drawn


def test_a_long_curve_keeps_its_ends_and_every_spike(tmp_path):
    metrics = tmp_path / "metrics.jsonl"
    steps = range(1, 50 * POINTS + 1)
    spikes = {3: -7.0, 5000: 500.0, 50 * POINTS - 1: 40.0}
    write_jsonl(metrics, [{"step": n, "loss": spikes.get(n, float(n % 2)), "nested": {"x": n}} for n in steps])
    loss, nested = curves(metrics)
    assert (loss.name, nested.name) == ("loss", "nested.x")
    assert (loss.first, loss.last, loss.low, loss.high) == (1.0, 0.0, -7.0, 500.0)
    assert set(spikes.items()) < set(loss.drawn) and len(loss.drawn) <= POINTS + 2
    assert (nested.drawn[0], nested.drawn[-1]) == ((1, 1.0), (50 * POINTS, 50.0 * POINTS))
    assert list(nested.drawn) == sorted(nested.drawn)


def test_a_torn_last_line_of_a_running_stage_is_left_out(tmp_path):
    metrics = tmp_path / "metrics.jsonl"
    metrics.write_text('{"step":1,"loss":2.0}\n{"step":2,"loss":1.0}\n{"step":3,"lo')
    assert curves(metrics)[0].points == ((1, 2.0), (2, 1.0))


def test_a_stage_stands_below_all_it_was_made_from():
    made = graph({"a": "mixture", "b": "sft", "c": "dpo"}, {"b": ["a"], "c": ["b", "a"]}, {"b": ["nano"]})
    assert len(made.edges) == 3  # a → c is implied by a → b → c
    assert all(edge.upper.y < edge.lower.y for edge in made.edges)
    boxes = {(box.x, box.y) for box in made.boxes}
    assert len(boxes) == len(made.boxes) == 4


def test_no_edge_crosses_a_box():
    """`early` is used five rows below where it is made: its edge goes round what stands between."""
    chain = [f"step{number}" for number in range(5)]
    inputs = {b: [a] for a, b in itertools.pairwise(["early", *chain])} | {
        "other": ["early"],
        "end": ["other", chain[-1]],
    }
    made = graph(dict.fromkeys(["early", "other", *chain, "end"], "sft"), inputs, {})
    for edge in made.edges:
        for x, y in upright(edge.path):
            assert not any(box.x <= x <= box.x + BOX and box.y == y for box in made.boxes)
    assert sum(bool(upright(edge.path)) for edge in made.edges) == 1


def upright(path: str) -> list[tuple[float, float]]:
    """(x, y) where a path passes a row: the ends of its curves that an upright stretch follows."""
    return [(float(x), float(y)) for x, y in re.findall(r" ([\d.]+) ([\d.]+)V", path)]


def test_watch_tells_done_running_and_stopped_stages_apart(tmp_path):
    """Running is what a living process holds: a stage whose builder was killed has all of its files, too."""
    run = made_up_run(tmp_path)
    for stage in ("dpo_again", "rlvr"):
        (run / stage / ".building-k").mkdir(parents=True)
        steps = [{"step": n, "loss": 1.0 / n} for n in (1, 2, 3)]
        write_jsonl(run / stage / ".checkpoints-k" / "metrics.jsonl", steps)
    (run / "rlvr" / ".lock-k").write_text(json.dumps({"host": socket.gethostname(), "pid": 2**22 + 1, "born": 1}))
    with Lock(run / "dpo_again" / ".lock-k", "dpo_again k"):
        found = {stage.name: stage for stage in look(run)}
    assert (found["sft"].state, found["sft"].step, found["sft"].seconds) == ("done", 50, 2.5)
    assert (found["dpo_again"].state, found["dpo_again"].step) == ("running", 3)
    assert (found["rlvr"].state, found["rlvr"].seconds) == ("stopped", None)
    assert sparkline(found["rlvr"].curves[0]) == "█▃▁"


def test_stages_that_a_sibling_made_are_found_behind_the_report(tmp_path):
    """A recipe that shares its stages has a report and hardly a folder of its own; what it made itself comes first."""
    made = made_up_run(tmp_path)
    for stage in ("sft", "dpo"):
        (made / stage / f"key-of-{stage}" / "chat_template.jinja").touch()
    sibling = tmp_path / "sibling"
    own = artifact(sibling, "dpo", "dpo", started="2026-02-01")
    (own / "chat_template.jinja").touch()
    shutil.copy(made / "report.json", sibling)
    assert [stage.name for stage in look(sibling)][-1] == "dpo"
    assert {stage.name for stage in look(sibling)} == {stage.name for stage in look(made)}
    assert models_of(sibling) == {"sft": made / "sft" / "key-of-sft", "dpo": own}
    assert finished(sibling / "sft") == made / "sft" / "key-of-sft" and finished(sibling / "dpo") == own
    with pytest.raises(PosttrainError, match="no finished stage"):
        finished(sibling / "rlvr")
    shutil.rmtree(made)
    assert [stage.name for stage in look(sibling)] == ["dpo"]


@pytest.mark.parametrize("damage", ['{"stages": {', "[]", "{}", "\xff"])
def test_a_damaged_report_is_told_with_the_way_out(tmp_path, capsys, damage):
    (tmp_path / "report.json").write_text(damage, encoding="latin-1")
    for option in ("--open", "--json"):
        assert main(["report", str(tmp_path), option]) == 2
        told = capsys.readouterr()
        assert told.out == "" and f"{tmp_path / 'report.json'}: damaged" in told.err and "posttrain run" in told.err


@pytest.mark.parametrize("height", [6, 9, 12, 100])
def test_what_runs_is_seen_however_low_the_terminal_is(height):
    curve = Curve("loss", ((1, 2.0), (2, 1.0)))
    done = [Watched(f"done{number}", "done", 61.0, 2, (curve,)) for number in range(10)]
    console = rich.console.Console(width=80, height=height, record=True, file=io.StringIO())
    console.print(table([*done, Watched("now", "running", 5.0, 2, (curve,))], height))
    lines = console.export_text().splitlines()
    assert len(lines) <= max(height - 1, 3) and lines[-1].startswith("now") and "loss █▁ 1" in lines[-1]
    assert ("before" in lines[1]) == (height < 13)
    assert height < 13 or len(lines) == 12


@pytest.mark.parametrize("width", [60, 80, 100, 120])
def test_stage_state_time_and_step_are_whole_however_long_the_figures_are(width):
    lost = tuple(Curve(name, ((1, 2.0), (1000, 1.0))) for name in FIRST[:5])
    stages = [Watched("preference_prompts", state, 3661.0, 1000, lost) for state in ("done", "running")]
    console = rich.console.Console(width=width, record=True, file=io.StringIO())
    console.print(table(stages))
    lines = [line.split() for line in console.export_text().splitlines()]
    assert lines[0] == ["stage", "state", "time", "step", "figures"]
    for line, state in ((lines[1], "done"), (lines[2], "running")):
        assert line[:5] == ["preference_prompts", state, "1:01:01", "1000", "loss"]


def test_watch_ends_with_ctrl_c_in_silence_and_refuses_no_pause(tmp_path, monkeypatch, capsys):
    def interrupted(seconds):
        raise KeyboardInterrupt

    run = made_up_run(tmp_path)
    for pause in ("-1", "0", "nan", "inf"):
        assert main(["watch", str(run), f"--every={pause}"]) == 2
        assert "between 0.1 and 3600 seconds" in capsys.readouterr().err
    monkeypatch.setattr(time, "sleep", interrupted)
    monkeypatch.setattr(rich.console.Console, "is_terminal", True)
    assert main(["watch", str(run)]) == 0
    told = capsys.readouterr()
    assert "development" in told.out and told.err == ""


def test_several_answers_to_one_question_are_all_kept(tmp_path):
    records = tmp_path / "records.jsonl"
    about = {"task": "t", "prompt": "p", "score": 1.0, "detail": "", "finish_reason": "stop", "id": "q"}
    write_jsonl(
        records, [about | {"response": str(n), "outcome": o} for n, o in enumerate(("correct", "wrong", "left out"))]
    )
    found = Instances([("development/t", "q")])
    found.add("development", {"A": records})
    ((task,), (block,)) = found.index, found.blocks
    listed = json.loads(zlib.decompress(base64.b64decode(block)))
    assert [entry[0] for entry in listed] == ["q", "q #2", "q #3"]
    assert (task["n"], task["outcomes"]) == (3, {"A": "cwl"})
    assert found.prompts == {("development/t", "q"): "p"}
