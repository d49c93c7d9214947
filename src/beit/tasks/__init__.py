"""One function per verb that trains or measures.

Those that train wire source, loader, objective and `fit` together. Each takes a recipe (a name,
`module:function`, or a config) and options that change it by name, the same names as on the command
line. Everything that can be wrong is checked before the run's folder is made.
"""

from beit.tasks.evaluating import evaluate
from beit.tasks.execution import Run
from beit.tasks.finetuning import finetune
from beit.tasks.initial import Opened, starting_from
from beit.tasks.pretraining import pretrain
from beit.tasks.probing import probe
from beit.tasks.segmenting import segment
from beit.tasks.tokenizing import tokenizer

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
