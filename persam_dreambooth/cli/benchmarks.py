"""The benchmarks of `persam-dreambooth evaluate`: run one, print its table and the paths of the detailed results."""

from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from tqdm import tqdm

from persam_dreambooth.cli.evaluate_flags import EvaluateFlags
from persam_dreambooth.cli.sam_flags import SamFlags
from persam_dreambooth.errors import counted
from persam_dreambooth.evaluation.segmentation import ablation, presence, presence_report, quoted, report
from persam_dreambooth.evaluation.segmentation.davis import (
    Davis,
    VideoMethod,
    evaluate_davis,
    memory_video,
    one_shot_video,
)
from persam_dreambooth.evaluation.segmentation.few_shot import Coco20i, Pascal5i
from persam_dreambooth.evaluation.segmentation.folders import FSS1000, PerMis, PerSeg
from persam_dreambooth.evaluation.segmentation.protocols import Benchmark
from persam_dreambooth.evaluation.segmentation.report import ObjectScore, per_object
from persam_dreambooth.evaluation.segmentation.running import (
    BenchmarkPlan,
    Encode,
    EvaluatedMethod,
    encode_with,
    evaluate,
    one_shot_method,
    open_output,
)
from persam_dreambooth.evaluation.segmentation.sampled import Lvis92, PacoPart, PascalPart
from persam_dreambooth.photos import files
from persam_dreambooth.preprocessing.job import PRESENCE_NAME
from persam_dreambooth.segmentation import ImageEncoder, Method, PerSAM
from persam_dreambooth.segmentation.memory_video import load_video_model

BENCHMARKS: dict[str, Callable[[Path], Benchmark]] = {
    benchmark.name: benchmark
    for benchmark in (PerSeg, PerMis, FSS1000, Coco20i, Pascal5i, Lvis92, PascalPart, PacoPart)
}


def run_benchmark(question: str, flags: EvaluateFlags, sam: SamFlags) -> None:
    """Score a method on a benchmark, beside its authors' number."""
    name, with_box = flags.method, flags.reference == "box"

    def load() -> tuple[Encode, dict[str, EvaluatedMethod]]:
        segmenter = flags.segmenter(sam)
        return encode_with(segmenter), {name: one_shot_method(segmenter, with_box)}

    settings = flags.settings(question, sam, method=asdict(flags.chosen_method()))
    known = quoted.quoted_for(question, with_box).get(name, {})
    ours, rows = _score(BENCHMARKS[question], flags, settings, [name], load, {name: known})
    others = quoted.other_rows(question, name, with_box)
    print(report.table(list(ours[name]), [(name, ours[name], known), *others]))
    if question == PerSeg.name and not with_box:
        print(f"\nIoU of the objects in the paper's table 1:\n{report.object_table(rows, name)}\n")
    _say_where(flags)


def run_ablation(question: str, flags: EvaluateFlags, sam: SamFlags) -> None:
    """Score every row of the paper's ablations."""
    tables = flags.tables or list(ablation.TABLES)
    names = ablation.methods_of(tables)

    def load() -> tuple[Encode, dict[str, EvaluatedMethod]]:
        backbone = sam.backbone()
        return encode_with(PerSAM(backbone)), ablation.build(names, backbone, flags.fidelity, flags.steps)

    settings = flags.settings(question, sam, fidelity=flags.fidelity, steps=flags.steps)
    known = {name: {"mIoU": number} for name, number in quoted.ABLATIONS.items()}
    ours, _ = _score(PerSeg, flags, settings, names, load, known)
    for number in tables:
        print(f"\nTable {number}: {ablation.TITLES[number]}")
        rows = [(title, ours[name], known.get(name, {})) for name, title in ablation.TABLES[number].items()]
        others = quoted.OTHER_ABLATIONS.get(number, {})
        rows += [(f"{title} (quoted)", {}, {"mIoU": miou}) for title, miou in others.items()]
        print(report.table(["mIoU", "bIoU"], rows))
    print()
    _say_where(flags)


