"""Run the training script with FSDP on CPUs: Accelerate enables it on GPUs only, though torch does not need one."""

import os
import sys

from accelerate.state import AcceleratorState, PartialState
from accelerate.utils import DistributedType

from persam_dreambooth.cli import main

initialize = AcceleratorState.__init__


def initialize_with_fsdp(state, *args, fsdp_plugin=None, **more):
    initialize(state, *args, fsdp_plugin=fsdp_plugin, **more)
    if state.distributed_type == DistributedType.MULTI_CPU:
        state.distributed_type = PartialState._shared_state["distributed_type"] = DistributedType.FSDP
        if state._mixed_precision != "no":
            fsdp_plugin.set_mixed_precision(state._mixed_precision)
        state.fsdp_plugin = fsdp_plugin


AcceleratorState.__init__ = initialize_with_fsdp

if __name__ == "__main__":
    os.environ["ACCELERATE_USE_CPU"] = "true"  # the launcher unsets it, as its config says
    code = main(["train", *sys.argv[1:]])
    sys.stdout.flush()
    sys.stderr.flush()
    # Threads of gloo may still drop tensors while an interpreter ends, which once crashed a rank (pytorch #190489).
    os._exit(code)
