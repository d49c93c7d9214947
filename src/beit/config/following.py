"""Options that follow others unless they are given themselves: a warm-up the steps, statistics and
augmentation the channels."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

from beit.config.model import HALF
from beit.terminal import shown


class Rule(NamedTuple):
    """An option that follows another."""

    follower: str
    leader: str
    value: Callable[[Any, Any, Any], object]
    """The follower's value, from the leader's before and now and the follower's before."""


def _shortened(steps: int, now: int, warmup: int) -> int:
    """The same fraction of a shorter run; a longer one keeps its warm-up, so that it can go on."""
    return warmup * now // steps if 0 < now < steps else warmup


def _lowered(lr: float, now: float, min_lr: float) -> float:
    """The same fraction of a rate that is lower than it; of one that is none, `lr` is to blame."""
    return min_lr * now / lr if 0 <= now < min_lr else min_lr


def _per_channel(channels: int, now: int, values: tuple[float, ...]) -> tuple[float, ...]:
    """What all channels have, for so many; else the middle: nothing is known of new channels."""
    if now == channels:
        return values
    return (values[0] if len(set(values)) == 1 else HALF[0],) * now


def _for_colours(_channels: int, now: int, policy: object) -> object:
    """Nothing that is defined for three channels only, where there are others."""
    return policy if now == 3 else type(policy)()


RULES = (
    Rule("warmup_steps", "steps", _shortened),
    Rule("min_lr", "lr", _lowered),
    Rule("mean", "channels", _per_channel),
    Rule("std", "channels", _per_channel),
    Rule("rand_augment", "channels", _for_colours),
    Rule("early_layer", "depth", lambda depth, now, layer: layer and max(1, layer * now // depth)),
)
LEADERS: dict[str, type[int] | type[float]] = {
    rule.leader: float if rule.leader == "lr" else int for rule in RULES
}


def following(
    before: Mapping[str, object], options: Mapping[str, object]
) -> Iterator[tuple[Rule, object]]:
    """What changes with the options and is not among them.

    Args:
        before: The values of a config, by name.
        options: Values to replace some of them; of a wrong type is what the config will refuse.
    """
    for rule in RULES:
        now, was = options.get(rule.leader), before.get(rule.leader)
        given = rule.follower in options or rule.follower not in before
        if given or isinstance(now, bool) or not isinstance(now, int | float) or now == was:
            continue
        value = rule.value(was, now, before[rule.follower])
        if value != before[rule.follower]:
            yield rule, value


def followed(before: Mapping[str, object], now: Mapping[str, object]) -> Iterator[str]:
    """What follows in a config from another option than in its recipe, in words."""
    leaders = {name: now[name] for name in LEADERS if name in now}
    for rule, value in following(before, leaders):
        if now[rule.follower] == value:
            yield (
                f"{rule.follower} is {shown(value) if value != '' else 'off'}, as {rule.leader} "
                f"is {shown(now[rule.leader])} (--{rule.follower.replace('_', '-')} sets it)"
            )
