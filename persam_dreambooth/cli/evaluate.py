"""`persam-dreambooth evaluate BENCHMARK`: our numbers beside the paper's, every object's row, the worst cases.

`evaluate generation`, which is about what models draw and has flags of its own, is in `evaluate_generation`.
"""

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from tqdm import tqdm

from persam_dreambooth.cli.parsing import parse
from persam_dreambooth.cli.sam_flags import SamFlags
from persam_dreambooth.errors import UserError
from persam_dreambooth.evaluation import ablation, paper, presence, report
from persam_dreambooth.evaluation.averages import per_object
from persam_dreambooth.evaluation.contestants import persam_contestant, persam_video
from persam_dreambooth.evaluation.davis import Davis, VideoMethod, evaluate_davis
from persam_dreambooth.evaluation.folders import FSS1000, PerSeg
from persam_dreambooth.evaluation.protocols import Benchmark
from persam_dreambooth.evaluation.running import Contestant, Plan, evaluate, open_output
from persam_dreambooth.evaluation.sampled import Lvis92, PacoPart, PascalPart
from persam_dreambooth.photos import files
from persam_dreambooth.preprocessing.job import PRESENCE_NAME
from persam_dreambooth.segmentation import Backbone, ImageEncoder, Method, PerSAM

BENCHMARKS: dict[str, Callable[[Path], Benchmark]] = {
    one.name: one for one in (PerSeg, FSS1000, Lvis92, PascalPart, PacoPart)
}
PRESENCE = "presence"
QUESTIONS = (*BENCHMARKS, Davis.name, "ablate", PRESENCE)
GENERATION = "generation"
DESCRIPTION = (
    f"BENCHMARK is one of {', '.join(QUESTIONS)}; docs/evaluation.md says how each folder is laid out. "
    f"What trained models draw is measured by `evaluate {GENERATION}`, with flags of its own: see its --help."
)

# Flags that only some evaluations read; the others refuse them.
READ_BY = {
    "method": {*BENCHMARKS, Davis.name, PRESENCE},
    "folds": {*BENCHMARKS},
    "episodes": {*BENCHMARKS, "ablate"},
    "seed": {*BENCHMARKS, "ablate", PRESENCE},
    "tables": {"ablate"},
    "steps": {"ablate"},
    "encoder": {PRESENCE},
}


@dataclass
class EvaluateFlags:
    """The verb's flags."""

    data: str | None = field(default=None, metadata={"help": "the benchmark's folder"})
    output: str | None = field(
        default=None, metadata={"help": "folder for results.json, results.csv, worst.png, masks/ and episodes.json"}
    )
    method: Literal["persam", "persam-f"] = field(
        default="persam", metadata={"help": "training-free, or with two fitted mask weights; not for ablate"}
    )
    fidelity: Literal["corrected", "official", "paper"] = field(
        default="corrected",
        metadata={
            "help": "corrected: right on photos of any shape; official: as the authors' code; paper: as printed"
        },
    )
    folds: list[str] = field(
        default_factory=list, metadata={"help": "the folds to score, counted from 0; all of them if unset"}
    )
    episodes: int | None = field(
        default=None, metadata={"help": "episodes a fold, for a quick look; the protocol's own number if unset"}
    )
    seed: int = field(default=0, metadata={"help": "of the episodes, which episodes.json then keeps"})
    tables: list[str] = field(
        default_factory=list, metadata={"help": "of ablate: the paper's tables 4, 5 and 6; all three if unset"}
    )
    steps: int = field(default=1000, metadata={"help": "of ablate: steps of each fit in table 5"})
    encoder: str | None = field(
        default=None,
        metadata={"help": "of presence: a CLIP or DINO, hub name or folder, that says how alike two subjects look"},
    )

    def __post_init__(self) -> None:
        for name in ("data", "output"):
            if not getattr(self, name):
                raise UserError(f"--{name} is missing; see --help")
        if not all(fold.isdecimal() for fold in self.folds):
            raise UserError(f"--folds {' '.join(self.folds)} must be numbers from 0")
        for name in ("episodes", "steps"):
            if getattr(self, name) is not None and getattr(self, name) < 1:
                raise UserError(f"--{name} {getattr(self, name)} must be at least 1")
        unknown = [table for table in self.tables if table not in ablation.TABLES]
        if unknown:
            raise UserError(f"--tables {unknown[0]} is unknown; choose among {', '.join(ablation.TABLES)}")

    def chosen_method(self) -> Method:
        """PerSAM or PerSAM-F."""
        return Method.persam_f(self.fidelity) if self.method == "persam-f" else Method(self.fidelity)

    def settings(self, question: str, sam: SamFlags, **more: Any) -> dict[str, Any]:
        """What makes this run this run."""
        drawn = {"folds": self.folds, "episodes": self.episodes, "seed": self.seed}
        return {"evaluation": question, "sam": sam.sam, "dtype": sam.dtype} | more | drawn


GROUPS = [EvaluateFlags, SamFlags]


def run(program: str, argv: list[str]) -> None:
    """Evaluate, print the table, and say where the rest lies."""
    question = argv[0] if argv else ""
    if question in ("-h", "--help"):
        parse(GROUPS, argv, f"{program} BENCHMARK", DESCRIPTION)
    if question == GENERATION:
        from persam_dreambooth.cli import evaluate_generation  # loads diffusers, which the benchmarks do without

        evaluate_generation.run(f"{program} {question}", argv[1:])
        return
    if question not in QUESTIONS:
        said = f"no benchmark {question!r}" if question else "the benchmark is missing"
        raise UserError(f"{said}; choose one of {', '.join((*QUESTIONS, GENERATION))}")
    flags, sam = parse(GROUPS, argv[1:], f"{program} {question}", DESCRIPTION)
    _refuse_unread(question, flags)
    if question == PRESENCE:
        _presence(flags, sam)
        return
    if question == Davis.name:
        _davis(flags, sam)
    elif question == "ablate":
        _ablate(flags, sam)
    else:
        _benchmark(question, flags, sam)
    output = Path(flags.output)
    print(f"every object: {output / report.ROWS_NAME}")
    print(f"look at the worst: {output / report.WORST_NAME}")


