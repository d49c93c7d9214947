"""What training compiles becomes machine code for an H100, found without one.

Inductor lowers the graphs that blocks and tokenizers become for a fake GPU of compute capability
9.0, and Triton compiles each of its kernels down to the binary; only loading it needs a driver.
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from functorch.compile import make_boxed_func
from torch import Tensor, fx
from torch._guards import detect_fake_mode
from torch.fx.passes.fake_tensor_prop import FakeTensorProp
from torch.nn.attention import SDPBackend, sdpa_kernel

from beit.batch import to_device
from beit.rng import SampleRNG
from beit.training.device import COMPILER
from miniature import CPU, masked, masked_batch

triton = pytest.importorskip("triton")

GPU = torch.device("cuda", 0)
SHARED = 227 * 1024
H100 = {
    "name": "H100", "major": 9, "minor": 0, "total_memory": 80 << 30, "warp_size": 32,
    "multi_processor_count": 132, "max_threads_per_multi_processor": 2048,
    "max_threads_per_block": 1024, "regs_per_multiprocessor": 65536,
    "shared_memory_per_block": 48 * 1024, "shared_memory_per_block_optin": SHARED,
    "shared_memory_per_multiprocessor": 228 * 1024, "L2_cache_size": 50 << 20,
}  # fmt: skip


class Driver:
    """Names the target, and can do nothing else."""

    @staticmethod
    def is_active() -> bool:
        return True

    def get_current_target(self) -> Any:
        from triton.backends.compiler import GPUTarget

        return GPUTarget("cuda", 90, 32)

    def get_current_device(self) -> int:
        return 0

    def get_active_torch_device(self) -> torch.device:
        return GPU

    def get_device_interface(self) -> Any:
        return torch.cuda


class Lowered:
    """A backend of `torch.compile`: graphs are compiled for an H100, then run on the CPU."""

    def __init__(self) -> None:
        from torch._dynamo.backends.common import aot_autograd
        from torch._functorch.partitioners import min_cut_rematerialization_partition
        from torch._inductor.decomposition import select_decomp_table

        self.kernels: list[Any] = []
        """As Triton returns them."""
        self.backend = aot_autograd(
            fw_compiler=self.lower,
            bw_compiler=self.lower,
            decompositions=select_decomp_table,
            partition_fn=min_cut_rematerialization_partition,
        )

    def lower(self, graph: fx.GraphModule, inputs: list[Any]) -> Any:
        from torch._inductor.compile_fx import compile_fx_inner

        there, inputs = moved(graph, inputs)
        with an_h100(self.kernels):
            compile_fx_inner(there, inputs)
        return make_boxed_func(graph.forward)


def moved(graph: fx.GraphModule, inputs: list[Any]) -> tuple[fx.GraphModule, list[Any]]:
    """The same graph of fake tensors on a GPU."""
    mode = detect_fake_mode(inputs)
    there = copy.deepcopy(graph)
    for node in there.graph.nodes:
        node.args, node.kwargs = fx.node.map_aggregate(
            (node.args, dict(node.kwargs)),
            lambda value: GPU if isinstance(value, torch.device) else value,
        )
    there.recompile()
    with mode:
        inputs = [value.to(GPU) if isinstance(value, Tensor) else value for value in inputs]
    FakeTensorProp(there, mode).propagate_dont_convert_inputs(*inputs)
    return there, inputs


@contextmanager
def an_h100(made: list[Any]) -> Iterator[None]:
    """As if there were one, until a kernel would be loaded: it goes into the list instead."""
    import triton.backends
    from torch._inductor import config, scheduler
    from torch._inductor.runtime.triton_heuristics import CachingAutotuner

    def keep(tuner: CachingAutotuner) -> None:
        made.extend(result.kernel for result in tuner.compile_results)
        tuner.launchers = [None]

    nvidia = dataclasses.replace(triton.backends.backends["nvidia"], driver=Driver)
    properties = SimpleNamespace(**H100)
    with (
        pytest.MonkeyPatch.context() as patch,
        config.patch(
            compile_threads=1,
            force_disable_caches=True,
            use_static_triton_launcher=False,
            **COMPILER["options"],
        ),
    ):
        patch.setattr(triton.backends, "backends", {"nvidia": nvidia})
        patch.setattr(triton.runtime.driver, "_active", Driver())
        patch.setattr(scheduler, "has_triton", lambda: True)
        patch.setattr(CachingAutotuner, "_make_launchers", keep)
        for name, value in {
            "is_available": True, "device_count": 1, "current_device": 0, "_exchange_device": 0,
            "_maybe_exchange_device": 0, "_lazy_init": None, "synchronize": None,
            "_get_device_properties": properties, "get_device_properties": properties,
            "get_device_capability": (9, 0), "set_rng_state": None,
            "get_rng_state": torch.zeros(16, dtype=torch.uint8),
        }.items():  # fmt: skip
            patch.setattr(torch.cuda, name, lambda *_, value=value: value, raising=False)
        yield


@pytest.mark.filterwarnings("ignore:The .grad attribute")  # Dynamo looks at it
@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_what_is_compiled_becomes_kernels_of_an_h100(unchecked):
    """Blocks forward and backward, and the tokenizer. Attention is a call into a library there, so
    it is written out here."""
    objective, batch = masked().train(), to_device(masked_batch(0), CPU.device)
    objective.draw(SampleRNG(0, 0, 0), len(batch.keys), CPU.device)
    lowered = Lowered()
    for part in objective.worth_compiling():
        part.compile(backend=lowered.backend)
    with sdpa_kernel(SDPBackend.MATH), torch.autocast("cpu", torch.bfloat16):
        objective(batch, 0.0).total.backward()
    names = " ".join(kernel.metadata.name for kernel in lowered.kernels)
    for operation in ("layer_norm_backward", "gelu_backward", "softmax_backward", "convolution"):
        assert operation in names
    assert all(kernel.asm["cubin"] for kernel in lowered.kernels)
    assert max(kernel.metadata.shared for kernel in lowered.kernels) <= SHARED
