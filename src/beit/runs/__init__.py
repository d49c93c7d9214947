"""One function per verb that trains or measures.

Those that train wire source, loader, objective and `fit` together. Each takes a recipe (a name,
`module:function`, or a config) and options that change it by name, the same names as on the command
line. Everything that can be wrong is checked before the run's folder is made.
"""

from beit.runs.evaluating import evaluate
from beit.runs.execution import Run
from beit.runs.finetuning import finetune
from beit.runs.initial import Opened, starting_from
from beit.runs.pretraining import pretrain
from beit.runs.probing import probe
from beit.runs.segmenting import segment
from beit.runs.tokenizing import tokenizer

__all__ = [
    "Opened",
    "Run",
    "evaluate",
    "finetune",
    "pretrain",
    "probe",
    "segment",
    "starting_from",
    "tokenizer",
]