def _refuse_unread(question: str, flags: EvaluateFlags) -> None:
    """A flag that is accepted and does nothing would mislead."""
    plain = EvaluateFlags(data=flags.data, output=flags.output)
    for name, readers in READ_BY.items():
        if question not in readers and getattr(flags, name) != getattr(plain, name):
            raise UserError(f"--{name} means nothing to {question}; leave it out")


def _benchmark(question: str, flags: EvaluateFlags, sam: SamFlags) -> None:
    method, name = flags.chosen_method(), flags.method

    def load() -> tuple[Backbone, dict[str, Contestant]]:
        backbone = sam.backbone()
        return backbone, {name: persam_contestant(backbone, method)}

    settings = flags.settings(question, sam, method=asdict(method))
    known = paper.BENCHMARKS[question][name]
    ours = _score(BENCHMARKS[question], flags, settings, [name], load, {name: known})
    print(report.table(list(ours[name]), [(name, ours[name], known)]))


def _ablate(flags: EvaluateFlags, sam: SamFlags) -> None:
    tables = flags.tables or list(ablation.TABLES)
    names = ablation.contestants_of(tables)

    def load() -> tuple[Backbone, dict[str, Contestant]]:
        backbone = sam.backbone()
        return backbone, ablation.build(names, backbone, flags.fidelity, flags.steps)

    settings = flags.settings("ablate", sam, fidelity=flags.fidelity, steps=flags.steps)
    known = {name: {"mIoU": number} for name, number in paper.ABLATION.items()}
    ours = _score(PerSeg, flags, settings, names, load, known)
    for number in tables:
        print(f"\nTable {number}: {ablation.TITLES[number]}")
        rows = [(title, ours[name], known.get(name, {})) for name, title in ablation.TABLES[number].items()]
        print(report.table(["mIoU", "bIoU"], rows))
    print()


def _score(
    make: Callable[[Path], Benchmark],
    flags: EvaluateFlags,
    settings: dict[str, Any],
    names: list[str],
    load: Callable[[], tuple[Backbone, dict[str, Contestant]]],
    known: Mapping[str, Mapping[str, float]],
) -> dict[str, dict[str, float]]:
    """Run a benchmark, write its report, say how much was asked; our numbers by contestant."""
    benchmark, output = make(Path(str(flags.data))), Path(str(flags.output))
    folds = [int(fold) for fold in flags.folds] or None
    plan = Plan(benchmark, output, settings, folds, flags.seed, flags.episodes)
    episodes, scores = evaluate(plan, names, load)
    rows = per_object(scores)
    ours = report.write_report(output, benchmark, settings, episodes, scores, rows, known)
    groups = len({(row.fold, row.group) for row in rows})
    print(
        f"{benchmark.title}: {groups} objects or classes, {len(episodes)} episodes, SAM {settings['sam']}; in percent"
    )
    unlearned = sum(row.unlearned for row in rows)
    if unlearned:
        print(f"{unlearned} answers count as empty masks, since their reference could not be learned")
    return ours


def _davis(flags: EvaluateFlags, sam: SamFlags) -> None:
    davis = Davis(Path(str(flags.data)))
    method = flags.chosen_method()
    settings = flags.settings(Davis.name, sam, method=asdict(method))
    known = paper.BENCHMARKS[Davis.name][flags.method]

    def load() -> VideoMethod:
        return persam_video(sam.backbone(), method)

    ours = evaluate_davis(davis, load, Path(str(flags.output)), settings, known)
    print(f"{davis.title}: {len(davis.videos)} videos, SAM {settings['sam']}; in percent")
    print(report.table(list(ours), [(flags.method, ours, known)]))


def _presence(flags: EvaluateFlags, sam: SamFlags) -> None:
    """Calibrate the presence rule on one half of PerSeg's objects, say what it does on the other."""
    output, method = Path(str(flags.output)), flags.chosen_method()
    learned, others = presence.halves(PerSeg(Path(str(flags.data))), flags.seed)
    open_output(output, flags.settings(PRESENCE, sam, method=asdict(method), encoder=flags.encoder))
    persam = PerSAM(sam.backbone(), method)
    encoder = ImageEncoder.from_pretrained(flags.encoder, sam.device) if flags.encoder else None
    measured = presence.measure(persam, encoder, tqdm(learned, "Measuring", unit="object"))
    named = str(Path(flags.encoder).resolve()) if flags.encoder and Path(flags.encoder).is_dir() else flags.encoder
    rule = presence.fit_rule(list(measured), persam.checksum, named)
    rule.save(output / PRESENCE_NAME)
    judged = list(presence.judge(persam, rule, encoder, tqdm(others, "Judging", unit="object")))
    files.write_json([asdict(row) for row in presence.rows(judged)], output / report.RESULTS_NAME)
    presence.draw_curves({"presence": judged}, output / "roc.png")
    print(presence.table(presence.rows(judged)))
    print(f"the rule, for segment's --presence or to lie beside the SAM: {output / PRESENCE_NAME}")
    print(f"look at its ROC curve: {output / 'roc.png'}")
