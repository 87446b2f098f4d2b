"""Judgements of a run's records: by a model that is opened for it, or recorded earlier; and HREF's encoder."""

from collections.abc import Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

from posttrain.artifacts.hashing import digest_folder
from posttrain.errors import PosttrainError
from posttrain.evaluation.encoder import Encoder
from posttrain.evaluation.judges import JUDGES, Asked, Judge, Judgement, judge_all, judged_score, recorded
from posttrain.evaluation.protocol import UNANSWERED, Instance, Protocol
from posttrain.inference.chat import SamplerChat
from posttrain.inference.journal import Journal
from posttrain.inference.openai import OpenAIEndpoint, Server
from posttrain.inference.opening import open_local
from posttrain.inference.protocols import ChatEndpoint

ENCODER = "encoder"  # beside the judges by name: the folder of the encoder that decides HREF's open questions


def judge_records(
    records: Sequence[dict[str, Any]],
    asked: Sequence[tuple[Protocol, Instance]],
    judges: Mapping[str, str | Server],
    journals: Path,
    *,
    device: str = "cpu",
) -> None:
    """Puts outcome, score and ``judgement`` into the records of judged protocols.

    ``judges``: a judge's name → a model folder, a server, or a JSONL file of recorded judgements. Without its judge a
    record is "not judged", and says what it needs. Raises PosttrainError for a judge that nothing asks for by that
    name.
    """
    if unknown := set(judges) - set(JUDGES) - {ENCODER}:
        raise PosttrainError(f"no judge {min(unknown)!r}; there are {', '.join([*JUDGES, ENCODER])}.")
    waiting: dict[str, list[int]] = {}
    for number, (record, (protocol, instance)) in enumerate(zip(records, asked, strict=True)):
        if protocol.judge and record["finish_reason"] not in UNANSWERED:
            near = dict(instance.told).get("near")
            waiting.setdefault(protocol.judge.split()[0] if near is None else ENCODER, []).append(number)
    for name, numbers in waiting.items():
        own, about = [records[number] for number in numbers], [asked[number] for number in numbers]
        if name not in judges:
            need = JUDGES[name].model if name in JUDGES else "an encoder such as roberta-large"
            for record in own:
                told = f"needs the judge {name} ({need}): --judge {name}=FOLDER, or a file of recorded judgements"
                record |= {"outcome": "not judged", "detail": told}
        elif name == ENCODER:
            _by_encoder(own, about, Path(str(judges[name])), device)
        else:
            _by_judge(own, about, JUDGES[name], judges[name], journals, device)


def _by_judge(
    records: Sequence[dict[str, Any]],
    about: Sequence[tuple[Protocol, Instance]],
    judge: Judge,
    source: str | Server,
    journals: Path,
    device: str,
) -> None:
    asked = []
    for record, (_, instance) in zip(records, about, strict=True):
        told = dict(instance.told)
        if "model" in told:
            place = {told["model"]: record["response"], "ab".replace(told["model"], ""): told["other"]}
            told |= place
        asked.append(Asked(record["task"], record["id"], judge, told | {"response": record["response"]}))
    if isinstance(source, str) and Path(source).expanduser().is_file():
        judgements = recorded(asked, Path(source).expanduser())
    else:
        with (
            Journal(journals / f"judge-{judge.name}.jsonl") as journal,
            closing(_opened(judge, source, journal, device)) as endpoint,
        ):
            judgements = judge_all(asked, endpoint, journal)
    for record, judgement, (protocol, instance) in zip(records, judgements, about, strict=True):
        record |= _outcome(judgement, protocol, instance)
        if "model" in dict(instance.told):
            record["other_length"] = len(dict(instance.told)["other"])


def _opened(judge: Judge, source: str | Server, journal: Journal, device: str) -> ChatEndpoint:
    if isinstance(source, Server):
        return OpenAIEndpoint(source, journal.budget(source.budget))
    folder = Path(source).expanduser()
    if not folder.is_dir():
        raise PosttrainError(f"judge {judge.name}: {folder} is neither a model folder nor a file of judgements.")
    sampler, tokenizer = open_local(folder, device=device)
    if tokenizer.chat_template is None:
        tokenizer.chat_template = RAW
    return SamplerChat(sampler, tokenizer, f"{folder.name} {digest_folder(folder)[:12]}")


# A classifier without a chat template reads the request as it stands.
RAW = "{% for message in messages %}{{ message['content'] }}\n{% endfor %}"


def _outcome(judgement: Judgement, protocol: Protocol, instance: Instance) -> dict[str, Any]:
    score = judged_score(judgement.fields, protocol.judged, dict(instance.told), protocol.unreadable)
    kept: dict[str, Any] = {"text": judgement.text, "fields": judgement.fields}
    if judgement.fields is None:
        kept["unreadable"] = True
    if score is None:
        return {"outcome": "left out", "score": 0.0, "detail": "the judgement cannot be read", "judgement": kept}
    return {"outcome": "correct" if score == 1.0 else "wrong", "score": score, "judgement": kept}


def _by_encoder(
    records: Sequence[dict[str, Any]], about: Sequence[tuple[Protocol, Instance]], source: Path, device: str
) -> None:
    encoder = Encoder(source, device)
    for record, (_, instance) in zip(records, about, strict=True):
        told = dict(instance.told)
        own, other = (encoder.f1(text, told["near"]) for text in (record["response"], told["other"]))
        score = 0.5 if own == other else float(own > other)
        kept = {"fields": {"own": own, "other": other}}
        record |= {"outcome": "correct" if score == 1.0 else "wrong", "score": score, "judgement": kept}
