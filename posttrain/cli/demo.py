"""`posttrain demo`."""

import argparse
from collections.abc import Mapping
from pathlib import Path


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run", metavar="RUN_FOLDER", help="such as runs/quickstart")
    parser.add_argument("--port", type=int, default=7860)
    parser.add_argument("--host", default="127.0.0.1", help="default: this machine alone; 0.0.0.0 lets others in")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--no-browser", action="store_true")


def execute(args: argparse.Namespace) -> int:
    from posttrain.demo.app import page, serve
    from posttrain.errors import PosttrainError

    if not 0 < args.port < 1 << 16:
        raise PosttrainError(f"--port {args.port}: a port is a number from 1 to {(1 << 16) - 1}.")
    stages = models_of(Path(args.run))
    if not stages:
        raise PosttrainError(f"{args.run}: no chat model is finished here. A run's folder is runs/RECIPE.")
    shown = page(
        Path(args.run).resolve().name,
        list(stages),
        lambda stage: talker(stages[stage], args.device),
        first_and_furthest(stages),
    )
    try:
        serve(shown, server_name=args.host, server_port=args.port, inbrowser=not args.no_browser)
    except OSError as reason:
        fault = f"{args.host}, port {args.port}: the demo cannot be served there ({reason})."
        raise PosttrainError(f"{fault} Is it in use? Name another with --port.") from reason
    return 0


def models_of(run: Path) -> dict[str, Path]:
    """Stage → folder of every finished model of a run that has a chat template, in the order of their making."""
    from posttrain.errors import PosttrainError
    from posttrain.report.published import artifacts_of

    if not run.is_dir():
        raise PosttrainError(f"{run}: no such folder. A run's folder is runs/<recipe name>.")
    return {
        stage: folder
        for stage, (folder, manifest) in artifacts_of(run).items()
        if manifest["kind"] in ("sft", "dpo", "rlvr") and (folder / "chat_template.jinja").is_file()
    }


def first_and_furthest(stages: Mapping[str, Path]) -> tuple[str, str]:
    """The first model of the earliest kind that there is, and the first of the latest."""
    from posttrain.artifacts.manifest import read_manifest

    kinds = {stage: read_manifest(folder)["kind"] for stage, folder in stages.items()}
    there = [kind for kind in ("sft", "dpo", "rlvr") if kind in kinds.values()]
    left, right = (next(stage for stage in stages if kinds[stage] == kind) for kind in (there[0], there[-1]))
    return left, right


def talker(folder: Path, device: str = "cpu"):
    """The model in ``folder``, ready to chat."""
    from posttrain.data.tokenize import tokenize_prompt
    from posttrain.demo.app import Talker
    from posttrain.inference.local import LocalSampler
    from posttrain.models.load import load_policy, load_tokenizer

    tokenizer, model = load_tokenizer(folder), load_policy(folder, device=device)
    sampler = LocalSampler(model, pad_token_id=tokenizer.pad_token_id, slots=1)

    def decode(ids) -> str:
        return str(tokenizer.decode(list(ids), skip_special_tokens=True)).strip()

    return Talker(sampler, lambda messages: tokenize_prompt(tokenizer, messages), decode, (tokenizer.eos_token_id,))
