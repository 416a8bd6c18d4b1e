"""The command line: errors are one line with exit code 2, every flag has a help text, config files equal flags."""

import subprocess
import sys
import sysconfig
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from persam_dreambooth import __version__
from persam_dreambooth.cli import VERBS, main
from persam_dreambooth.cli.convert import ConvertFlags
from persam_dreambooth.cli.evaluate import GROUPS as EVALUATE
from persam_dreambooth.cli.evaluate_checkpoints import CheckpointFlags
from persam_dreambooth.cli.evaluate_generation import GenerationReportFlags
from persam_dreambooth.cli.export import ExportFlags
from persam_dreambooth.cli.generate import GenerateFlags
from persam_dreambooth.cli.import_masks import ImportFlags
from persam_dreambooth.cli.method_flags import MethodFlags
from persam_dreambooth.cli.parsing import parse
from persam_dreambooth.cli.review import GROUPS as REVIEW
from persam_dreambooth.cli.sam_flags import SamFlags
from persam_dreambooth.cli.segment import GROUPS as SEGMENT
from persam_dreambooth.cli.segment_flags import SegmentFlags, TextFlags, WordFlags
from persam_dreambooth.cli.video import GROUPS as VIDEO
from persam_dreambooth.errors import UserError
from persam_dreambooth.flags import Flags, flag, flags_of
from persam_dreambooth.preprocessing.references import ReferenceFiles
from persam_dreambooth.segmentation import Insid3Method, Method, TextPrompt
from persam_dreambooth.training.config import GROUPS, OptimizationConfig

FLAGS = {
    "segment": SEGMENT,
    "review": REVIEW,
    "video": VIDEO,
    "train": GROUPS,
    "generate": [GenerateFlags],
    "convert": [ConvertFlags],
    "export": [ExportFlags],
    "import": [ImportFlags],
    "evaluate": EVALUATE,
    "evaluate generation": [GenerationReportFlags],
    "evaluate checkpoints": [CheckpointFlags],
}
EVERY_FLAG = [(verb, declared) for verb, groups in FLAGS.items() for declared in flags_of(*groups)]
BOUNDED = [(verb, declared) for verb, declared in EVERY_FLAG if declared.bounds]
REQUIRED = ["--images", "photos", "--reference", "dog.jpg", "--reference_mask", "dog.png", "--output", "out"]


@pytest.fixture
def config(tmp_path):
    """Write a config file; return the flags that name it."""

    def write(text):
        path = tmp_path / "flags.yaml"
        path.write_text(text, encoding="utf-8")
        return ["--config", str(path)]

    return write


@pytest.fixture
def error_of(capsys):
    """Run an invalid command; return its one-line error."""

    def run(*argv):
        code = main(list(argv))
        output = capsys.readouterr()
        assert code == 2
        assert output.out == ""
        (line,) = output.err.splitlines()
        assert line.startswith("persam-dreambooth")
        assert "error: " in line
        return line

    return run


def segment_flags(*argv):
    flags, method, *_ = parse(SEGMENT, [*REQUIRED, *argv], "persam-dreambooth segment", "")
    return flags, method


# References


def test_references_take_boxes_and_points():
    boxed = ["--reference", "a.jpg", "b.jpg", "--reference_box", "1,2,3,4", "5,6,7,8.5"]
    flags, *_ = parse(SEGMENT, ["--images", "p", "--output", "o", *boxed], "", "")
    assert flags.references() == (
        ReferenceFiles(Path("a.jpg"), box=(1, 2, 3, 4)),
        ReferenceFiles(Path("b.jpg"), box=(5, 6, 7, 8.5)),
    )
    pointed = ["--reference", "a.jpg", "--reference_points", "10,20", "30,40,0"]
    flags, *_ = parse(SEGMENT, ["--images", "p", "--output", "o", *pointed], "", "")
    assert flags.references() == (ReferenceFiles(Path("a.jpg"), points=((10, 20, 1), (30, 40, 0))),)


