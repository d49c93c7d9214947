"""Options that follow others unless they are given themselves: warm-up, weight averaging and strong
augmentation follow the steps, pixel statistics and augmentation the channels, and so on."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

from beit.config.model import HALF
from beit.terminal import shown

SHORT = 2_000
"""Steps up to which fine-tuning does without strong augmentation: measured up to 1,500, on a small
backbone (docs/notes/small-budgets.md)."""


class Rule(NamedTuple):
    """An option that follows another."""

    follower: str
    leader: str
    value: Callable[[Any, Any, Any], object]
    """The follower's new value, from the leader's old and new values and the follower's old one."""
    beside: str = ""
    """The rule holds only in configs that have this option, too."""


def _shortened(steps: int, now: int, warmup: int) -> int:
    """The same fraction of a shorter run; a longer one keeps its warm-up, so that a run can be
    extended."""
    return warmup * now // steps if 0 < now < steps else warmup


def _within(steps: int, now: int, average: float | None) -> float | None:
    """In a shorter run, average over at most a fifth of it: else the average would still contain
    the initial weights."""
    if average is None or not 0 < now < steps:
        return average
    return min(average, round(1 - 5 / now, 4)) if now > 5 else None


def _becomes_short(steps: int, now: int) -> bool:
    return 0 < now <= SHORT < steps


def _off_if_short(steps: int, now: int, strength: float | str) -> float | str:
    """Switch an augmentation off in a short run."""
    return type(strength)() if _becomes_short(steps, now) else strength


def _larger_if_short(steps: int, now: int, scale: tuple[float, float]) -> tuple[float, float]:
    """Crops of no less than 40 % of the image in a short run."""
    low, high = scale
    return (max(low, 0.4), max(high, 0.4)) if _becomes_short(steps, now) else scale


def _lowered(lr: float, now: float, min_lr: float) -> float:
    """The same fraction of a new rate that is below `min_lr`. A rate that makes no sense is left
    for `lr` to refuse."""
    return min_lr * now / lr if 0 <= now < min_lr else min_lr


def _per_channel(channels: int, now: int, values: tuple[float, ...]) -> tuple[float, ...]:
    """One value per channel: the value that all channels share, else 0.5, since nothing is known of
    new channels."""
    if now == channels:
        return values
    return (values[0] if len(set(values)) == 1 else HALF[0],) * now


def _for_colours(_channels: int, now: int, policy: object) -> object:
    """Switch off a policy that is only defined for three channels if there are more or fewer."""
    return policy if now == 3 else type(policy)()


RULES = (
    Rule("warmup_steps", "steps", _shortened),
    Rule("average", "steps", _within),
    Rule("mixup", "steps", _off_if_short),
    Rule("cutmix", "steps", _off_if_short),
    Rule("erasing", "steps", _off_if_short),
    Rule("rand_augment", "steps", _off_if_short),
    Rule("crop_scale", "steps", _larger_if_short, beside="mixup"),
    Rule("min_lr", "lr", _lowered),
    Rule("mean", "channels", _per_channel),
    Rule("std", "channels", _per_channel),
    Rule("rand_augment", "channels", _for_colours),
    Rule("early_layer", "depth", lambda depth, now, layer: layer and max(1, layer * now // depth)),
)
WITH_STEPS = {rule.follower for rule in RULES if rule.leader == "steps"}
LEADERS: dict[str, type[int] | type[float]] = {
    rule.leader: float if rule.leader == "lr" else int for rule in RULES
}


def following(
    before: Mapping[str, object], options: Mapping[str, object]
) -> Iterator[tuple[Rule, object]]:
    """Each rule by which an option changes that was not given itself, and its new value.

    Args:
        before: The values of a config, by name.
        options: Values to replace some of them. Those of a wrong type change nothing here: the
            config will refuse them.
    """
    for rule in RULES:
        now, was = options.get(rule.leader), before.get(rule.leader)
        applies = {rule.follower, rule.beside or rule.follower} <= before.keys()
        if not applies or rule.follower in options:
            continue
        if isinstance(now, bool) or not isinstance(now, int | float) or now == was:
            continue
        value = rule.value(was, now, before[rule.follower])
        if value != before[rule.follower]:
            yield rule, value


def followed(before: Mapping[str, object], now: Mapping[str, object]) -> Iterator[str]:
    """In words, a line for each option that differs from a recipe (`before`) and thereby changed
    others in a config (`now`)."""
    leaders = {name: now[name] for name in LEADERS if name in now}
    changed: dict[str, list[str]] = {}
    for rule, value in following(before, leaders):
        if now[rule.follower] == value:
            said = "off" if value in {"", 0, None} else shown(value)
            changed.setdefault(rule.leader, []).append(f"{rule.follower} is {said}")
    for leader, values in changed.items():
        yield (
            f"as {leader} is {shown(now[leader])}, {', '.join(values)}, unless set by an option "
            "of that name"
        )
