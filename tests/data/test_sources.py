import json
from pathlib import Path

import pytest

from posttrain.data.sources import HubSource, LocalSource, find_source
from posttrain.errors import PosttrainError

ROW = json.dumps({"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}) + "\n"


def test_a_mirrored_hub_id_is_read_from_its_file_and_keeps_its_name(tmp_path):
    (tmp_path / "sample.jsonl").write_text(ROW * 3)
    found = find_source("owner/name", hub_mirror={"owner/name": str(tmp_path / "sample.jsonl")})
    rows = list(found.rows("conversation", rejects=None, limit=2))
    assert len(rows) == 2 and {row.source for row in rows} == {"owner/name"}
    assert set(found.provenance) == {"file", "sha256"} and str(tmp_path) not in str(found.provenance)


@pytest.mark.parametrize("name", ["data.jsonl", "train.jsonl", "train.json"])
def test_a_folder_stands_for_its_data_or_split(name, tmp_path):
    (tmp_path / name).write_text(f"[{ROW}]" if name.endswith(".json") else ROW)
    file = tmp_path / name
    for reference in (tmp_path, str(tmp_path)):
        assert find_source(reference, hub_mirror={}) == LocalSource(f"{tmp_path.name}/{name}", file, str(file))
    assert find_source(tmp_path, hub_mirror={}, name="stage:x") == LocalSource("stage:x", file, f"stage:x ({name})")


def test_a_file_is_known_by_its_name_wherever_it_lies(tmp_path):
    for folder in ("here", "there"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "rows.jsonl").write_text(ROW)
        assert find_source(str(tmp_path / folder / "rows.jsonl"), hub_mirror={}).name == "rows.jsonl"


@pytest.mark.parametrize("reference", ["./none.jsonl", "none.jsonl", "/none/at/all", "a/b/c.jsonl"])
def test_a_path_that_is_not_there_is_named(reference):
    with pytest.raises(PosttrainError, match=Path(reference).name):
        find_source(reference, hub_mirror={})


def test_a_folder_without_the_split_is_an_error(tmp_path):
    with pytest.raises(PosttrainError, match="neither data nor validation"):
        find_source(tmp_path, hub_mirror={}, split="validation")


def test_a_hub_that_cannot_be_asked_is_an_error_with_a_way_out(monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(PosttrainError, match="owner/name.*hub_mirror"):
        find_source("owner/name", hub_mirror={})


def test_hub_rows_are_read_at_one_commit_under_the_same_rules(monkeypatch):
    asked = {}

    def load_dataset(name, **settings):
        asked.update(settings, name=name)
        return iter([json.loads(ROW)] * 5)

    monkeypatch.setattr("datasets.load_dataset", load_dataset)
    source = HubSource("owner/name", "train", "0123456789abcdef")
    assert len(list(source.rows("conversation", rejects=None, limit=3))) == 3
    assert asked == {"name": "owner/name", "revision": "0123456789abcdef", "split": "train", "streaming": True}
