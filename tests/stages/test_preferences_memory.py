"""The preference stage holds no texts in memory: a set may be larger than the machine."""

import subprocess
import sys

STAGE = '''
import json, resource, sys
from pathlib import Path
from posttrain.inference.protocols import ChatAnswer
from posttrain.recipe.schema import Preferences
from posttrain.stages import preferences
from posttrain.stages.base import StageContext

class Instant:
    """1,400 letters to a question; rationales of 200 letters each to a judge's."""
    def __init__(self, context, endpoint):
        self.name = endpoint.model
    def stream(self, requests):
        return map(self.answer, requests)
    ask = stream
    def answer(self, request):
        text = f"{self.name} {request.id} {request.sample_index} " * 110
        if request.json_schema is not None:
            entries = request.json_schema["properties"].items()
            told = [{"rationale": text[:200], "rating": i} for i in range(1, 6)]
            text = json.dumps({key: {a: told[i] for a in one["required"]} for i, (key, one) in enumerate(entries)})
        return ChatAnswer(request, text, "stop", {"completion_tokens": 350})
    def costs(self):
        return {}
    def close(self):
        pass

class Quiet:
    start = advance = note = lambda *_, **__: None

class LocalContext(StageContext):
    def training_data(self, reference):
        return Path(reference)

preferences.Remote, preferences.open_model = Instant, lambda context, model, *_, **__: Instant(context, model)

def megabytes(folder, count):
    """The most that was ever in memory, after a stage of ``count`` prompts."""
    folder.mkdir()
    with open(folder / "prompts.jsonl", "w") as file:
        for i in range(count):
            turns = [{"role": "user", "content": f"say {i} " * 100}, {"role": "assistant", "content": "ok"}]
            print(json.dumps({"id": f"q{i}", "messages": turns}), file=file)
    endpoint = {"base_url": "http://127.0.0.1:9/v1"}
    settings = Preferences.model_validate({
        "kind": "preferences", "responses": 4, "on_policy": 1, "max_prompt_tokens": 2000,
        "prompts": {"parts": [{"data": str(folder / "prompts.jsonl"), "rows": "conversation"}]},
        "policy": endpoint | {"model": "policy"}, "pool": [{"endpoint": endpoint | {"model": m}} for m in "abcd"],
        "judge": {"model": endpoint | {"model": "judge"}},
    })
    context = LocalContext("p", settings, {}, folder / "out", folder / "kept", Quiet(), 0, "cpu", {})
    assert preferences.run(context)["rows"]["prompts"] == count
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024

few, many = int(sys.argv[2]), int(sys.argv[3])
early = megabytes(Path(sys.argv[1]) / "few", few)
print((megabytes(Path(sys.argv[1]) / "many", many) - early) / (many - few) * 1000)
'''


def test_a_prompt_more_takes_its_id_and_places_in_memory_not_its_texts(tmp_path):
    """Held, texts and ratings take 25 kB a prompt."""
    command = [sys.executable, "-c", STAGE, str(tmp_path), "300", "1300"]
    kilobytes = float(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)
    assert kilobytes < 6.0