def test_a_text_is_a_reference_or_filters_the_masks_of_one():
    flags, _, _, texts, _ = parse(SEGMENT, ["--images", "p", "--output", "o", "--text", "a mug"], "", "")
    prompt = texts.prompt(flags.text, filters=False)
    assert prompt == TextPrompt("a mug") and flags.references(prompt) == ()
    named = ["--images", "p", "--output", "o", "--text", "a mug", "--reference", "a.jpg", "b.jpg"]
    flags, *_ = parse(SEGMENT, named, "", "")
    assert flags.references(prompt) == tuple(ReferenceFiles(Path(name), text=prompt) for name in ("a.jpg", "b.jpg"))
    settings = ["--text", "a mug", "--text_model", "m", "--text_threshold", "0.4", "--text_overlap", "0.3"]
    flags, _, _, texts, _ = parse(SEGMENT, [*REQUIRED, *settings], "", "")
    assert texts.prompt(flags.text, filters=True) == TextPrompt("a mug", "m", 0.4, 0.3)
    assert flags.references(prompt) == (ReferenceFiles(Path("dog.jpg"), mask=Path("dog.png")),)


@pytest.mark.parametrize(
    ("argv", "expected"),
    [
        (["--text_model", "m"], ["--text_model", "no effect without --text"]),
        (["--text_threshold", "0.5"], ["--text_threshold", "no effect without --text"]),
        (["--text", "."], ["has no word"]),
        (["--text", "a mug", "--text_threshold", "2"], ["--text_threshold", "2"]),
        (["--text", "a mug", "--subject_name", "mug"], ["--text describes one subject"]),
    ],
)
def test_texts_that_make_no_sense_are_refused(error_of, argv, expected):
    line = error_of("segment", *REQUIRED, *argv)
    assert all(text in line for text in expected)


def test_overlap_without_a_mask_to_filter_by_is_refused(error_of):
    argv = ["--images", "photos", "--output", "out", "--text", "a mug"]
    assert "--text_overlap is for a --text that filters" in error_of("segment", *argv, "--text_overlap", "0.3")
    assert "--reference is missing" in error_of("segment", *argv, "--reference_mask", "m.png")


@pytest.mark.parametrize(
    ("argv", "expected"),
    [
        (["--reference_mask", "m.png", "n.png"], ["1 of --reference", "2 of --reference_mask"]),
        (["--reference_box", "1,2,3"], ["1,2,3", "left,top,right,bottom"]),
        (["--reference_box", "1,2,3,wide"], ["left,top,right,bottom"]),
        (["--reference_points", "1,2,5"], ["third number"]),
        (
            ["--reference_box", "1,2,3,4", "--reference_scribble", "s.png"],
            ["--reference_box and --reference_scribble"],
        ),
        (["--reference_mask", "m.png", "--pick_reference"], ["more than one --reference"]),
    ],
    ids=lambda value: " ".join(value) if value[0].startswith("--") else "",
)
def test_mismatched_reference_flags_are_refused(error_of, argv, expected):
    line = error_of("segment", "--images", "p", "--output", "o", "--reference", "a.jpg", *argv)
    assert all(part in line for part in expected)


def test_persam_f_is_selected_by_name():
    assert segment_flags("--method", "persam-f")[1].chosen_method() == Method.persam_f()
    printed = segment_flags("--method", "persam-f", "--fidelity", "paper", "--alpha", "2")[1].chosen_method()
    assert printed == Method.persam_f("paper", alpha=2.0)
    assert segment_flags()[1].chosen_method() == Method()


def test_insid3_is_selected_by_name():
    assert segment_flags("--method", "insid3", "--tau", "0.5")[1].chosen_method() == Insid3Method(tau=0.5)
    chosen = segment_flags("--method", "insid3-sam", "--agreement", "0.3", "--fidelity", "official")[1].chosen_method()
    assert chosen == Insid3Method("official", with_sam=True, agreement=0.3)


