"""Parameters of the methods: without torch, printable, storable, and the validated body of an API call.

A spec says what to run; `unlearning.methods.registry.METHODS` has the function that runs it. Defaults are [ours]
(docs/methods.md): no source we have gives the papers' constants.
"""

from unlearning.specs.baselines import (
    CT,
    MSG,
    NPO,
    RMU,
    SSD,
    AmnesiacRelabel,
    BadTeacher,
    FineTune,
    FisherNoise,
    GradDiff,
    NegGradPlus,
    RandomLabels,
    SalUn,
    SimNPO,
)
from unlearning.specs.methods import IEU, LTU, Certified, DropAdapter, GradientAscent, Matching, Retrain, Rewind, Stop
from unlearning.specs.parsing import (
    BASELINES,
    CHEAP_REWIND,
    DEFAULT_POLICY,
    EXACT,
    PRODUCTION,
    SPECS,
    Baseline,
    Method,
    Spec,
    method_object,
    parse,
)

__all__ = [
    "BASELINES",
    "CHEAP_REWIND",
    "CT",
    "DEFAULT_POLICY",
    "EXACT",
    "IEU",
    "LTU",
    "MSG",
    "NPO",
    "PRODUCTION",
    "RMU",
    "SPECS",
    "SSD",
    "AmnesiacRelabel",
    "BadTeacher",
    "Baseline",
    "Certified",
    "DropAdapter",
    "FineTune",
    "FisherNoise",
    "GradDiff",
    "GradientAscent",
    "Matching",
    "Method",
    "NegGradPlus",
    "RandomLabels",
    "Retrain",
    "Rewind",
    "SalUn",
    "SimNPO",
    "Spec",
    "Stop",
    "method_object",
    "parse",
]
