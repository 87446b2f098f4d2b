"""A trained model's folder made ready for others: what loads it, and nothing of how it was made."""

import json
import shutil
from pathlib import Path
from typing import Literal

import torch
from safetensors import safe_open
from safetensors.torch import save_file

from posttrain.artifacts.atomic import write_json
from posttrain.errors import PosttrainError

NEEDED = ("config.json", "tokenizer.json", "tokenizer_config.json")
COPIED = (*NEEDED, "generation_config.json", "chat_template.jinja", "special_tokens_map.json")
INDEX = "model.safetensors.index.json"


def release(model: Path, out: Path, dtype: Literal["float32", "bfloat16"] = "float32") -> list[Path]:
    """Writes weights, configuration, tokenizer and template of ``model`` into the empty or absent folder ``out``.

    ``dtype``: bfloat16 halves the files, and greedy answers may then differ. Raises PosttrainError for a folder that is
    no model, and for an ``out`` that is not empty.
    """
    weights = sorted(model.glob("*.safetensors"))
    missing = [name for name in NEEDED if not (model / name).is_file()]
    if missing or not weights:
        raise PosttrainError(f"{model}: not a model's folder; it lacks {', '.join(missing) or 'safetensors'}.")
    if out.exists() and any(out.iterdir()):
        raise PosttrainError(f"{out} is not empty. Choose another folder: --out DIR.")
    out.mkdir(parents=True, exist_ok=True)
    for name in COPIED:
        if (model / name).is_file():
            shutil.copyfile(model / name, out / name)
    size = 0
    for file in weights:
        if dtype == "float32":
            shutil.copyfile(file, out / file.name)
        else:
            with safe_open(file, "pt") as tensors:
                kept = {name: tensors.get_tensor(name).to(torch.bfloat16) for name in tensors.keys()}  # noqa: SIM118
            save_file(kept, out / file.name, metadata={"format": "pt"})
            size += sum(tensor.nbytes for tensor in kept.values())
    if (model / INDEX).is_file():
        index = json.loads((model / INDEX).read_text(encoding="utf-8"))
        if size:
            index["metadata"] = index.get("metadata", {}) | {"total_size": size}
        write_json(out / INDEX, index)
    config = json.loads((out / "config.json").read_text(encoding="utf-8"))
    config.pop("torch_dtype", None)
    write_json(out / "config.json", config | {"dtype": dtype})
    return sorted(out.iterdir())