@pytest.mark.parametrize(
    ("argv", "expected"),
    [
        (["persam-f", "--alpha", "2"], "alpha is used by fidelity 'paper' only"),
        (["persam-f", "--no_guided_attention"], "--no_guided_attention is not read by --method persam-f"),
        (["insid3", "--edge_padding", "0.1"], "only by persam and persam-f"),
        (["persam", "--tau", "0.5"], "only by insid3 and insid3-sam"),
        (["insid3", "--agreement", "0.5"], "only by insid3-sam"),
        (["insid3", "--fidelity", "paper"], "choose corrected or official"),
        (["persam", "--features_size", "64"], "give --features"),
        (["insid3", "--sam", "vit_h"], "--sam has no effect on --method insid3"),
        (["insid3", "--dtype", "bfloat16"], "--dtype has no effect on --method insid3"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_flags_of_another_method_are_refused(error_of, argv, expected):
    words = ["segment", "--images", "p", "--output", "o", "--reference", "a.jpg", "--reference_mask", "m.png"]
    assert expected in error_of(*words, "--method", *argv)


# Help


@pytest.mark.parametrize("argv", [["--help"], ["-h"], []])
def test_help_lists_every_verb(capsys, argv):
    assert main(argv) == 0
    output = capsys.readouterr()
    for verb, what in VERBS.items():
        assert any(line.split() == [verb, *what.split()] for line in output.out.splitlines())
    assert output.err == ""


@pytest.mark.parametrize("verb", VERBS)
def test_help_of_verb_lists_every_flag(capsys, verb):
    with pytest.raises(SystemExit) as end:
        main([verb, "--help"])
    assert end.value.code == 0
    words = capsys.readouterr().out.split()
    declared = [declared for flagged, declared in EVERY_FLAG if flagged == verb]
    assert {flag.spelling for flag in declared if not flag.hidden} | {"--config"} <= set(words)
    assert not {f"--{name}" for flag in declared for name in flag.old_names} & set(words)
    assert not {flag.spelling for flag in declared if flag.hidden} & set(words)


def named(pairs):
    return [f"{verb}-{declared.name}" for verb, declared in pairs]


@pytest.mark.parametrize(("verb", "declared"), EVERY_FLAG, ids=named(EVERY_FLAG))
def test_every_flag_has_help_text(verb, declared):
    assert declared.help.strip()


@pytest.mark.parametrize(("verb", "declared"), BOUNDED, ids=named(BOUNDED))
def test_number_outside_bounds_is_refused(verb, declared):
    bounds = declared.bounds
    outside = [bounds.min - 1, *(limit for limit in (bounds.below,) if limit is not None)]
    outside += [bounds.max + 1] if bounds.max is not None else []
    group = next(group for group in FLAGS[verb] if declared.name in {flag.name for flag in flags_of(group)})
    for value in [*outside, float("nan"), float("inf")]:
        built = group.__new__(group)
        vars(built).update({flag.name: flag.default for flag in flags_of(group)} | {declared.name: value})
        with pytest.raises(UserError, match=rf"^--{declared.name} {value} must (be|lie) "):
            Flags.__post_init__(built)


@pytest.mark.parametrize(
    "verb", [[], *([verb] for verb in VERBS), ["evaluate", "generation"], ["evaluate", "checkpoints"]]
)
def test_help_fits_a_terminal_of_80_columns(verb, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    with suppress(SystemExit):
        main([*verb, "--help"])
    text = capsys.readouterr().out
    assert [line for line in text.splitlines() if len(line) > 80 and not line.startswith("    --")] == []
    assert not [line for line in text.splitlines() if line.endswith("-")]  # names such as sam-vit-huge stay whole


HEAVY = ("torch", "transformers", "diffusers", "accelerate", "peft", "datasets", "gradio")


@pytest.mark.parametrize(
    "argv", [*([verb] for verb in VERBS), ["evaluate", "perseg"], ["evaluate", "generation"]], ids=str
)
def test_help_imports_no_heavy_packages(argv):
    """Every verb answers --help in 0.2 s, measured on two cores; with torch it would be 3 to 8 s."""
    code = f"""if True:
        import sys
        from persam_dreambooth.cli import main
        try:
            main([*{argv}, "--help"])
        except SystemExit:
            print([name for name in {HEAVY} if name in sys.modules], file=sys.stderr)
    """
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stderr == "[]\n" and "usage:" in result.stdout


@pytest.mark.parametrize(("verb", "first"), [("segment", "--images"), ("train", "--pretrained_model_name_or_path")])
def test_most_important_flags_are_listed_first(capsys, verb, first):
    with pytest.raises(SystemExit):
        main([verb, "--help"])
    text = capsys.readouterr().out
    assert "example:" in text
    lines = text[text.index("the most important flags:") :].splitlines()
    assert lines[1].split()[0] == first
    listed = [line.split()[0] for line in text.splitlines() if line.startswith("  --")]
    assert len(listed) == len(set(listed))


def test_help_shows_defaults(capsys):
    with pytest.raises(SystemExit):
        main(["segment", "--help"])
    text = " ".join(capsys.readouterr().out.split())
    assert "(default: facebook/sam-vit-huge)" in text
    assert "photos per batch of the image encoder (at least 1; default: 4)" in text
    assert "turn --refinement off" in text


def test_help_shows_bounds(capsys):
    with pytest.raises(SystemExit):
        main(["train", "--help"])
    text = " ".join(capsys.readouterr().out.split())
    assert "--rank RANK rank of the adapters; with oft, the number of blocks; 4 if unset (at least 1)" in text
    assert "(0 to 1; default: 0.0)" in text  # --background_weight
    assert "(at least 0, below 1; default: 0.9)" in text  # --adam_beta1
    assert "makes a run reproducible (at least 0, below 2^32)" in text
    assert "--optimizer_args KEY=VALUE [KEY=VALUE ...]" in text


def test_version_is_printed(capsys):
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"{__version__}\n"


@pytest.mark.parametrize(
    "command",
    [[Path(sysconfig.get_path("scripts")) / "persam-dreambooth"], [sys.executable, "-m", "persam_dreambooth.cli"]],
    ids=["script", "module"],
)
def test_command_runs_as_script_and_module(command):
    result = subprocess.run([*command, "--version"], capture_output=True, text=True, check=False)
    assert (result.returncode, result.stdout, result.stderr) == (0, f"{__version__}\n", "")
    result = subprocess.run([*command, "no-verb"], capture_output=True, text=True, check=False)
    assert (result.returncode, result.stdout, len(result.stderr.splitlines())) == (2, "", 1)


# Errors


def test_unknown_verb_is_refused_with_list_of_verbs(error_of):
    line = error_of("segmnt", "--images", "photos")
    assert "'segmnt'" in line
    assert all(verb in line for verb in VERBS)


@pytest.mark.parametrize(
    ("argv", "suggestion"),
    [
        (["segment", *REQUIRED, "--referense_mask", "x"], "--reference_mask"),
        (["segment", *REQUIRED, "--batch-sise", "3"], "--batch_size"),
        (["segment", "--image", "photos"], "--images"),
        (["generate", "--num_image", "3"], "--num_images"),
        (["train", "--learning_rat", "1e-4"], "--learning_rate"),
    ],
)
def test_unknown_flag_is_refused_with_suggestion(error_of, argv, suggestion):
    assert f"did you mean {suggestion}?" in error_of(*argv)


def test_unknown_flag_without_similar_one_points_to_help(error_of):
    line = error_of("segment", *REQUIRED, "--zzz")
    assert "--zzz" in line
    assert "did you mean" not in line
    assert "--help" in line


@pytest.mark.parametrize("missing", ["--images", "--reference", "--reference_mask", "--output"])
def test_missing_flag_of_segment_is_named(error_of, missing):
    place = REQUIRED.index(missing)
    assert f"{missing} is missing" in error_of("segment", *REQUIRED[:place], *REQUIRED[place + 2 :])


@pytest.mark.parametrize(
    ("argv", "expected"),
    [
        (["segment"], "--images"),
        (["generate"], "--model"),
        (["generate", "--model", "m"], "--prompt"),
        (["generate", "--model", "m", "--prompts_file", "no-such-file.txt"], "no-such-file.txt"),
        (["train"], "--pretrained_model_name_or_path"),
    ],
)
def test_missing_input_is_named(error_of, argv, expected):
    assert expected in error_of(*argv)


@pytest.mark.parametrize(
    ("argv", "expected"),
    [
        (["segment", *REQUIRED, "--fidelity", "perfect"], ["--fidelity", "perfect", "corrected", "official", "paper"]),
        (["segment", *REQUIRED, "--dtype", "int8"], ["--dtype", "int8", "bfloat16"]),
        (["segment", *REQUIRED, "--batch_size", "many"], ["--batch_size", "many"]),
        (["segment", *REQUIRED, "--batch_size", "0"], ["--batch_size 0", "at least 1"]),
        (["segment", *REQUIRED, "--refinement", "maybe"], ["--refinement", "maybe"]),
        (["segment", "--images"], ["--images"]),
        (["generate", "--model", "m", "--prompt", "p", "--num_images", "0"], ["--num_images 0", "at least 1"]),
        (["generate", "--model", "m", "--prompt", "p", "--num_inference_steps", "-1"], ["--num_inference_steps -1"]),
        (["train", "--mixed_precision", "fp8"], ["--mixed_precision", "fp8", "bf16"]),
        (["train", "--learning_rate", "fast"], ["--learning_rate", "fast"]),
    ],
)
def test_invalid_value_is_refused_with_flag_and_allowed_values(error_of, argv, expected):
    line = error_of(*argv)
    assert all(text in line for text in expected)


def test_flags_cannot_be_abbreviated(error_of):
    assert "--batch" in error_of("segment", *REQUIRED, "--batch", "3")


# Config files


def test_config_equals_flags(config):
    text = "images: album\nbatch_size: 3\nrefinement: false\nguided_attention: true\nsam: 42\ndevice: null\n"
    assert parse(SEGMENT, [*REQUIRED[2:], *config(text)], "program", "") == [
        SegmentFlags(images="album", reference=["dog.jpg"], reference_mask=["dog.png"], output="out", batch_size=3),
        MethodFlags(refinement=False),
        SamFlags(sam="42"),
        TextFlags(),
        WordFlags(),
    ]


def test_flags_override_config_in_any_order(config):
    file = config("images: album\nbatch_size: 3\nrefinement: false\nnegative_prior: true\n")
    for argv in ([*file, "--batch_size", "2"], ["--batch_size", "2", *file]):
        flags, method = segment_flags(*argv, "--refinement", "--no_negative_prior")
        assert (flags.images, flags.batch_size) == ("photos", 2)
        assert (method.refinement, method.negative_prior) == (True, False)


@pytest.mark.parametrize("written", ["5e-6", "5.0e-6", "0.000005", "5E-06"])
def test_small_numbers_parse_in_any_notation(config, written):
    (flags,) = parse([OptimizationConfig], config(f"learning_rate: {written}\nmax_train_steps: 7\n"), "program", "")
    assert flags.learning_rate == 5e-6
    assert isinstance(flags.learning_rate, float)
    assert flags.max_train_steps == 7


@pytest.mark.parametrize(("written", "value"), [("true", True), ("false", False), ("True", True), ("no", False)])
def test_switches_in_config(config, written, value):
    _, method = segment_flags(*config(f"refinement: {written}\nsemantic_prompting: {written}\n"))
    assert (method.refinement, method.semantic_prompting) == (value, value)


def test_list_in_config_is_multi_value_flag(config):
    file = config('model: m\nprompt:\n  - a sks dog\n  - "two: words"\nseed: -3\nguidance_scale: 7\n')
    (flags,) = parse([GenerateFlags], file, "program", "")
    assert flags.prompt == ["a sks dog", "two: words"]
    assert flags.seed == -3
    assert flags.guidance_scale == 7.0


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("batchsize: 3\n", ["'batchsize'", "did you mean batch_size?"]),
        ("zzz: 3\n", ["'zzz'", "--help"]),
        ("--batch_size: 3\n", ["'--batch_size'"]),
        ("config: other.yaml\n", ["'config'"]),
        ("3: 4\n", ["unknown key 3"]),
        ("- images\n- photos\n", ["key: value"]),
        ("just text\n", ["key: value"]),
        ("", ["key: value"]),
        ("images: [photos\n", ["not readable YAML (line 2: expected"]),
        ("images: photos\n  output: out\n", ["not readable YAML"]),
        ("batch_size: many\n", ["--batch_size", "many"]),
        ("batch_size: 2.5\n", ["--batch_size", "2.5"]),
        ("batch_size: [1, 2]\n", []),
        ("refinement: maybe\n", ["--refinement", "maybe"]),
        ("fidelity: perfect\n", ["--fidelity", "perfect"]),
        ("batch_size: 0\n", ["--batch_size 0"]),
    ],
)
def test_config_error_is_one_line(error_of, config, text, expected):
    line = error_of("segment", *REQUIRED, *config(text))
    assert all(words in line for words in expected)


def test_unreadable_config_is_named(error_of, tmp_path):
    absent, binary = tmp_path / "absent.yaml", tmp_path / "binary.yaml"
    binary.write_bytes(b"\xff\xfe\x00\x80")
    for path in (absent, binary, tmp_path):
        assert str(path) in error_of("segment", *REQUIRED, "--config", str(path))
        assert str(path) in error_of("segment", *REQUIRED, f"--config={path}")


def test_flags_are_split_into_groups(config, capsys):
    @dataclass
    class Colours:
        paint: str = flag("red", "colour")

    @dataclass
    class Sizes:
        width: int = flag(1, "100 % is 1", min=1)

    colours, sizes = parse([Colours, Sizes], ["--width", "3", *config("paint: blue\n")], "program", "")
    assert (colours, sizes) == (Colours("blue"), Sizes(3))
    with pytest.raises(UserError, match="did you mean --paint"):
        parse([Colours, Sizes], ["--pain", "green"], "program", "")
    with pytest.raises(SystemExit):
        parse([Colours, Sizes], ["--help"], "program", "")
    assert "100 % is 1 (at least 1; default: 1)" in capsys.readouterr().out


# Old names


@dataclass
class Renamed(Flags):
    weight: float = flag(0.0, "how much", min=0, max=1, old_names=["old_weight"])
    keep: bool = flag(False, "keep all", old_names=["old_keep"])


@pytest.mark.parametrize(
    "argv", [["--old_weight", "0.5", "--old_keep"], ["--old-weight=0.5", "--old-keep", "true", "--old_keep"]]
)
def test_an_old_name_is_read_with_one_line_that_names_todays(argv, capsys):
    assert parse([Renamed], argv, "program", "") == [Renamed(0.5, True)]
    first, second = capsys.readouterr().err.splitlines()
    assert "--old_weight is called --weight now" in first and "--old_keep is called --keep now" in second


def test_an_old_name_in_a_config_is_read_with_one_line(config, capsys):
    file = config("old_weight: 0.5\nkeep: true\n")
    assert parse([Renamed], file, "program", "") == [Renamed(0.5, True)]
    (line,) = capsys.readouterr().err.splitlines()
    assert f"--old_weight in {file[1]} is called --weight now" in line


def test_a_mistake_under_an_old_name_names_todays(config):
    with pytest.raises(UserError, match=r"--weight 2.0 must lie in \[0, 1\]"):
        parse([Renamed], ["--old_weight", "2"], "program", "")
    with pytest.raises(UserError, match=r"old_weight .* is the old name of weight, which is given too; drop one"):
        parse([Renamed], config("old_weight: 0.5\nweight: 0.5\n"), "program", "")
    with pytest.raises(UserError, match="did you mean --weight"):
        parse([Renamed], ["--wight", "2"], "program", "")


def test_only_the_first_process_tells_the_new_name(capsys, monkeypatch):
    monkeypatch.setenv("RANK", "1")
    assert parse([Renamed], ["--old_keep"], "program", "") == [Renamed(keep=True)]
    assert capsys.readouterr().err == ""


def test_export_takes_its_old_flag():
    given = ["--to", "kohya", "--masks", "m", "--output", "o"]
    assert parse([ExportFlags], [*given, "--include_doubtful"], "export", "")[0].include_uncertain


# Whole runs


def write_album(folder):
    (folder / "photos").mkdir()
    random = np.random.default_rng(0)
    for name in ("dog.png", "park.jpg"):
        Image.fromarray(random.integers(0, 256, (40, 60, 3), dtype=np.uint8)).save(folder / "photos" / name)
    mask = np.zeros((40, 60), np.uint8)
    mask[10:30, 15:40] = 255
    Image.fromarray(mask).save(folder / "mask.png")


def test_segment_writes_masks_and_prints_their_path(models, tmp_path, config, capsys):
    write_album(tmp_path)
    (tmp_path / "photos" / "broken.jpg").write_bytes(b"not a picture")
    flags = {
        "images": tmp_path / "photos",
        "reference": tmp_path / "photos" / "dog.png",
        "reference_mask": tmp_path / "mask.png",
        "sam": models / "sam",
        "device": "cpu",
    }
    out = tmp_path / "out"
    file = config("".join(f"{name}: {value}\n" for name, value in flags.items()))
    assert main(["segment", *file, "--output", str(out)]) == 0
    assert sorted(path.name for path in (out / "masks").iterdir()) == ["dog.png", "park.png"]
    *_, found, look = capsys.readouterr().out.splitlines()
    assert found.startswith(f"2 masks in {out / 'masks'}, 1 left out")
    assert look.endswith(str(out / "contact_sheet.png"))
    assert (out / "contact_sheet.png").is_file()


def test_segment_refuses_bad_input_in_one_line(models, tmp_path, error_of):
    write_album(tmp_path)
    photos = tmp_path / "photos"
    flags = ["--images", photos, "--reference", photos / "dog.png", "--output", tmp_path / "out", "--device", "cpu"]
    flags = [str(flag) for flag in flags]
    line = error_of("segment", *flags, "--reference_mask", str(tmp_path / "absent.png"), "--sam", str(models / "sam"))
    assert str(tmp_path / "absent.png") in line
    line = error_of(
        "segment", *flags, "--reference_mask", str(tmp_path / "mask.png"), "--sam", str(tmp_path / "no-sam")
    )
    assert str(tmp_path / "no-sam") in line
    assert not (tmp_path / "out").exists()


def test_ctrl_c_ends_with_130_and_one_line(capsys, monkeypatch):
    def interrupted(flags):
        raise KeyboardInterrupt

    monkeypatch.setattr(SegmentFlags, "__post_init__", interrupted)
    assert main(["segment", *REQUIRED]) == 130
    output = capsys.readouterr()
    assert output.out == ""
    assert len(output.err.splitlines()) == 1
    assert "interrupted" in output.err


# Edge cases


def test_config_value_may_start_with_dash(config):
    (flags,) = parse([GenerateFlags], [*config("model: m\nprompt: a dog\nnegative_prompt: -blurry\n")], "generate", "")
    assert flags.negative_prompt == "-blurry"


def test_word_that_yaml_reads_as_true_must_be_quoted(config, error_of):
    line = error_of("train", *config("identifier: on\n"))
    assert "identifier in" in line and "is read as true; write it in quotes" in line


def test_ctrl_c_during_import_is_one_line():
    """An alarm replaces the key press, once torch starts to be imported, after the verb's flags are parsed."""
    code = """if True:
        import signal, sys
        from persam_dreambooth.cli import main

        class Alarm:
            def find_spec(self, name, path=None, target=None):
                if name == "torch":
                    signal.setitimer(signal.ITIMER_REAL, 0.1)

        signal.signal(signal.SIGALRM, signal.default_int_handler)
        sys.meta_path.insert(0, Alarm())
        sys.exit(main("generate --model m --prompt p".split()))
    """
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert run.returncode == 130 and "Traceback" not in run.stderr and "interrupted" in run.stderr


def test_unquoted_no_in_config_is_word(config):
    (flags,) = parse([OptimizationConfig], config("mixed_precision: no\n"), "train", "")
    assert flags.mixed_precision == "no"


def test_words_in_config_list_may_start_with_dash(config):
    (flags,) = parse([GenerateFlags], config("model: m\nprompt: [a dog, -b]\n"), "generate", "")
    assert flags.prompt == ["a dog", "-b"]


@pytest.mark.parametrize("value", ["[1, 2]", "{a: 1}"])
def test_multiple_values_for_single_value_flag_are_refused(config, error_of, value):
    line = error_of("segment", *REQUIRED, *config(f"batch_size: {value}\n"))
    assert "batch_size" in line and "takes one value" in line


def test_config_flag_without_file_is_one_line(error_of):
    assert "--config" in error_of("segment", "--config")


@pytest.mark.parametrize("verb", [("segment", *REQUIRED), ("generate", "--model", "{model}", "--prompt", "x")])
def test_unavailable_device_is_one_line(verb, error_of, models, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("photos").mkdir()
    Image.new("RGB", (20, 20)).save("dog.jpg")
    Image.new("RGB", (20, 20)).save("photos/a.jpg")
    drawn = np.zeros((20, 20), dtype=np.uint8)
    drawn[5:15, 5:15] = 255
    Image.fromarray(drawn).save("dog.png")
    words = [word.format(model=models / "stable-diffusion") for word in verb]
    sam = ["--sam", str(models / "sam")] if words[0] == "segment" else []
    assert "the device banana cannot be used" in error_of(*words, *sam, "--device", "banana")
    assert not Path("out").exists()


def test_output_below_file_is_one_line(error_of, models, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Image.new("RGB", (20, 20)).save("dog.jpg")
    drawn = Image.new("L", (20, 20))
    drawn.paste(255, (3, 3, 9, 9))
    drawn.save("dog.png")
    Path("file").touch()
    given = ["--images", ".", "--reference", "dog.jpg", "--reference_mask", "dog.png", "--sam", str(models / "sam")]
    assert "file is a file" in error_of("segment", *given, "--output", "file/x", "--device", "cpu")
