"""The default engine: batched sampling with a key-value cache on the learner's own module."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import nullcontext
from difflib import get_close_matches
from itertools import chain, islice

import numpy as np
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from posttrain.errors import PosttrainError
from posttrain.inference.attention import DECODE
from posttrain.inference.cache import SlotCache, roomy
from posttrain.inference.decoder import WrittenOutDecoder, can_write_out
from posttrain.inference.draw import draw_tokens
from posttrain.inference.prefixes import Beginnings, shared_prefixes
from posttrain.inference.protocols import Sample, SampleRequest
from posttrain.inference.randomness import uniforms
from posttrain.inference.slots import Slots
from posttrain.inference.stop_strings import StopStrings
from posttrain.models.attending import attending
from posttrain.models.backbone import full_precision, hidden_states

# Positions (padding included) in one forward over whole prompts or sequences: enough to keep any device busy.
_PREFILL_POSITIONS = 8192
_PADDING = 128  # positions of padding in one forward that cost less than a forward more
_SCORED_LEAST = 16  # tokens that scored sequences must begin with in common for it to be computed once
_SCORED_LOGITS = 2**24  # logits held at once while scoring: 64 MiB in fp32

# Settings of transformers' configurations that change logits outside the head, or hide old positions: models that use
# them would be sampled wrongly here.
_UNSUPPORTED = ("final_logit_softcapping", "attn_logit_softcapping", "logit_scale", "logits_scaling")


class LocalSampler:
    """A `Sampler` on a Llama-like module of transformers (rotary positions, full attention, a plain linear head).

    The module is shared, not copied: new weights need no sending, only ``update_weights((), version)``. Rows are fed
    from position 0, unpadded on the left, exactly as a learner feeds them, so the log-probabilities agree with its own
    to rounding (1e-5 in fp32).

    How it works: every slot holds one completion. A step feeds one token of every running row; finished rows are
    refilled before the next step, and once no request is left the batch shrinks. All but the last token of a prompt
    is prefilled, once for all of its samples; the last is fed by the first step.

    ``pad_token_id`` fills prompts of one prefill on the right (it is never attended to). ``slots`` completions run at
    once. ``context_length`` None: the model's own. ``tokenizer`` is needed for stop strings only.

    ``share_prefixes``: what several listed prompts (or scored sequences) begin with is computed once (`prefixes.py`).
    The last bits then hang on which prompts are listed together. ``cache_bytes``, asked at every `generate`: listed
    requests get only so many of the slots that their keys and values keep within it.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        *,
        pad_token_id: int,
        slots: int = 256,
        context_length: int | None = None,
        tokenizer: PreTrainedTokenizerBase | None = None,
        weight_version: int = 0,
        share_prefixes: bool = False,
        cache_bytes: Callable[[], int] | None = None,
    ):
        positions = model.config.max_position_embeddings
        self.context_length = positions if context_length is None else min(context_length, positions)
        _check_supported(model, self.context_length)
        self.model = model
        self.weight_version = weight_version
        self._pad_token_id = pad_token_id
        self._slots = slots
        self._tokenizer = tokenizer
        self._backbone = model.get_decoder()
        head = model.get_output_embeddings()
        assert head is not None, "checked above"
        self._head = head
        self._share_prefixes = share_prefixes
        self._cache_bytes = cache_bytes
        self._generating = False

    @property
    def device(self) -> torch.device:
        return self._head.weight.device

    def generate(self, requests: Iterable[SampleRequest]) -> Iterator[Sample]:
        """Yields each completion as it finishes.

        Requests are taken as slots come free; a list is checked whole before anything is sampled. Raises
        PosttrainError for a prompt that leaves no room in the context, an unusable sampling setting, or weights whose
        logits are not numbers.
        """
        slots = self._slots
        begins: dict[tuple[int, ...], int] = {}
        if isinstance(requests, Sequence):
            for request in requests:
                self._check(request)
            slots = min(slots, max(1, len(requests)), self._affordable(requests))
            if self._share_prefixes:
                begins = shared_prefixes(request.prompt_ids for request in requests)
        return self._generate(iter(requests), slots, begins)

    def _affordable(self, requests: Sequence[SampleRequest]) -> int:
        """How many of the longest of these the cache may hold."""
        if self._cache_bytes is None or not requests:
            return self._slots
        longest = max(len(request.prompt_ids) + request.sampling.max_tokens for request in requests)
        room = roomy(min(longest, self.context_length), 0)
        return max(1, self._cache_bytes() // (room * _bytes_per_position(self.model)))

    def _generate(
        self, requests: Iterator[SampleRequest], slots: int, begins: dict[tuple[int, ...], int]
    ) -> Iterator[Sample]:
        if self._generating:
            raise RuntimeError("this LocalSampler is generating already: exhaust or close the other iterator first")
        running, cache = Slots(slots), SlotCache(slots)
        beginnings = Beginnings(begins)
        stop_strings = StopStrings(self._tokenizer)
        written_out = can_write_out(self.model) and not torch.is_autocast_enabled("cpu")
        decoder = WrittenOutDecoder(self.model, self.context_length) if written_out else None
        holder: dict[tuple[int, ...], int] = {}  # prompt → a slot whose cache still begins with it
        holes: list[int] = []  # slots among the running ones whose completion has ended
        more = True
        self._generating = True
        was_training = self.model.training
        self.model.eval()
        try:
            while True:
                while more and (wanted := len(holes) + slots - running.count):
                    admitted = self._take(requests, wanted)
                    more = len(admitted) == wanted
                    holes = self._admit(admitted, holes, running, cache, holder, beginnings)
                if holes:  # no request is left to fill them; ``holder`` goes stale and is not asked again
                    _close(holes, running, cache)
                    holes = []
                if running.count == 0:
                    return
                stopped_B, full_B = running.record(*self._step(running, cache, decoder))
                stop_strings.mark(running, stopped_B)
                for slot in np.flatnonzero(stopped_B | full_B).tolist():
                    holes.append(slot)
                    yield running.sample(slot, "stop" if stopped_B[slot] else "length", self.weight_version)
        finally:
            self.model.train(was_training)
            self._generating = False

    def _take(self, requests: Iterator[SampleRequest], count: int) -> list[SampleRequest]:
        taken = list(islice(requests, count))
        for request in taken:
            self._check(request)
        return taken

    def _admit(
        self,
        admitted: list[SampleRequest],
        holes: list[int],
        running: Slots,
        cache: SlotCache,
        holder: dict[tuple[int, ...], int],
        beginnings: Beginnings,
    ) -> list[int]:
        """Starts ``admitted`` in ``holes`` first, then behind the running rows. Returns the holes left over."""
        behind = max(0, len(admitted) - len(holes))
        targets = holes[: len(admitted)] + list(range(running.count, running.count + behind))
        copies: dict[int, int] = {}  # target → source
        longest = 0  # positions to copy
        prefills: dict[tuple[int, ...], list[int]] = {}
        for target, request in zip(targets, admitted, strict=True):
            if request.prompt_ids in holder:
                copies[target] = holder[request.prompt_ids]
                longest = max(longest, len(request.prompt_ids) - 1)
            elif len(request.prompt_ids) > 1:
                prefills.setdefault(request.prompt_ids, []).append(target)
        if copies:  # before any slot is written: a source may be about to be refilled itself
            cache.copy(self._index(copies), self._index(copies.values()), longest)
        self._prefill(prefills, cache, beginnings)
        for target, request in zip(targets, admitted, strict=True):
            replaced = running.requests[target]
            if replaced is not None and holder.get(replaced.prompt_ids) == target:
                del holder[replaced.prompt_ids]
            running.start(target, request, self.context_length)
            holder[request.prompt_ids] = target
        running.count += behind
        return holes[len(admitted) :]

    @torch.no_grad()
    def _prefill(self, prompts: dict[tuple[int, ...], list[int]], cache: SlotCache, beginnings: Beginnings) -> None:
        """Writes the keys and values of each prompt, but for its last token, into the slots that want it."""
        for prefix, own in beginnings.groups(prompts):
            ordered = sorted(own, key=len)
            start = len(prefix)
            groups = list(_groups([len(prompt) - 1 - start for prompt in ordered], _PREFILL_POSITIONS, start))
            cache.reserve(len(ordered[group[-1]]) - 1 for group in groups)
            if prefix and beginnings.held != prefix:
                cache.prefill()
                self._forward([prefix], cache)
                beginnings.hold(prefix, cache.fresh)
            for group in groups:
                cache.prefill(beginnings.computed if prefix else None)
                self._forward([ordered[i][start:-1] for i in group], cache, start)
                slots = [prompts[ordered[i]] for i in group]
                sources = [row for row, wanted in enumerate(slots) for _ in wanted]
                cache.insert(self._index(chain.from_iterable(slots)), self._index(sources))

    def _forward(self, rows: Sequence[Sequence[int]], cache: SlotCache, start: int = 0) -> torch.Tensor:
        """Hidden states [B, T, D] of rows that begin at position ``start``, behind what ``cache`` was given."""
        return self._backbone(
            input_ids=self._padded(rows),
            position_ids=torch.arange(start, start + max(map(len, rows)), device=self.device)[None],
            past_key_values=cache,
            use_cache=True,
        ).last_hidden_state

    @torch.no_grad()
    def _step(
        self, running: Slots, cache: SlotCache, decoder: WrittenOutDecoder | None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Feeds one token of every running row and draws the next: token ids [B] and log-probabilities [B]."""
        count = running.count
        position_B = torch.from_numpy(running.cached[:count]).to(self.device)
        longest = int(running.cached[:count].max()) + 1
        hidden_BD = self._decode(running, position_B, cache.decode(position_B, longest), cache, decoder)
        logits_BV = self._logits(hidden_BD)
        token_B, logprob_B = draw_tokens(
            logits_BV,
            torch.from_numpy(uniforms(running.key[:count], running.produced[:count])).to(self.device),
            torch.from_numpy(running.temperature[:count]).to(self.device),
            torch.from_numpy(running.top_p[:count]).to(self.device) if (running.top_p[:count] < 1).any() else None,
            self._allowed(running, logits_BV.shape[-1]),
        )
        if not torch.isfinite(logprob_B).all():
            raise PosttrainError(
                f"the model's logits are not finite numbers (weight version {self.weight_version}): "
                "its training has diverged; go back to an earlier checkpoint or lower the learning rate"
            )
        return token_B.cpu().numpy(), logprob_B.cpu().numpy()

    def _logits(self, hidden_ND: torch.Tensor) -> torch.Tensor:
        # Under autocast too, the head runs in its own precision, as the learner's does (training/logprobs.py).
        with full_precision(self.device.type):
            return self._head(hidden_ND.to(self._head.weight.dtype)).float()

    def _decode(
        self,
        running: Slots,
        position_B: torch.Tensor,
        attended: int,
        cache: SlotCache,
        decoder: WrittenOutDecoder | None,
    ) -> torch.Tensor:
        token_B = torch.from_numpy(running.following[: running.count]).to(self.device)
        hidden_behind_BL = torch.arange(attended, device=self.device) > position_B[:, None]
        mask_BL = torch.zeros(hidden_behind_BL.shape, dtype=self.model.dtype, device=self.device)
        mask_BL.masked_fill_(hidden_behind_BL, float("-inf"))
        if decoder is not None:
            return decoder.step(token_B, position_B, mask_BL, cache)
        with attending(self.model.config, DECODE) if self.device.type == "cpu" else nullcontext():
            return self._backbone(
                input_ids=token_B[:, None],
                attention_mask=mask_BL[:, None, None],
                position_ids=position_B[:, None],
                past_key_values=cache,
                use_cache=True,
            ).last_hidden_state[:, 0]

    def _allowed(self, running: Slots, vocabulary: int) -> torch.Tensor | None:
        """The tokens each running row may draw, [B, V], or None when no row is restricted."""
        restricted = np.flatnonzero(running.restricted[: running.count]).tolist()
        if not restricted:
            return None
        allowed_BV = torch.ones(running.count, vocabulary, dtype=torch.bool)
        for slot in restricted:
            allowed_BV[slot] = False
            request = running.requests[slot]
            assert request is not None and request.sampling.allowed_token_ids is not None
            allowed_BV[slot, list(request.sampling.allowed_token_ids)] = True
        return allowed_BV.to(self.device)

    @torch.no_grad()
    def score(self, sequences: Sequence[Sequence[int]]) -> list[list[float]]:
        """Log-probability, at temperature 1, of each token given those before it; the first of each gets 0.0."""
        for index, sequence in enumerate(sequences):
            if len(sequence) > self.context_length:
                raise PosttrainError(
                    f"sequence {index} has {len(sequence)} tokens, more than the context of {self.context_length}: "
                    "shorten it, or load the model with more positions (rope_positions in the recipe)"
                )
        was_training = self.model.training
        self.model.eval()
        scores: list[list[float]] = [[0.0] * len(sequence) for sequence in sequences]
        begins = shared_prefixes(sequences, _SCORED_LEAST) if self._share_prefixes else {}
        by_prefix: dict[tuple[int, ...], list[int]] = {}
        for i, sequence in enumerate(sequences):
            if len(sequence) > 1:
                by_prefix.setdefault(tuple(sequence[: begins.get(tuple(sequence), 0)]), []).append(i)
        try:
            for prefix, own in by_prefix.items():
                self._score_group(sequences, sorted(own, key=lambda i: len(sequences[i])), prefix, scores)
        finally:
            self.model.train(was_training)
        return scores

    def _score_group(
        self, sequences: Sequence[Sequence[int]], ordered: list[int], prefix: tuple[int, ...], scores: list[list[float]]
    ) -> None:
        """Fills in the scores of sequences that begin with ``prefix``, shortest first."""
        start, cache, computed, before = len(prefix), SlotCache(0), None, []
        if prefix:
            cache.prefill()
            hidden_BTD = self._forward([prefix], cache)
            computed = cache.fresh
            # The token after the prefix is all sequences' too.
            [logprob_T] = self._next_logprobs([[*prefix, sequences[ordered[0]][start]]], hidden_BTD)
            before = logprob_T.tolist()
        for group in _groups([len(sequences[i]) - start for i in ordered], _PREFILL_POSITIONS, start):
            rows = [sequences[ordered[i]][start:] for i in group]
            if prefix:
                cache.prefill(computed)
                hidden_BTD = self._forward(rows, cache, start)
            else:
                hidden_BTD = hidden_states(self._backbone, self._padded(rows), None)
            for i, row, logprob_T in zip(group, rows, self._next_logprobs(rows, hidden_BTD), strict=True):
                scores[ordered[i]][1:] = before + logprob_T[: len(row) - 1].tolist()

    def _next_logprobs(self, rows: Sequence[Sequence[int]], hidden_BTD: torch.Tensor) -> Iterator[torch.Tensor]:
        """Per row, the log-probability of tokens 1 .. T - 1. Padding stands on the right, where causality hides it."""
        for ids_T, hidden_TD in zip(self._padded(rows), hidden_BTD, strict=True):
            pieces = []
            chunk = max(1, _SCORED_LOGITS // self._head.weight.shape[0])
            following_T = ids_T[1:]
            for hidden_CD, next_C in zip(
                hidden_TD[: len(following_T)].split(chunk), following_T.split(chunk), strict=True
            ):
                logprob_CV = self._logits(hidden_CD).log_softmax(-1)
                pieces.append(logprob_CV.gather(-1, next_C[:, None])[:, 0])
            yield torch.cat(pieces).cpu()

    @torch.no_grad()
    def update_weights(self, tensors: Iterable[tuple[str, torch.Tensor]], version: int) -> None:
        """Copies named tensors into the module (nothing to copy when it is the learner's own) and sets the version."""
        if self._generating:
            raise RuntimeError("weights change while completions are running: exhaust or close generate() first")
        own = self.model.state_dict(keep_vars=True)
        for name, tensor in tensors:
            if name not in own:
                nearest = get_close_matches(name, own, n=1)
                hint = f"; did you mean {nearest[0]}?" if nearest else ""
                raise PosttrainError(f"weight update {version}: the sampled model has no tensor named {name}{hint}")
            if own[name].shape != tensor.shape:
                raise PosttrainError(
                    f"weight update {version}: {name} has shape {tuple(tensor.shape)}, "
                    f"the sampled model's has {tuple(own[name].shape)}"
                )
            own[name].copy_(tensor)
        self.weight_version = version

    def close(self) -> None:
        """Nothing is held between calls: the cache lives as long as one `generate`."""

    def _check(self, request: SampleRequest) -> None:
        sampling, length = request.sampling, len(request.prompt_ids)
        name = f"prompt {request.prompt_id!r}"
        if length == 0:
            raise PosttrainError(f"{name} holds no token: give it at least the token that begins a text")
        if length + 1 > self.context_length:
            raise PosttrainError(
                f"{name} has {length} tokens and the context holds {self.context_length}, which leaves no room for an "
                "answer: lower max_prompt_tokens so that it is set aside, or load the model with more positions "
                "(rope_positions in the recipe)"
            )
        if sampling.max_tokens < 1 or sampling.temperature < 0 or not 0 < sampling.top_p <= 1:
            raise PosttrainError(
                f"{name}: max_tokens {sampling.max_tokens}, temperature {sampling.temperature} and "
                f"top_p {sampling.top_p}, but they must be at least 1, at least 0, and in (0, 1]"
            )
        if sampling.allowed_token_ids is not None and not sampling.allowed_token_ids:
            raise PosttrainError(f"{name}: allowed_token_ids is empty, so no token can be drawn; give some or None")
        if sampling.stop_strings and self._tokenizer is None:
            raise PosttrainError(f"{name} has stop strings, and this sampler was made without a tokenizer: give it one")

    def _padded(self, rows: Sequence[Sequence[int]]) -> torch.Tensor:
        padded = np.full((len(rows), max(map(len, rows))), self._pad_token_id, np.int64)
        for row, tokens in enumerate(rows):
            padded[row, : len(tokens)] = tokens
        return torch.from_numpy(padded).to(self.device)

    def _index(self, slots: Iterable[int]) -> torch.Tensor:
        return torch.tensor(list(slots), dtype=torch.long, device=self.device)


def _close(holes: list[int], running: Slots, cache: SlotCache) -> None:
    """Moves the last running rows into the holes, so that no step works on a finished row."""
    count = running.count - len(holes)
    ended = set(holes)
    targets = [hole for hole in holes if hole < count]
    sources = [slot for slot in range(count, running.count) if slot not in ended]
    running.count = count
    if targets:
        cache.copy(torch.tensor(targets), torch.tensor(sources), int(running.cached[sources].max()))
        running.move(targets, sources)
    cache.keep(count)


def _groups(lengths: Sequence[int], positions: int, start: int = 0) -> Iterator[range]:
    """Runs of consecutive rows (``lengths`` ascending) whose padded size stays within ``positions``, an eighth of it
    padding or `_PADDING`; never empty.

    ``start`` positions before each row are attended to but not computed, at an eighth of the cost.
    """
    first = own = 0
    for end, length in enumerate(lengths):
        padded = (length + start // 8) * (end - first + 1)
        own += length + start // 8
        if end > first and (padded > positions or padded - own > max(_PADDING, padded // 8)):
            yield range(first, end)
            first, own = end, length + start // 8
    if first < len(lengths):
        yield range(first, len(lengths))


def _bytes_per_position(model: PreTrainedModel) -> int:
    """Of keys and values in all layers."""
    config = model.config
    heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    dimension = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    kind = model.device.type
    dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else model.dtype
    return 2 * config.num_hidden_layers * heads * dimension * dtype.itemsize


def _check_supported(model: PreTrainedModel, context_length: int) -> None:
    config = model.config
    if model.get_output_embeddings() is None:
        raise PosttrainError(f"{type(model).__name__} has no language-model head, so there is nothing to sample")
    for name in _UNSUPPORTED:
        if getattr(config, name, None) not in (None, 1, 1.0):
            raise PosttrainError(f"{type(model).__name__} sets {name}, which the local engine does not do: use vllm")
    window = getattr(config, "sliding_window", None) if getattr(config, "use_sliding_window", True) else None
    if window is not None and window < context_length:
        raise PosttrainError(
            f"{type(model).__name__} attends to {window} positions only, and the local engine to all of "
            f"{context_length}: set context_length to at most {window}, or use vllm"
        )
    if set(getattr(config, "layer_types", None) or ()) - {"full_attention", "sliding_attention"}:
        raise PosttrainError(f"{type(model).__name__} has layers without full attention: use vllm")
