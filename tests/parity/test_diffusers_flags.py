"""Every flag of diffusers' DreamBooth scripts of our families acts here, or is refused by name with the reason.

`record_diffusers_flags.py` made the list.
"""

import json

import pytest

from persam_dreambooth.cli import main
from persam_dreambooth.errors import UserError
from persam_dreambooth.flags import flags_of
from persam_dreambooth.training.config import GROUPS, TrainingConfig
from persam_dreambooth.training.families import FAMILIES
from persam_dreambooth.training.families.flags import PARTICULAR
from persam_dreambooth.training.flag_groups import REFUSED
from tests.parity.record_diffusers_flags import RECORD, flags_in

SCRIPTS = {name: flags.split() for name, flags in json.loads(RECORD.read_text())["scripts"].items()}
FAMILY = {
    "train_dreambooth.py": "StableDiffusionPipeline",
    "train_dreambooth_lora.py": "StableDiffusionPipeline",
    "train_dreambooth_lora_sdxl.py": "StableDiffusionXLPipeline",
    "train_dreambooth_sd3.py": "StableDiffusion3Pipeline",
    "train_dreambooth_lora_sd3.py": "StableDiffusion3Pipeline",
    "train_dreambooth_flux.py": "FluxPipeline",
    "train_dreambooth_lora_flux.py": "FluxPipeline",
    "train_dreambooth_lora_lumina2.py": "Lumina2Pipeline",
    "train_dreambooth_lora_qwen_image.py": "QwenImagePipeline",
    "train_dreambooth_lora_flux2_klein.py": "Flux2KleinPipeline",
    "train_dreambooth_lora_flux2.py": "Flux2Pipeline",
    "train_dreambooth_lora_z_image.py": "ZImagePipeline",
    "train_dreambooth_lora_krea2.py": "Krea2Pipeline",
}
# Scripts of families that we do not have, for training from pairs of pictures, or for another framework.
OTHERS = {
    *("train_dreambooth_flax.py", "train_dreambooth_lora_flux_kontext.py", "train_dreambooth_lora_hidream.py"),
    *("train_dreambooth_lora_flux2_img2img.py", "train_dreambooth_lora_flux2_klein_img2img.py"),
    *("train_dreambooth_lora_ideogram4.py", "train_dreambooth_lora_sana.py"),
}
# Flags that a script has although its transformer takes no guidance; ours are refused for the family.
IDLE = {(f"train_dreambooth_lora_{name}.py", "guidance_scale") for name in ("flux2_klein", "z_image")}
OURS = {flag.name for flag in flags_of(*GROUPS)}


def test_every_script_is_accounted_for():
    assert set(FAMILY) | OTHERS == set(SCRIPTS) and not set(FAMILY) & OTHERS
    assert set(FAMILY.values()) == set(FAMILIES)


@pytest.mark.parametrize("script", FAMILY)
def test_every_flag_acts_or_is_refused_with_a_reason(script):
    assert len(SCRIPTS[script]) > 50
    for name in SCRIPTS[script]:
        assert (name in OURS) != (name in REFUSED), name
    unused = set(SCRIPTS[script]) & set(PARTICULAR) - FAMILIES[FAMILY[script]].flags
    assert {(script, name) for name in unused} <= IDLE


def test_table_refuses_no_more_than_the_scripts_flags():
    assert set(REFUSED) <= {name for script in FAMILY for name in SCRIPTS[script]}


@pytest.mark.parametrize("name", REFUSED)
def test_reason_is_printed(name, tmp_path, capsys):
    config = tmp_path / "config.yaml"
    config.write_text(f"{name}: 1\n")
    for words in (f"--{name}=1", f"--{name.replace('_', '-')}", f"--config={config}"):
        assert main(["train", words]) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert f"--{name}" in line and REFUSED[name] in line
    with pytest.raises(UserError, match=f"--{name} is not supported"):
        TrainingConfig(**{name: 1})


def test_flags_are_read_from_every_form_of_call():
    source = (
        "parser.add_argument('--one', type=int)\np.add_argument(\n    '-t', '--two', help='--not')\nadd('--three')"
    )
    assert flags_in(source) == ["one", "two"]
