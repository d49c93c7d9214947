"""The file formats (`torch.export` programs, ONNX, OpenVINO), and how each is run to be checked."""

from __future__ import annotations

import importlib
import importlib.metadata
import json
import logging
import os
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.export import Dim, ExportedProgram

from beit.atomic_io import write_file
from beit.config.validation import require
from beit.errors import ExportError, optional_library
from beit.hardware import raise_if_exhausted
from beit.weights.export.graph import LARGEST, SMALLEST, Format, Graph, Precision, Target
from beit.weights.fetch import first_line

Run = Callable[[np.ndarray], list[np.ndarray]]
"""Takes images, and returns every output of the graph."""
INPUT = "images"
METADATA = "metadata.json"
MOST_IMAGES = 4096
MOST_PIXELS = 16384
"""Most pixels per side of an image that a graph resizes."""
NAMES: dict[Format, str] = {"torch": "model.pt2", "onnx": "model.onnx", "openvino": "model.xml"}
LARGEST_FILE = 2**31 - 2**20
"""Bytes that one ONNX file can hold."""
NO_TELEMETRY = ("ORT_DISABLE_TELEMETRY", "1")
"""ONNX Runtime reports its use to Microsoft unless it is imported with this in the environment."""
PLACES_IN_CODE = ("stack_trace", "from_node", "custom")


def _library(name: str, extra: str) -> Any:
    """Import an optional library. Raises ResourceError if it is not installed."""
    os.environ.setdefault(*NO_TELEMETRY)
    with optional_library(f"exporting needs the library {name.split('.')[0]}", extra):
        return importlib.import_module(name)


def check_libraries(to: Format, precision: Precision) -> None:
    """Raise ResourceError for a missing library, ConfigError for int8 in a format without it."""
    if to == "torch":
        require(
            precision != "int8",
            "int8 is a precision of ONNX files",
            "use --to onnx, or another precision",
        )
        return
    for name in ("onnx", "onnxscript", "onnxruntime"):
        _library(name, "export")
    if to == "openvino":
        _library("openvino", "openvino")


def versions(to: Format) -> dict[str, str]:
    """Versions of the libraries that write the file."""
    names = {"torch": (), "onnx": ("onnx",), "openvino": ("onnx", "openvino")}[to]
    return {name: importlib.metadata.version(name) for name in names}


def write(graph: Graph, folder: Path, metadata: Mapping[str, str]) -> Path:
    """Write a graph in the format of its target.

    Args:
        graph: What `build_graph` made.
        folder: An empty folder for the files.
        metadata: Names and values to store in the file.

    Returns:
        The file to open.

    Raises:
        ExportError: PyTorch cannot follow the model, or the format has no place for it.
    """
    target = graph.target
    program = _trace(graph)
    file = folder / NAMES[target.to]
    if target.to == "torch":
        whole = BytesIO()  # torch's own writer ends the process where the disk is full
        torch.export.save(program, whole, extra_files={METADATA: json.dumps(dict(metadata))})
        write_file(file, [whole.getbuffer()])
        return file
    onnx_file = folder / NAMES["onnx"]
    _write_onnx(program, graph, onnx_file, metadata)
    if target.precision == "int8":
        _quantise(onnx_file)
    if target.to == "openvino":
        openvino = _library("openvino", "openvino")
        model = openvino.Core().read_model(str(onnx_file))
        for key, value in metadata.items():
            model.set_rt_info(value, ["beit", key])
        openvino.save_model(model, str(file), compress_to_fp16=False)
        onnx_file.unlink()
    return file


def _example(target: Target) -> torch.Tensor:
    """Images to trace a graph with, of a size that is not special in any way."""
    height, width = target.size
    if target.dynamic:
        rows = height // target.unit
        width = (rows + 1 if rows < LARGEST else rows - 1) * target.unit
    if target.preprocess == "none":
        return torch.rand(2, target.channels, height, width)
    if target.preprocess == "resize":
        height, width = height + 5, width + 9
    return torch.zeros(2, height, width, target.channels, dtype=torch.uint8)


def _trace(graph: Graph) -> ExportedProgram:
    """The graph as a program of any batch size. Raises ExportError if PyTorch cannot follow it."""
    target = graph.target
    first = 2 if target.preprocess == "none" else 1
    dynamic: dict[int, Any] = {0: Dim("batch", min=1, max=MOST_IMAGES)}
    for axis, name in ((first, "rows"), (first + 1, "columns")):
        if target.dynamic:
            dynamic[axis] = target.unit * Dim(name, min=SMALLEST, max=LARGEST)
        elif target.preprocess == "resize":
            dynamic[axis] = Dim(name, min=1, max=MOST_PIXELS)
    try:
        with torch.no_grad():
            program = torch.export.export(graph, (_example(target),), dynamic_shapes=(dynamic,))
    except Exception as error:  # of many types, none of them public
        raise_if_exhausted(error)
        raise ExportError(
            f"PyTorch cannot export this model: {first_line(error)}",
            remedy="export a fixed size, without preprocessing; and report it",
        ) from error
    for module in program.graph_module.modules():
        if isinstance(module, torch.fx.GraphModule):
            for node in module.graph.nodes:  # keep the paths of this machine out of the file
                for key in PLACES_IN_CODE:
                    node.meta.pop(key, None)
    return program