def _score(
    make: Callable[[Path], Benchmark],
    flags: EvaluateFlags,
    settings: dict[str, Any],
    names: list[str],
    load: Callable[[], tuple[Encode, dict[str, EvaluatedMethod]]],
    known: Mapping[str, Mapping[str, float]],
) -> tuple[dict[str, dict[str, float]], list[ObjectScore]]:
    """Run a benchmark, write its report, print its size; return our numbers by method, and by method and object."""
    benchmark, output = make(Path(str(flags.data))), Path(str(flags.output))
    folds = [int(fold) for fold in flags.folds] or None
    plan = BenchmarkPlan(benchmark, output, settings, folds, flags.seed, flags.episodes, flags.shots)
    episodes, scores = evaluate(plan, names, load)
    rows = per_object(scores)
    ours = report.write_report(output, benchmark, settings, episodes, scores, rows, known)
    groups = len({(row.fold, row.group) for row in rows})
    models = flags.models(settings["sam"])
    shown = f"{counted(groups, 'object or class', 'objects or classes')}, {counted(len(episodes), 'episode')}"
    print(f"{benchmark.title}: {shown}, {models}; in percent")
    unlearned = sum(row.unlearned for row in rows)
    if unlearned:
        print(f"{counted(unlearned, 'mask counts', 'masks count')} as empty, since the reference could not be learned")
    return ours, rows


def run_davis(question: str, flags: EvaluateFlags, sam: SamFlags) -> None:
    """Score a method, or a video model's memory, on DAVIS 2017."""
    davis = Davis(Path(str(flags.data)))
    followed_by = {"memory": flags.memory} if flags.memory else {"method": asdict(flags.chosen_method())}
    settings = flags.settings(question, sam, **followed_by)
    name = "memory" if flags.memory else flags.method
    known = quoted.quoted_for(question).get(name, {})

    def load() -> VideoMethod:
        if flags.memory:
            return memory_video(load_video_model(flags.memory, sam.device, sam.torch_dtype))
        return one_shot_video(flags.segmenter(sam))

    ours = evaluate_davis(davis, load, Path(str(flags.output)), settings, known)
    print(f"{davis.title}: {counted(len(davis.videos), 'video')}, {flags.models(settings['sam'])}; in percent")
    print(report.table(list(ours), [(name, ours, known), *quoted.other_rows(question, name)]))
    _say_where(flags)


def run_presence(question: str, flags: EvaluateFlags, sam: SamFlags) -> None:
    """Calibrate the presence rule on one half of PerSeg's objects, and score it on the other."""
    output, method = Path(str(flags.output)), flags.chosen_method()
    learned, others = presence.halves(PerSeg(Path(str(flags.data))), flags.seed)
    open_output(output, flags.settings(question, sam, method=asdict(method), encoder=flags.encoder))
    segmenter = flags.segmenter(sam)
    encoder = ImageEncoder.from_pretrained(flags.encoder, sam.device) if flags.encoder else None
    measured = presence.measure(segmenter, encoder, tqdm(learned, "Measuring", unit="object"))
    named = str(Path(flags.encoder).resolve()) if flags.encoder and Path(flags.encoder).is_dir() else flags.encoder
    rule = presence.fit_rule(list(measured), segmenter.calibration, named, PerSeg.title)
    rule.save(output / PRESENCE_NAME)
    judged = list(presence.judge(segmenter, rule, encoder, tqdm(others, "Judging", unit="object")))
    rows = presence_report.rows(judged)
    files.write_json([asdict(row) for row in rows], output / report.RESULTS_NAME)
    presence_report.draw_curves({"presence": judged}, output / "roc.png")
    print(presence_report.table(rows))
    changed = flags.features or sam.sam_size or flags.crop_n_layers
    beside = " or to put beside the SAM" if isinstance(method, Method) and not changed else ""
    print(f"the rule, for segment's --presence{beside}: {output / PRESENCE_NAME}")
    print(f"look at its ROC curve: {output / 'roc.png'}")


def _say_where(flags: EvaluateFlags) -> None:
    output = Path(str(flags.output))
    print(f"every object: {output / report.ROWS_NAME}")
    print(f"look at the worst: {output / report.WORST_NAME}")
