"""Payloads that want to be run, and the containers they come in.

The worst that any of them would do is to create a file of the test, the canary.
"""

from __future__ import annotations

import gzip
import io
import struct
import tarfile
import zipfile
from itertools import chain

from written import (
    HARMLESS,
    PROTO,
    STOP,
    VALUES,
    called,
    entries,
    legacy,
    listed,
    named,
    program,
    storage,
    tensor,
    text,
    torch_zip,
    whole,
    zipped,
)

NO_TENSORS = "no tensors|lists other storages"  # the latter in the older format
SHELL = """os.system posix.system nt.system os.popen commands.getoutput subprocess.getoutput"""
LIST = """subprocess.Popen subprocess.check_output subprocess.run pip.main os.execlp"""
CODE = """
    builtins.eval builtins.exec __builtin__.eval __builtin__.exec builtins.compile timeit.timeit
    pdb.run cProfile.run bdb.Bdb.run numpy.f2py.crackfortran.myeval torch._dynamo.guards.make_guard
    torch.jit.unsupported_tensor_ops.execWrapper torch._inductor.codecache.compile_file
"""
PLACE = """
    builtins.open builtins.getattr builtins.__import__ builtins.print builtins.type io.open
    _io.FileIO os.remove os.rename os.putenv os.startfile shutil.rmtree shutil.copy
    urllib.request.urlopen http.client.HTTPConnection webbrowser.open importlib.import_module
    imp.load_source runpy.run_path runpy.run_module pty.spawn ctypes.CDLL marshal.loads
    pickle.loads _pickle.loads types.FunctionType types.CodeType functools.reduce
    operator.attrgetter operator.methodcaller codecs.decode logging.FileHandler sqlite3.connect
    asyncio.run numpy.load torch.load torch.save torch.hub.load
    torch.hub.load_state_dict_from_url torch.jit.load torch.storage._load_from_bytes
    torch.serialization.load torch.package.PackageImporter torch.utils.cpp_extension.load
    torch.fx.graph_module.reduce_graph_module torch._utils._rebuild_sparse_tensor
    torch._utils._rebuild_qtensor torch._utils._rebuild_meta_tensor_no_storage
    torch._utils._rebuild_wrapper_subclass torch._tensor._rebuild_from_type_v2
"""
INERT = """
    pathlib.Path pathlib.PosixPath functools.partial copyreg._reconstructor
    copy_reg._reconstructor torch.nn.modules.linear.Linear dall_e.load_model
    dall_e.encoder.os.system collections.Counter datetime.datetime easydict.EasyDict
    __main__.Config
"""
"""Classes that are no weights and do no harm: a placeholder stands for what they would make."""
NOTHING = """
    socket.socket tempfile.mkstemp code.interact threading.Thread multiprocessing.Process
    torch.Tensor torch.QInt8Storage torch.nn.Module collections.OrderedDict.__init__
"""
STRANGE_NAMES = (
    "collections|OrderedDict.__init__.__globals__",
    "collections.OrderedDict|__reduce__",
    "collections|OrderedDict.fromkeys",
    "collections|OrderedDict\r",
    "collections|OrderedDict\0",
    "collections| OrderedDict",
    "collections |OrderedDict",
    "torch|_utils._rebuild_tensor_v2",
    "torch._utils|sys.modules",
    "argparse|Namespace.__class__",
    "\N{CYRILLIC SMALL LETTER ES}ollections|OrderedDict",
    "|os.system",
    "os|system\x1b[2J",
)


def calls(canary: str) -> dict[str, bytes]:
    """Calls that weights have no need of, each as a pickled value."""
    arguments = {
        SHELL: text(f"touch {canary}"),
        LIST: listed(text("touch"), text(canary)),
        CODE: text(f"open({canary!r}, 'w')"),
        PLACE: text(canary) + text("w"),
        NOTHING: b"",
    }
    return {
        name: called(name, given)
        for names, given in arguments.items()
        for name in chain(names.split(), STRANGE_NAMES if names is NOTHING else ())
    }


def inert(canary: str) -> dict[str, bytes]:
    """Calls that one's own training writes beside the weights, each as a pickled value."""
    return {name: called(name, text(canary) + text("w")) for name in INERT.split()}


