"""Write config.pbtxt: complete, so that Triton has nothing to guess, and without losing manual edits.

`make_config` builds the config of a version, or edits the one that is there. `options` holds what the caller can ask
for, and `settings` writes it; `warmup` writes the requests that Triton runs when it loads the model. `profiles` are the
shapes that TensorRT builds for, `plans` says which file of a version a server loads, `rules` what Triton refuses,
`policy` which versions it serves, `interface` what clients see of them, `backends` which backend loads the model,
`completing` what Triton adds to a config, and `batching` gives one a batch. `pbtxt` reads the text, and `editing`
changes it in place, so that comments survive. `lineage` says which config a config replaced, and
`merging` brings two changes of one together.
"""

from builder.config import backends, interface, lineage, pbtxt, policy
from builder.config.early import check_options
from builder.config.interface import ClientTensor, Interface, interface_of
from builder.config.making import Config, ExistingConfig, check_config, make_config, point_at, renew_warmup
from builder.config.merging import ConflictError, merge
from builder.config.options import PROVENANCE_PREFIX, THREADS, ConfigOptions, InstanceGroup, Resource
from builder.config.plans import for_plan, unproven_files
from builder.config.profiles import Profile, Shapes, make_profiles
from builder.config.profiles import parse as parse_profile
from builder.config.settings import LABEL_FILE, PathError, check_usage
from builder.config.settings import apply as apply_options
from builder.config.warmup import reduce as reduce_warmup

__all__ = [
    "LABEL_FILE",
    "PROVENANCE_PREFIX",
    "THREADS",
    "ClientTensor",
    "Config",
    "ConfigOptions",
    "ConflictError",
    "ExistingConfig",
    "InstanceGroup",
    "Interface",
    "PathError",
    "Profile",
    "Resource",
    "Shapes",
    "apply_options",
    "backends",
    "check_config",
    "check_options",
    "check_usage",
    "for_plan",
    "interface",
    "interface_of",
    "lineage",
    "make_config",
    "make_profiles",
    "merge",
    "parse_profile",
    "pbtxt",
    "point_at",
    "policy",
    "reduce_warmup",
    "renew_warmup",
    "unproven_files",
]
