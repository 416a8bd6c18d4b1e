"""`persam-dreambooth review`: a browser page to view, correct and approve masks."""

import os
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from socket import socket
from typing import TYPE_CHECKING, Any

from persam_dreambooth.cli.method_flags import MethodFlags
from persam_dreambooth.cli.parsing import parse
from persam_dreambooth.cli.sam_flags import SamFlags
from persam_dreambooth.errors import UserError
from persam_dreambooth.flags import Flags, flag

if TYPE_CHECKING:  # importing torch takes seconds, and --help does not need it
    from persam_dreambooth.preprocessing.references import ReferenceFiles
    from persam_dreambooth.review.album import Album
    from persam_dreambooth.review.workspace import Workspace
    from persam_dreambooth.segmentation import Backbone, PerSAM

ESSENTIAL = ("images", "output", "run", "sam", "host", "port", "password")
EXAMPLE = "--images dog"
PASSWORD_VARIABLE = "PERSAM_REVIEW_PASSWORD"


@dataclass
class ReviewFlags(Flags):
    """Flags of `review`."""

    images: str | None = flag(None, "folder of photos, or of folders of photos; segmented or not")
    output: str | None = flag(
        None,
        "folder of the masks (the --output of `segment`), with a subfolder for each folder of photos if there are "
        "several; segmented/ inside --images if unset",
    )
    run: list[str] = flag([], "the --output_dir of one or several trainings, to follow them and to generate images")
    host: str = flag("127.0.0.1", "address to listen on; a password is needed for any other than this machine's own")
    port: int = flag(7860, "port to listen on; 0 picks a free one", min=0, max=2**16 - 1)
    password: str | None = flag(
        None,
        "password for the page (any user name works); it is safer in the environment variable "
        f"{PASSWORD_VARIABLE}, since others can read a command line",
    )
    presence: str | None = flag(
        None, "file of the presence rule, as for `segment`; presence.json in the SAM's folder if unset"
    )
    embedding_cache: str | None = flag(None, "folder that caches encoded photos")
    points_per_side: int = flag(
        16,
        "for the page's Other masks: points along each side of the grid that prompts the SAM; each costs a pass of "
        "its decoder, so fewer are faster and miss small things",
        min=1,
        max=64,
    )
    fast_sam: str | None = flag(
        None,
        "for the page's Other masks: a FastSAM's .pt file, which proposes them instead of the SAM; needs the package "
        "ultralytics, which is under AGPL-3.0 and not installed with this one. Such files can run code: use only "
        "those you trust",
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.fast_sam and self.points_per_side != type(self).points_per_side:
            raise UserError("--points_per_side is for the SAM; FastSAM needs no points, so leave one of the two out")
        self.password = self.password or os.environ.get(PASSWORD_VARIABLE) or None
        if not self.images:
            raise UserError("--images is missing; give the folder that holds the photos")
        from persam_dreambooth.review.guard import check_password
        from persam_dreambooth.review.server import check_host

        check_password(self.password)
        check_host(self.host, self.password)

    def workspace(self) -> "Workspace":
        """Build the workspace of the folders; raises as `Workspace`."""
        from persam_dreambooth.review.workspace import Workspace

        output = Path(self.output).absolute() if self.output else None
        return Workspace(Path(str(self.images)).absolute(), output, tuple(Path(run).absolute() for run in self.run))


GROUPS = [ReviewFlags, MethodFlags, SamFlags]


def prepare(program: str, argv: list[str]) -> tuple[Any, socket]:
    """Build the server, and the socket that it is to run on.

    Raises:
        UserError: an invalid flag, a missing folder, no Gradio, or a port that is in use.
    """
    text = "View, correct and approve masks in the browser."
    flags, method, sam = parse(GROUPS, argv, program, text, ESSENTIAL, EXAMPLE)
    if find_spec("gradio") is None:
        raise UserError("the page needs Gradio; install it with `pip install gradio tensorboard`")
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"  # before Gradio is imported
    from persam_dreambooth.preprocessing import SegmentationJob
    from persam_dreambooth.review.alternatives import Alternatives
    from persam_dreambooth.review.api import Api
    from persam_dreambooth.review.clicks import Clicker
    from persam_dreambooth.review.generator import Generator
    from persam_dreambooth.review.page import build_page
    from persam_dreambooth.review.server import build_app, listen, server_of
    from persam_dreambooth.segmentation import Method, PerSAM, SegGptMethod
    from persam_dreambooth.segmentation.backbones import check_backbone
    from persam_dreambooth.segmentation.fast_sam import FastSam
    from persam_dreambooth.segmentation.proposals import PointGrid, ProposalSource

    if flags.fast_sam:
        FastSam.check(flags.fast_sam)
    if flags.images and sam.sam != SamFlags().sam:  # the default one is looked up when it is first used
        check_backbone(sam.sam)
    workspace, chosen = flags.workspace(), method.chosen_method()
    # SegGPT caches nothing; only the SAM that follows the clicks does.
    cache = Path(flags.embedding_cache) if flags.embedding_cache and not isinstance(chosen, SegGptMethod) else None

    def load() -> "PerSAM":
        clicked = chosen if isinstance(chosen, Method) else Method()  # only a SAM follows clicks
        return PerSAM.from_pretrained(
            sam.sam, clicked, sam.device, sam.torch_dtype, cache=flags.embedding_cache, sam_size=sam.sam_size
        )

    def source(backbone: "Backbone") -> ProposalSource:
        if flags.fast_sam:
            return FastSam(flags.fast_sam, backbone.device)
        return PointGrid(backbone, flags.points_per_side)

    def job(album: "Album", references: "tuple[ReferenceFiles, ...]") -> SegmentationJob:
        return SegmentationJob(
            images=album.images,
            references=references,
            output=album.output,
            sam=sam.sam,
            sam_size=sam.sam_size,
            method=chosen,
            features=method.features,
            features_size=method.features_size,
            crop_n_layers=method.crop_n_layers,
            device=sam.device,
            dtype=sam.torch_dtype,
            batch_size=1,  # masks appear one by one
            presence=Path(flags.presence) if flags.presence else None,
            embedding_cache=cache,
        )

    bound = listen(flags.host, flags.port)
    for line in workspace.unread_lines():
        print(line)
    clicker = Clicker(load)
    alternatives = Alternatives(clicker, source, lambda: method.feature_encoder(sam.device))
    page = build_page(Api(workspace, clicker, job, alternatives), workspace, Generator(sam.device))
    return server_of(build_app(workspace, page, flags.password)), bound


def run(program: str, argv: list[str]) -> None:
    """Serve the page until Ctrl+C."""
    server, bound = prepare(program, argv)
    host, port, *_ = bound.getsockname()
    print(f"the page is at http://{f'[{host}]' if ':' in host else host}:{port}/ (Ctrl+C ends it)", flush=True)
    server.run(sockets=[bound])