def _laughs() -> bytes:
    """Lists of lists of lists, each the same one ten times over."""
    inner = b"]q\x00"
    for level in range(1, 30):
        inner += b"]q%c(" % level + b"h%c" % (level - 1) * 10 + b"e"
    return inner


def _ladder() -> bytes:
    """Lists side by side, each with the one before it: shallow ones first, and deep in the end."""
    rungs = (b"]h%caq%c" % (level - 1, level) for level in range(1, 100))
    return b"(]q\0" + b"".join(rungs) + b"t"


def _modules(depth: int) -> bytes:
    """Modules within modules, each twice in the one around it."""
    inner = called("dall_e.utils.Conv2d") + b"q\x00"
    for level in range(1, depth):
        children = entries(a=b"h%c" % (level - 1), b=b"h%c" % (level - 1))
        state = entries(_parameters=b"}", _buffers=b"}", _modules=children)
        inner += called("dall_e.utils.Conv2d") + state + b"bq%c" % level
    return inner


def foreign_programs(canary: str) -> dict[str, tuple[bytes, str]]:
    """Whole pickles in other dialects, each with a word of what the refusal says."""
    touch = text(f"touch {canary}")
    system = text("os") + text("system")
    frame = b"\x95" + struct.pack("<Q", 10**6)
    ordered = named("collections.OrderedDict")
    return {
        "protocol 0": (b"cposix\nsystem\n(S'touch %s'\ntR." % canary.encode(), "protocol"),
        "protocol 1": (b"(" + touch + b"iposix\nsystem\n.", "protocol"),
        "protocol 3": (b"\x80\x03" + called("os.system", touch) + STOP, "protocol"),
        "protocol 4": (b"\x80\x04" + system + b"\x93" + touch + b"\x85R.", "protocol"),
        "protocol 5": (b"\x80\x05" + frame + system + b"\x93" + touch + b"\x85R.", "protocol"),
        "protocol 99": (b"\x80\x63" + called("os.system", touch) + STOP, "protocol"),
        "no protocol": (called("os.system", touch) + STOP, "protocol"),
        "protocol twice": (PROTO + b"\x80\x04" + named("os.system") + STOP, "PROTO"),
        "stack global": (program(system + b"\x93" + touch + b"\x85R"), "STACK_GLOBAL"),
        "inst": (program(b"(" + touch + b"iposix\nsystem\n"), "INST"),
        "obj": (program(b"(" + ordered + b"o"), "OBJ"),
        "ext1": (program(b"\x82\x01"), "EXT1"),
        "ext2": (program(b"\x83\x01\x00"), "EXT2"),
        "ext4": (program(b"\x84\x01\0\0\0"), "EXT4"),
        "newobj ex": (program(ordered + b")}\x92"), "NEWOBJ_EX"),
        "frame": (program(frame + named("os.system")), "FRAME"),
        "persistent text": (program(b"Pos.system\n"), "PERSID"),
        "out of band": (program(b"\x97"), "NEXT_BUFFER"),
        "unknown instruction": (program(b"\xff"), "xff"),
        "import and pop": (program(named("os.system") + b"0}"), "imports 'os.system'"),
        "pop": (program(ordered + b"0}"), "POP"),
        "duplicate": (program(ordered + b"2"), "DUP"),
        "no end": (PROTO + b"}", "cut|PROTO"),
        "empty stack": (PROTO + STOP, "damaged: IndexError"),
    }


