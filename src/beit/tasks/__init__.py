"""One file per task, and one function per verb that trains or measures.

Each function takes a recipe (a name, `module:function`, or a config) and options that change it by
name, the same names as on the command line. Everything that can be wrong is checked before the
run's folder is made. Your own task is a `Task` in any module, made known by `register`.
"""

from beit.tasks.execution import Run, run
from beit.tasks.finetuning import finetune
from beit.tasks.finished import evaluate
from beit.tasks.inputs import Inputs
from beit.tasks.pretraining import pretrain
from beit.tasks.probing import probe
from beit.tasks.run_config import base_config, starting_from
from beit.tasks.segmenting import segment
from beit.tasks.task import TASKS, Setup, Task, register
from beit.tasks.tokenizing import tokenizer

__all__ = [
    "TASKS",
    "Inputs",
    "Run",
    "Setup",
    "Task",
    "base_config",
    "evaluate",
    "finetune",
    "pretrain",
    "probe",
    "register",
    "run",
    "segment",
    "starting_from",
    "tokenizer",
]
