"""`posttrain export`."""

import argparse
from pathlib import Path


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", help="a finished stage: runs/RECIPE/STAGE, or runs/RECIPE/STAGE/KEY")
    parser.add_argument("--out", required=True, metavar="DIR", help="an empty or absent folder")
    parser.add_argument("--name", help="what the card calls it (default: the folder's name)")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32", help="of the weights")
    use = "Research on post-training. It has no safeguards for use with the public."
    parser.add_argument("--intended-use", default=use, metavar="SENTENCE")
    parser.add_argument(
        "--push", metavar="OWNER/NAME", help="upload to the Hugging Face hub, private (needs `hf auth login`)"
    )


def execute(args: argparse.Namespace) -> int:
    from posttrain.models.release import release
    from posttrain.report.card import model_card

    model, out = finished(Path(args.model)), Path(args.out)
    card = model_card(args.name or out.resolve().name, model, args.intended_use)
    release(model, out, args.dtype)
    (out / "README.md").write_text(card, encoding="utf-8")
    print(f"{out}: weights ({args.dtype}), configuration, tokenizer, template and model card (README.md).")
    if args.push:
        print(push(out, args.push))
    return 0


def push(folder: Path, repository: str) -> str:
    """Uploads ``folder``, card and all, to ``repository``, which is made private if it is new. Returns its address.

    Raises PosttrainError when the hub refuses; the folder stands.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    from posttrain.errors import PosttrainError

    hub = HfApi()
    try:
        hub.create_repo(repository, private=True, exist_ok=True)
        return str(hub.upload_folder(repo_id=repository, folder_path=folder))
    except (HfHubHTTPError, HFValidationError, OSError) as reason:
        raise PosttrainError(
            f"{folder} is whole, but the hub did not take it as {repository}: {reason}. "
            f"Log in with `hf auth login`, then `hf upload {repository} {folder}`"
        ) from reason


def finished(path: Path) -> Path:
    """The artifact's folder: ``path`` itself, or that of the stage RUN/STAGE. Raises PosttrainError for neither."""
    from posttrain.artifacts.manifest import NAME
    from posttrain.errors import PosttrainError
    from posttrain.report.published import artifacts_of

    if (path / NAME).is_file():
        return path
    run, stage = path.absolute().parent, path.absolute().name
    made = artifacts_of(run)
    if stage not in made:
        raise PosttrainError(f"{path}: no finished stage. Its folder is runs/RECIPE/STAGE.")
    return made[stage][0]