def bombs() -> dict[str, tuple[bytes, str]]:
    """Values that take too much time, memory or stack."""
    million = listed(whole(10**6), whole(10**6))
    deep_key = b"})" + b"\x85" * 20_000 + b"Ns"
    return {
        "long text": (b"\x8d" + struct.pack("<Q", 2**62), "BINUNICODE8"),
        "text beyond the end": (b"X" + struct.pack("<I", 2**32 - 1), "cut"),
        "long integer": (b"\x8b" + struct.pack("<i", 2**30), "LONG4"),
        "negative long integer": (b"\x8b" + struct.pack("<i", -1), "LONG4"),
        "longest short integer": (b"\x8a\xff" + b"\x7f" * 255, NO_TENSORS),
        "decimal": (b"I" + b"9" * 100_000 + b"\n", "INT"),
        "memo bomb": (b"]r" + b"\xff" * 4, NO_TENSORS),
        "laughs": (_laughs(), "unfolds"),
        "ladder": (_ladder(), "unfolds to more"),
        "nested tuples": (b")" + b"\x85" * 20_000, "nests"),
        "nested lists": (b"]" * 10_000 + b"a" * 9_999, "nests"),
        "contains itself": (b"]q\0h\0a", "nests"),
        "dict in itself": (b"}q\0X\1\0\0\0ah\0s", "nests"),
        "modules in modules": (_modules(40), "nests|unfolds"),
        "key of nested tuples": (deep_key, NO_TENSORS),
        "too many instructions": (b"N" * 510_000, "instructions"),
        "a million squared": (
            entries(a=tensor(million, listed(whole(0), whole(0)))), "larger than",
        ),
        "huge storage": (
            entries(a=tensor(values=storage(count=whole(2**31 - 1)))), "16 bytes for the|is cut",
        ),
    }  # fmt: skip


def misuses(canary: str) -> dict[str, tuple[bytes, str]]:
    """Allowed names and instructions, used to other ends."""
    touch = text(f"touch {canary}")
    ordered, conv = named("collections.OrderedDict"), called("dall_e.utils.Conv2d")
    encoded, rebuild = called("_codecs.encode", touch), "torch._utils._rebuild_tensor_v2"
    system, strange = named("os.system"), "imports 'os.system'"
    textual = listed(text("storage"), touch, text("0"), text("cpu"), whole(1)) + b"Q"
    return {
        "memo that is not": (b"h\x07", "damaged: KeyError"),
        "mark that is not": (b"t", "damaged: IndexError"),
        "key with a newline": (b"}" + text("a\nb") + b"Ns", "sets an item"),
        "key twice": (b"}" + (text("a") + tensor() + b"s") * 2, "sets an item"),
        "name without an end": (b"c" + b"x" * 300, "does not end"),
        "calls a dict": (b"})R", "calls what is not an import"),
        "calls a text": (text("os.system") + listed(touch) + b"R", "calls what is not an import"),
        "calls a storage type": (
            called("torch.FloatStorage", touch),
            "calls what is not an import",
        ),
        "calls without a tuple": (ordered + touch + b"R", "calls what is not an import"),
        "calls what was called": (encoded + b")R", "calls what is not an import"),
        "new of a dict": (b"})\x81", "calls what is not an import"),
        "module with arguments": (called("dall_e.utils.Conv2d", b"}"), NO_TENSORS),
        "tensor without arguments": (called(rebuild), "other arguments"),
        "tensor of text": (called(rebuild, *[touch] * 6), "by sizes"),
        "parameter of a call": (called("torch._utils._rebuild_parameter", ordered), "not a tensor"),
        "set of a call": (called("builtins.set", system), strange),
        "default factory": (called("collections.defaultdict", system), strange),
        "hook": (conv + entries(_forward_hooks=entries(a=system)) + b"b", strange),
        "own setstate": (conv + entries(__setstate__=touch) + b"b", NO_TENSORS),
        "own class": (conv + entries(__class__=system) + b"b", strange),
        "state of a list": (b"]}b", "gives a state"),
        "state of an import": (ordered + b"}b", "gives a state"),
        "state that is not a dict": (conv + touch + b"b", NO_TENSORS),
        "modules that are not a dict": (conv + entries(_modules=b"]") + b"b", NO_TENSORS),
        "items of an import": (ordered + text("a") + b"Ns", "sets an item"),
        "items of a placeholder": (conv + text("a") + b"Ns", NO_TENSORS),
        "appends to a placeholder": (conv + b"Na", NO_TENSORS),
        "items of a list": (b"]" + text("a") + b"Ns", "sets an item"),
        "appends to a dict": (b"}Na", "appends"),
        "appends to a tuple": (b")(NNe", "appends"),
        "storage of a text": (textual, "refers"),
        "storage of a function": (storage("builtins.set"), "holds a storage"),
        "storage of less than nothing": (storage(count=whole(-1)), "holds a storage"),
        "class out of the table": (listed(text("module"), system, b"N", b"N") + b"Q", strange),
        "refers to a file": (listed(text("file"), text(canary)) + b"Q", "refers"),
    }


