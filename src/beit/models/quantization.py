"""Linear layers in eight bits, for answers on a CPU; an extra, as torchao does it."""

from __future__ import annotations

from torch import nn

from beit.errors import ConfigError


def quantize_linears(model: nn.Module) -> None:
    """Replace the weights of all linear layers by int8, in place.

    One scale per output channel of a weight, and one per token, found while computing, of what it
    is multiplied with; products are added up in int32. Norms, softmax and attention stay as they
    are. Where the processor adds int8 products in 16 bits (no VNNI), seven bits are used.

    Raises `ConfigError` if torchao is not installed.
    """
    try:
        from torchao.quantization import Int8DynamicActivationInt8WeightConfig, quantize_
        from torchao.utils import should_reduce_range
    except ImportError as error:
        raise ConfigError(
            f"answers in int8 need torchao: {error}", remedy='pip install "beit[int8]"'
        ) from error
    device = next(model.parameters()).device
    manner = Int8DynamicActivationInt8WeightConfig(
        set_inductor_config=False,  # it would change settings of the whole process
        reduce_range=should_reduce_range(device),
    )
    quantize_(model, manner)
