"""Publish a model: load it, make its batch dynamic, name its tensors, prove it, and install it as a new version.

`pipeline` is these steps in order, `options` what the caller can ask for, and `summary` writes the lines that report
them. `batch` makes the batch dynamic; if that fails, `advice` tries other options (`choices`) and names those that work
(`wording`). `lowered` lowers the precision and proves the result, and `compiling` keeps those nodes in fp32 that the
compiler of a plan refuses. `plan_building` builds a plan, and `plan_files` says which others the version keeps.
`blame` says whether an unexpected error comes from the model. `version_files` makes the manifest and the files of a
version, and `verifying` proves these files again. `installing` makes a version's config and hands both to the
repository. `switching` serves another version, or goes back: `planning` works out what that changes, `restoring` brings
back a config from before, and `beside` checks the versions that are served at the same time. `reconfiguring` changes
settings of the config alone. `adopting` makes a version
known that others put there, which `adoptable` proves as it is. `checking` builds a plan only to see that it can be.
"""

from builder.publishing.adoptable import AdoptOptions
from builder.publishing.adopting import AdoptedModel, Adoption, adopt
from builder.publishing.advice import advised, works_per_sample
from builder.publishing.batch import make_batch_dynamic
from builder.publishing.blame import blamed
from builder.publishing.checking import PlanCheck, check_plan
from builder.publishing.installing import install
from builder.publishing.options import Origin, PublishOptions
from builder.publishing.pipeline import Publication, model_name_of, publish
from builder.publishing.planning import Plan, plan_rollback, plan_switch
from builder.publishing.reconfiguring import plan_config, plan_reconfigure, reconfigure
from builder.publishing.switching import ConfigChange, Switch, carry_out, put_back, roll_back, switch
from builder.publishing.verifying import ProvenVersion, verify_files

__all__ = [
    "AdoptOptions",
    "AdoptedModel",
    "Adoption",
    "ConfigChange",
    "Origin",
    "Plan",
    "PlanCheck",
    "ProvenVersion",
    "Publication",
    "PublishOptions",
    "Switch",
    "adopt",
    "advised",
    "blamed",
    "carry_out",
    "check_plan",
    "install",
    "make_batch_dynamic",
    "model_name_of",
    "plan_config",
    "plan_reconfigure",
    "plan_rollback",
    "plan_switch",
    "publish",
    "put_back",
    "reconfigure",
    "roll_back",
    "switch",
    "verify_files",
    "works_per_sample",
]