def tensors() -> dict[str, tuple[bytes, str]]:
    """Tensors that are none."""
    two = entries(a=tensor(), b=tensor(values=storage(count=whole(3))))
    many = listed(*[whole(1)] * 50)
    return {
        "storage in two ways": (two, "two ways"),
        "storage that is not there": (entries(a=tensor(values=storage(key="1"))), "1|lists other"),
        "numbers in a text": (entries(a=tensor(values=text("0"))), "by sizes"),
        "more than the storage": (entries(a=tensor(listed(whole(5)))), "describes a as"),
        "behind the storage": (entries(a=tensor(offset=whole(1))), "describes a as"),
        "far steps": (entries(a=tensor(strides=listed(whole(2)))), "describes a as"),
        "before the storage": (entries(a=tensor(offset=whole(-1))), "by sizes"),
        "backwards": (entries(a=tensor(strides=listed(whole(-1)))), "by sizes"),
        "sizes of floats": (entries(a=tensor(listed(b"G" + bytes(8)))), "by sizes"),
        "fewer strides": (entries(a=tensor(strides=b")")), "by sizes"),
        "fifty dimensions": (entries(a=tensor(many, many)), "by sizes"),
        "other numbers": (
            entries(a=tensor(values=storage("torch.CharStorage"))),
            "int8|something behind",
        ),
        "name with a slash": (b"}" + text("../a") + tensor() + b"s", "of the name"),
        "name of another script": (b"}" + text("w\u0435ight") + tensor() + b"s", "of the name"),
        "name of a hundred parts": (entries(**{"a." * 99 + "a": tensor()}), "of the name"),
        "a tensor alone": (tensor(), "no tensors by name"),
        "tensors in a list": (b"]" + tensor() + b"a", "no tensors by name"),
    }


def payloads(canary: str) -> dict[str, tuple[bytes, str]]:
    """Every payload as a whole pickle, with a word of what the refusal says of it."""
    values = {
        name: (value, "imports" if name in STRANGE_NAMES else f"imports '{name}'")
        for name, value in calls(canary).items()
    }
    values |= {name: (value, NO_TENSORS) for name, value in inert(canary).items()}
    values |= bombs() | misuses(canary) | tensors()
    whole_pickles = {name: (program(value), cause) for name, (value, cause) in values.items()}
    return whole_pickles | foreign_programs(canary)


# -- containers ------------------------------------------------------------------------------------


def _tar(content: bytes) -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as archive:
        info = tarfile.TarInfo("pickle")
        info.size = len(content)
        archive.addfile(info, io.BytesIO(content))
    return file.getvalue()


GOOD = ("a/data.pkl", HARMLESS)
PLAIN_CONTAINERS = {"zip": torch_zip, "legacy": legacy}
CONTAINERS = PLAIN_CONTAINERS | {
    "legacy system": lambda bad: legacy(HARMLESS, system=bad),
    "legacy keys": lambda bad: legacy(HARMLESS, keys=bad),
    "legacy behind": lambda bad: legacy(HARMLESS) + bad,
    "bare": lambda bad: bad,
    "zip behind a pickle": lambda bad: bad + torch_zip(HARMLESS),
    "zip of two": lambda bad: zipped(GOOD, ("a/data/0", VALUES), ("a/data.pkl", bad)),
    "zip of two folders": lambda bad: zipped(("b/data.pkl", bad), GOOD, ("a/data/0", VALUES)),
    "zip of a folder in it": lambda bad: zipped(GOOD, ("a/data/0", VALUES), ("a/a/data.pkl", bad)),
    "zip with a way up": lambda bad: zipped(("../data.pkl", bad)),
    "zip from the root": lambda bad: zipped(("/data.pkl", bad)),
    "zip compressed": lambda bad: zipped(("a/data.pkl", bad), compression=zipfile.ZIP_DEFLATED),
    "torchscript": lambda bad: zipped(GOOD, ("a/constants.pkl", bad), ("a/code/a.py", b"1")),
    "package": lambda bad: zipped(GOOD, ("a/.data/extern_modules", b""), ("a/b.pkl", bad)),
    "gzip": gzip.compress,
    "tar": _tar,
}
