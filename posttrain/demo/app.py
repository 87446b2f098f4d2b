"""Two stages of a run side by side in a browser: one question, two answers as they grow."""

import html
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from posttrain.demo.stream import grow
from posttrain.errors import PosttrainError
from posttrain.inference.protocols import Sampler, SamplingParameters

Messages = list[dict[str, str]]
DOWNLOAD = """(text) => {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([text], {type: "application/json"}));
  link.download = "conversation.json";
  link.click();
  URL.revokeObjectURL(link.href);
}"""


@dataclass(frozen=True)
class Talker:
    """One stage's model. ``render``: messages → prompt ids with the answer's header. ``decode``: ids → text."""

    sampler: Sampler
    render: Callable[[Messages], Sequence[int]]
    decode: Callable[[Sequence[int]], str]
    stop: tuple[int, ...]


def answers(
    talkers: Sequence[Talker], histories: Sequence[Messages], sampling: Mapping[str, Any], system: str
) -> Iterator[list[Messages]]:
    """Yields both histories with the answers so far, the left model's first.

    ``histories`` end with the user's turn. ``sampling``: temperature, top_p, max_tokens, seed.
    """
    grown = [list(history) for history in histories]
    for side, (talker, history) in enumerate(zip(talkers, histories, strict=True)):
        opening = [{"role": "system", "content": system}] if system.strip() else []
        prompt = talker.render([*opening, *history])
        parameters = SamplingParameters(**sampling, stop_token_ids=talker.stop)
        if len(prompt) >= talker.sampler.context_length:
            room = talker.sampler.context_length
            grown[side] = [
                *history,
                {"role": "assistant", "content": f"(longer than this model's {room} tokens: clear)"},
            ]
            yield list(grown)
            continue
        for text in grow(talker.sampler, prompt, parameters, talker.decode, f"demo-{side}-{len(history)}"):
            grown[side] = [*history, {"role": "assistant", "content": text}]
            yield list(grown)


def page(run: str, stages: Sequence[str], load: Callable[[str], Talker], beside: tuple[str, str]):
    """The gradio page of a run. ``beside``: the two stages that are chosen at first.

    ``load`` is called once for each chosen stage. Raises PosttrainError without gradio.
    """
    try:
        import gradio as gr
    except ImportError:
        raise PosttrainError("the demo needs gradio: pip install 'posttrain[demo]'.") from None
    loaded: dict[str, Talker] = {}

    def talker(stage: str) -> Talker:
        if stage not in loaded:
            loaded[stage] = load(stage)
        return loaded[stage]

    def ask(question, left, right, left_stage, right_stage, system, temperature, top_p, max_tokens, seed):
        if not question.strip():
            yield left, right, question
            return
        turn = {"role": "user", "content": question}
        histories = [[*_plain(history), turn] for history in (left, right)]
        yield *map(_shown, histories), ""
        sampling = {"temperature": temperature, "top_p": top_p, "max_tokens": int(max_tokens), "seed": int(seed)}
        for grown in answers([talker(left_stage), talker(right_stage)], histories, sampling, system):
            yield *map(_shown, grown), ""

    def save(left, right, left_stage, right_stage, system, temperature, top_p, max_tokens, seed):
        settings = {
            "system": system,
            "temperature": temperature,
            "top_p": top_p,
            "max_tokens": max_tokens,
            "seed": seed,
        }
        sides = [{"stage": left_stage, "messages": _plain(left)}, {"stage": right_stage, "messages": _plain(right)}]
        return json.dumps({"run": run, "settings": settings, "sides": sides}, indent=2, ensure_ascii=False)

    with gr.Blocks(title=f"{run} · posttrain", analytics_enabled=False) as blocks:
        gr.Markdown(f"# {run}\nOne question, two stages. Nothing leaves this machine.")
        with gr.Row():
            sides = []
            for side, stage in zip(("Left", "Right"), beside, strict=True):
                with gr.Column():
                    chosen = gr.Dropdown(list(stages), value=stage, label=f"{side} stage")
                    shown = gr.Chatbot(label=f"{side} answer", render_markdown=False, feedback_options=None, buttons=[])
                    sides.append((chosen, shown))
        question = gr.Textbox("", label="Message", placeholder="Ask both", autofocus=True)
        with gr.Row():
            send, clear = gr.Button("Send", variant="primary"), gr.Button("Clear")
            export = gr.Button("Export")
        saved = gr.Textbox(visible="hidden", container=False, show_label=False)
        with gr.Accordion("Settings", open=False):
            system = gr.Textbox("", label="System message")
            temperature = gr.Slider(0, 2, 0.7, label="Temperature")
            top_p = gr.Slider(0.05, 1, 1, label="Top p")
            max_tokens = gr.Slider(8, 2048, 256, step=8, label="Longest answer, tokens")
            seed = gr.Number(0, label="Seed", precision=0)
        (left_stage, left), (right_stage, right) = sides
        settings = [left_stage, right_stage, system, temperature, top_p, max_tokens, seed]
        for event in (send.click, question.submit):
            event(ask, [question, left, right, *settings], [left, right, question], show_progress="hidden")
        clear.click(lambda: ([], []), None, [left, right])
        export.click(save, [left, right, *settings], saved).then(None, saved, None, js=DOWNLOAD)
    return blocks


def serve(blocks: Any, **options: Any) -> str:
    """Starts the page's server and returns its address. Nothing on it leads off the machine. ``options``: of launch."""
    from gradio import themes

    options |= {"share": False, "footer_links": [], "run_history": False, "theme": themes.Default(primary_hue="blue")}
    _, address, _ = blocks.queue().launch(**options)
    return address


def _plain(history: Sequence[Mapping[str, Any]]) -> Messages:
    """Role and text of each turn, of what `_shown` and gradio make of a history."""
    made = []
    for message in history:
        content = message["content"]
        if not isinstance(content, str):
            content = "".join(part["text"] for part in content if part.get("type") == "text")
        made.append({"role": message["role"], "content": html.unescape(content)})
    return made


def _shown(history: Messages) -> Messages:
    """Each turn escaped: the chat component takes text for markup, and drops what it deems unsafe."""
    return [message | {"content": html.escape(message["content"])} for message in history]
