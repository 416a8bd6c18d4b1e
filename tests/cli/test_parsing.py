"""Flags and config files are read alike: help, suggestions, one-line errors and old names."""

from dataclasses import dataclass

import pytest

from persam_dreambooth.cli import main
from persam_dreambooth.cli.generate import GenerateFlags
from persam_dreambooth.cli.method_flags import MethodFlags
from persam_dreambooth.cli.parsing import parse
from persam_dreambooth.cli.sam_flags import SamFlags
from persam_dreambooth.cli.segment import GROUPS as SEGMENT
from persam_dreambooth.cli.segment_flags import SegmentFlags, TextFlags, WordFlags
from persam_dreambooth.errors import UserError
from persam_dreambooth.flags import Flags, flag
from persam_dreambooth.training.config import OptimizationConfig
from tests.cli.parsed import REQUIRED, segment_flags


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


@pytest.mark.parametrize("written", ["-5e-1", "-.5", "-0.5", "-5.E-1"])
def test_negative_numbers_are_no_flags(written):
    (flags,) = parse([OptimizationConfig], ["--logit_mean", written], "program", "")
    assert flags.logit_mean == -0.5


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


def test_config_value_may_start_with_dash(config):
    (flags,) = parse([GenerateFlags], [*config("model: m\nprompt: a dog\nnegative_prompt: -blurry\n")], "generate", "")
    assert flags.negative_prompt == "-blurry"


def test_word_that_yaml_reads_as_true_must_be_quoted(config, error_of):
    line = error_of("train", *config("identifier: on\n"))
    assert "identifier in" in line and "is read as true; write it in quotes" in line


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