@contextmanager
def _errors_only(logger: logging.Logger) -> Iterator[None]:
    """Silence the warnings of a library, none of which matters here."""
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


def _write_onnx(
    program: ExportedProgram, graph: Graph, file: Path, metadata: Mapping[str, str]
) -> None:
    """Write an ONNX file. Raises ExportError for a model that is too large or cannot be written as
    one."""
    onnx = _library("onnx", "export")
    size = sum(weight.nbytes for weight in graph.state_dict().values())
    if size > LARGEST_FILE:
        raise ExportError(
            f"the weights have {size / 2**30:.1f} GiB, and one ONNX file holds 2",
            remedy="use --precision fp16, or --to torch",
        )
    try:
        with _errors_only(logging.getLogger("torch.onnx")):
            made = torch.onnx.export(
                program,
                dynamo=True,
                input_names=[INPUT],
                output_names=graph.target.outputs,
                opset_version=graph.target.opset,
                verbose=False,
            )
    except Exception as error:  # of many types, none of them public
        raise_if_exhausted(error)
        raise ExportError(
            f"PyTorch cannot write this model as ONNX: {first_line(error)}",
            remedy="use --to torch; and report it",
        ) from error
    assert made is not None
    model = made.model_proto
    # PyTorch states its own, newer version of the format, whatever the operators need.
    model.ir_version = onnx.helper.find_min_ir_version_for(model.opset_import)
    _name_sides(model.graph)
    _forget_places(model)
    onnx.helper.set_model_props(model, dict(metadata))
    onnx.checker.check_model(model, full_check=True)
    onnx.save_model(model, str(file))


def _name_sides(graph: Any) -> None:
    """Name the dynamic dimensions, for which PyTorch has symbols only."""
    names = {}
    shape = graph.input[0].type.tensor_type.shape.dim
    for axis, dim in enumerate(shape):
        symbols = re.findall(r"s\d+", dim.dim_param)
        if symbols:
            names[symbols[0]] = "batch" if axis == 0 else f"side_{axis}"
    for value in (*graph.input, *graph.output):
        for dim in value.type.tensor_type.shape.dim:
            if dim.dim_param:
                dim.dim_param = re.sub(
                    r"s\d+", lambda found: names.get(found[0], found[0]), dim.dim_param
                )
    del graph.value_info[:]


def _forget_places(model: Any) -> None:
    """Remove the exporter's notes on its source code, which contain paths of this machine."""
    for part in (model.graph, *model.functions):
        for named in (part, *part.node):
            del named.metadata_props[:]
            named.doc_string = ""
        for value in (*getattr(part, "input", ()), *getattr(part, "initializer", ())):
            if hasattr(value, "metadata_props"):
                del value.metadata_props[:]
                value.doc_string = ""
    for value in model.graph.output:
        del value.metadata_props[:]


def _quantise(file: Path) -> None:
    """Quantise the weights of the matrix products to int8, in place.

    Their inputs are quantised at run time, each with a scale of its own. Raises ExportError for a
    model without such products.
    """
    onnx = _library("onnx", "export")
    quantization = _library("onnxruntime.quantization", "export")
    metadata = {entry.key: entry.value for entry in onnx.load(str(file)).metadata_props}
    with _errors_only(logging.getLogger()):  # it recommends a step that changes nothing here
        quantization.quantize_dynamic(
            str(file),
            str(file),
            op_types_to_quantize=["MatMul"],
            per_channel=True,
            weight_type=quantization.QuantType.QInt8,
            reduce_range=True,  # sums of full ranges overflow on CPUs without VNNI
            extra_options={"DefaultTensorType": onnx.TensorProto.FLOAT},
        )
    model = onnx.load(str(file))
    if all(node.op_type != "MatMulInteger" for node in model.graph.node):
        raise ExportError(
            "the model has no matrix product with weights, so int8 would change nothing",
            remedy="use --precision fp32 or fp16",
        )
    onnx.helper.set_model_props(model, metadata)
    onnx.save_model(model, str(file))


def open_file(file: Path, to: Format) -> Run:
    """Open an exported file as its users will: read back from the disk, without our model."""
    if to == "torch":
        module = torch.export.load(file).module()

        def run_torch(images: np.ndarray) -> list[np.ndarray]:
            with torch.no_grad():
                return [output.numpy() for output in module(torch.from_numpy(images))]

        return run_torch
    if to == "onnx":
        runtime = _library("onnxruntime", "export")
        options = runtime.SessionOptions()
        options.log_severity_level = 3
        session = runtime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
        return lambda images: list(session.run(None, {INPUT: images}))
    openvino = _library("openvino", "openvino")
    compiled = openvino.Core().compile_model(str(file), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})

    def run_openvino(images: np.ndarray) -> list[np.ndarray]:
        found = compiled({0: images})
        return [np.array(found[output]) for output in compiled.outputs]

    return run_openvino
