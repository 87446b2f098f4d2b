"""The convert stage makes an artifact that other stages can load."""

from posttrain.models.load import load_policy, load_tokenizer
from posttrain.recipe.schema import Convert
from posttrain.stages import convert
from posttrain.stages.base import StageContext


class Quiet:
    def start(self, description, total, unit, done=0): ...

    def advance(self, amount=1, **shown): ...

    def note(self, message): ...


def test_a_llama2c_file_behind_a_mirrored_hub_id_becomes_a_model_folder(data_dir, tmp_path):
    mirror = {"karpathy/tinyllamas/stories260K": str(data_dir / "stories260K")}
    settings = Convert(
        kind="convert",
        format="llama2c",
        model="karpathy/tinyllamas/stories260K",
        weights="stories260K.bin",
        tokenizer="tok512.bin",
    )
    convert.run(StageContext("base", settings, {}, tmp_path, tmp_path, Quiet(), 1, "cpu", mirror))
    assert sum(p.numel() for p in load_policy(tmp_path).parameters()) == 260_032
    assert len(load_tokenizer(tmp_path)) == 512
