"""What a stage is given, and how it is found."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from posttrain.artifacts.hub import download, looks_like_hub_id
from posttrain.artifacts.store import Artifact
from posttrain.errors import PosttrainError


class Progress(Protocol):
    """Shown to the user: one task at a time, with rate and time left."""

    def start(self, description: str, total: int, unit: str, done: int = 0) -> None:
        """Begins a task of ``total`` ``unit`` (rows, tokens, steps…), ``done`` of them made before a restart."""
        ...

    def advance(self, amount: int = 1, **shown: float) -> None:
        """Moves on; ``shown`` are figures such as loss=1.23."""
        ...

    def note(self, message: str) -> None:
        """One line that stays on the screen."""
        ...


@dataclass(frozen=True)
class StageContext:
    """Everything a stage's ``run`` may use.

    ``settings``: the stage's typed block of the recipe. ``inputs``: finished artifacts by stage name. ``output``: an
    empty folder that becomes the artifact when ``run`` returns. ``checkpoints``: a folder that survives a kill and is
    removed once the artifact stands. ``seed``: the recipe's seed.
    """

    name: str
    settings: Any
    inputs: Mapping[str, Artifact]
    output: Path
    checkpoints: Path
    progress: Progress
    seed: int
    device: str
    hub_mirror: Mapping[str, str]

    def resolve(self, reference: str, prefer: str = "model") -> Path:
        """The local path behind ``stage:NAME``, ``stage:NAME/file``, ``nano``, a path or a (mirrored) hub id.

        ``prefer``: "model" or "dataset", where both bear the id.
        """
        return resolve_reference(reference, self.inputs, self.hub_mirror, prefer)

    def training_data(self, reference: str | None = None) -> Path:
        """What ``reference`` (default: ``data``) stands for. Raises PosttrainError without a fresh report.

        ``unchecked`` in the settings, the recorded reason to do without, lets anything pass.
        """
        from posttrain.stages.fresh_report import require_fresh_report

        reference = self.settings.data if reference is None else reference
        path = self.resolve(reference, prefer="dataset")
        if self.settings.unchecked is None:
            require_fresh_report(reference, path, self.inputs, self.hub_mirror)
        return path


class Stage(Protocol):
    """A module of this package: ``VERSION`` (raised by hand when output may change) and ``run``.

    ``run`` returns ``{"rows": {...}, "metrics": {...}}`` for the manifest. A module may also hold ``check(settings)``,
    called before anything of the recipe runs; it raises PosttrainError for a name that nothing answers to;
    ``check_device(settings, device)``, called then too, for what cannot run on this machine's; and
    ``publish(artifact, recipe)``, called after every run of the recipe, which writes the artifact's readable form to
    the top of the recipe's folder and returns its path. ``RANKS = True`` says that under torchrun every rank runs it,
    together; any other stage is run by the first rank alone.
    """

    VERSION: int

    def run(self, context: StageContext) -> dict[str, Any]: ...


def resolve_reference(
    reference: str, inputs: Mapping[str, Artifact], hub_mirror: Mapping[str, str], prefer: str = "model"
) -> Path:
    """The existing file or folder that a reference stands for; a hub id is downloaded.

    The order: a stage, ``nano``, the mirror, a local path, the hub. Raises PosttrainError when nothing is there.
    """
    if reference.startswith("stage:"):
        return _in_artifact(reference, inputs)
    if reference == "nano":
        return nano_base_model()
    if reference in hub_mirror:
        path = Path(hub_mirror[reference]).expanduser()
        if not path.exists():
            raise PosttrainError(f"{reference}: its hub_mirror {path} does not exist. Correct it in the recipe.")
        return path
    path = Path(reference).expanduser()
    if path.exists():
        return path
    if looks_like_hub_id(reference):
        return download(reference, prefer=prefer)
    raise PosttrainError(
        f"{reference}: no such file or folder (working directory {Path.cwd()}), "
        "and it is neither stage:NAME, nor nano, nor a hub id."
    )


def nano_base_model() -> Path:
    """The folder of the shipped nano model."""
    from posttrain.nano import BASE_MODEL

    if not (BASE_MODEL / "config.json").is_file():
        raise PosttrainError(
            f"nano: the shipped base model is not in {BASE_MODEL}. Make it with `posttrain run recipes/nano-base.yaml`."
        )
    return BASE_MODEL


def _in_artifact(reference: str, inputs: Mapping[str, Artifact]) -> Path:
    name, _, file = reference.removeprefix("stage:").partition("/")
    if name not in inputs:
        raise PosttrainError(f"{reference}: not an input of this stage. Its inputs: {', '.join(inputs) or 'none'}.")
    folder = inputs[name].path
    path = folder / file if file else folder
    if not path.exists():
        there = ", ".join(sorted(p.name for p in folder.iterdir() if not p.name.startswith(".")))
        raise PosttrainError(f"{reference}: stage {name} made no {file}. It made: {there}.")
    return path
