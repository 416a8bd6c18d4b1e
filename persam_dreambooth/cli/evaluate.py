"""`persam-dreambooth evaluate BENCHMARK`: our numbers beside the paper's, a row per object, the worst cases.

`evaluate generation` and `evaluate checkpoints`, which score trained models and have their own flags, are in
`evaluate_generation` and `evaluate_checkpoints`.
"""

from persam_dreambooth.cli.evaluate_flags import EvaluateFlags
from persam_dreambooth.cli.parsing import parse
from persam_dreambooth.cli.sam_flags import SamFlags
from persam_dreambooth.errors import UserError

BENCHMARKS = ("perseg", "permis", "fss", "coco20", "pascal5", "lvis92", "pascal-part", "paco-part")
DAVIS, ABLATE, PRESENCE, GENERATION, CHECKPOINTS = "davis", "ablate", "presence", "generation", "checkpoints"
QUESTIONS = (*BENCHMARKS, DAVIS, ABLATE, PRESENCE)
DESCRIPTION = f"""\
Score one-shot segmentation on a public benchmark, which you have downloaded, next to the paper's numbers.

BENCHMARK is one of {", ".join(BENCHMARKS)} (photos), {DAVIS} (videos), \
{ABLATE} (the ablations in PerSAM's paper) and {PRESENCE} (makes the rule that decides whether a photo shows the \
subject). docs/evaluation.md shows the layouts of their folders.

Trained models are scored by two others, which have flags of their own:
  persam-dreambooth evaluate {GENERATION} --help
  persam-dreambooth evaluate {CHECKPOINTS} --help

example:
  persam-dreambooth evaluate {{question}} --data data/{{question}} --output {{question}}-scores"""

# Flags that only some evaluations read; the others refuse them.
READ_BY = {
    "method": {*BENCHMARKS, DAVIS, PRESENCE},
    "features": {*BENCHMARKS, DAVIS, PRESENCE},
    "features_size": {*BENCHMARKS, DAVIS, PRESENCE},
    "crop_n_layers": {*BENCHMARKS, PRESENCE},
    "seggpt": {*BENCHMARKS, DAVIS, PRESENCE},
    "ensemble": {*BENCHMARKS},
    "reference": {*BENCHMARKS},
    "folds": {*BENCHMARKS},
    "memory": {DAVIS},
    "episodes": {*BENCHMARKS, ABLATE},
    "shots": {*BENCHMARKS},
    "seed": {*BENCHMARKS, ABLATE, PRESENCE},
    "tables": {ABLATE},
    "steps": {ABLATE},
    "encoder": {PRESENCE},
}
GROUPS = [EvaluateFlags, SamFlags]


def run(program: str, argv: list[str]) -> None:
    """Evaluate, then print the table and the paths of the details."""
    question = argv[0] if argv else ""
    if question in ("-h", "--help"):
        parse(GROUPS, argv, f"{program} BENCHMARK", DESCRIPTION.format(question="perseg"))
    if question == GENERATION:
        from persam_dreambooth.cli import evaluate_generation  # loads diffusers, which the benchmarks do not need

        evaluate_generation.run(f"{program} {question}", argv[1:])
        return
    if question == CHECKPOINTS:
        from persam_dreambooth.cli import evaluate_checkpoints

        evaluate_checkpoints.run(f"{program} {question}", argv[1:])
        return
    if question not in QUESTIONS:
        said = f"no benchmark {question!r}" if question else "the benchmark is missing"
        raise UserError(f"{said}; choose one of {', '.join((*QUESTIONS, GENERATION, CHECKPOINTS))}")
    flags, sam = parse(GROUPS, argv[1:], f"{program} {question}", DESCRIPTION.format(question=question))
    _refuse_unread(question, flags)
    sam.refuse_unread(flags.method)
    from persam_dreambooth.cli import benchmarks

    special = {DAVIS: benchmarks.run_davis, ABLATE: benchmarks.run_ablation, PRESENCE: benchmarks.run_presence}
    special.get(question, benchmarks.run_benchmark)(question, flags, sam)


def _refuse_unread(question: str, flags: EvaluateFlags) -> None:
    """Refuse flags that this evaluation does not read."""
    plain = EvaluateFlags(data=flags.data, output=flags.output)
    for name, readers in READ_BY.items():
        if question not in readers and getattr(flags, name) != getattr(plain, name):
            raise UserError(f"--{name} has no effect on {question}; drop it")
