"""Two local Ray workers find what one process finds."""

import json
from fractions import Fraction

import pytest

from posttrain.data.content import user_turns
from posttrain.data.readers import read_rows
from posttrain.decontamination.index import EvaluationIndex, EvaluationItem
from posttrain.decontamination.profiles import PROFILES
from posttrain.decontamination.ray_data import match_files
from posttrain.decontamination.report import find_overlaps, report_on

ray = pytest.importorskip("ray")


@pytest.fixture
def cluster(tmp_path_factory):
    ray.init(
        num_cpus=2,
        include_dashboard=False,
        configure_logging=False,
        _temp_dir=str(tmp_path_factory.getbasetemp() / "r"),
    )
    yield
    ray.shutdown()


def prompt(n):
    return " ".join(f"w{n}x{place}" for place in range(20))


@pytest.mark.long
def test_two_workers_find_what_one_process_finds(cluster, tmp_path):
    items = [EvaluationItem(str(n), (prompt(n),)) for n in range(50)]
    index = EvaluationIndex({"a": items[:25], "b": items[25:]}, PROFILES["strict"])
    files, rows = [], []
    for part in range(5):
        files.append(tmp_path / f"part-{part}.jsonl")
        lines = [
            {"id": f"{part}-{n}", "prompt": f"{prompt(n * 7 + part)} and more", "response": "r"}
            for n in range(30 + part)
        ]
        bad = ["{"] if part == 3 else []
        files[-1].write_text("\n".join([*bad, *map(json.dumps, lines)]))
        rows += list(read_rows(files[-1], "conversation", rejected=tmp_path / "local.jsonl"))
    wanted = find_overlaps(((row.id, user_turns(row)) for row in rows), index)
    thresholds = {"item_threshold": wanted.item_threshold, "set_threshold": 0.02}
    batches = match_files(
        index, files, "conversation", Fraction(str(wanted.item_threshold)), workers=2, rejected=tmp_path / "rejected"
    )
    assert report_on(index, batches, **thresholds) == wanted
    assert wanted.rows == len(rows) == 160 and wanted.evaluations[0].overlapping > 5
    assert [path.name for path in (tmp_path / "rejected").iterdir()] == ["3.jsonl"]
