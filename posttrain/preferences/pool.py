"""Which models answer which prompt, settled before anything is generated.

The published pipeline let all 22 models answer every prompt and then drew 4 answers: 5.5 times the work.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from random import Random

from posttrain.errors import PosttrainError


@dataclass(frozen=True)
class Member:
    """A model that answers prompts. ``on_policy``: it is the one that preference tuning will start from."""

    model: str
    temperature: float = 1.0
    on_policy: bool = False


@dataclass(frozen=True)
class Draw:
    """One answer wanted. ``sample_index`` counts all answers to the prompt, so that no two share random numbers.

    Else kindred models (checkpoints of one run, one model at two temperatures) would give nearly equal answers.
    """

    member: Member
    sample_index: int


def check_pool(pool: Sequence[Member], responses: int, on_policy: int) -> None:
    """Raises PosttrainError where no draw could be made."""
    if responses < 2:
        raise PosttrainError(f"responses is {responses}, but a pair needs at least 2")
    if not 0 <= on_policy <= responses:
        raise PosttrainError(f"on_policy is {on_policy}, but must be between 0 and responses ({responses})")
    if on_policy < responses and not pool:
        raise PosttrainError(
            f"the pool is empty, but {responses - on_policy} of {responses} answers are to come from it. "
            "Name models under pool, or set on_policy to the number of responses"
        )


def draw_members(
    prompt_id: str, seed: int, policy: Member, pool: Sequence[Member], *, responses: int, on_policy: int
) -> tuple[Draw, ...]:
    """The ``responses`` members that answer one prompt, in random order: ``on_policy`` times the policy, else the pool.

    Hangs on (seed, prompt id) alone. Pool members are drawn without repetition as far as the pool reaches; a larger
    wish takes the whole pool as often as it fits and draws the rest.
    """
    random = Random(f"pool/{seed}/{prompt_id}")
    from_pool = responses - on_policy
    members = [policy] * on_policy
    if from_pool:
        rounds, rest = divmod(from_pool, len(pool))
        members += list(pool) * rounds + random.sample(list(pool), rest)
    random.shuffle(members)
    return tuple(Draw(member, index) for index, member in enumerate(members))
