"""Make ONNX models with a fixed batch size dynamic, and publish them for Triton once every answer is proven.

Each command of `python -m builder` is one call here:

    from pathlib import Path
    from builder import ConfigOptions, PublishOptions, VerificationError, prune, publish, verify

    folder = Path("model_repository")
    options = PublishOptions(input_names=("image",), config=ConfigOptions(max_batch_size=8))
    try:
        done = publish("digits.onnx", folder, options=options)
    except VerificationError as error:
        print(f"{error.where}: {error.what}. To fix it: {error.fix}")
        raise
    print(done.version.path, done.manifest.proof.batch_sizes)

    verify("digits", folder)
    prune("digits", folder, keep=3)

docs/api.md lists all of them. What they raise is in `builder.errors`. A name is imported when it is first used, so
`import builder` costs nothing.
"""

from builder.version import __version__

TYPE_CHECKING = False  # as in `typing`, which `python -m builder` could import from the working directory at this point

if TYPE_CHECKING:
    from builder.api import (
        Inspection,
        Verification,
        adopt,
        check_plan,
        configure,
        deploy,
        export,
        inspect,
        list_models,
        prune,
        publish,
        rollback,
        switch,
        tune,
        tune_together,
        undo_tuning,
        verify,
    )
    from builder.bounded import Limits
    from builder.config import ConfigOptions, InstanceGroup, Resource
    from builder.deployment import Deployment
    from builder.errors import BuilderError, HostError, ModelError, RepositoryError, VerificationError
    from builder.exporting import ExportedModel, ExportOptions, InputSpec
    from builder.proof import AccuracyOptions
    from builder.publishing import AdoptedModel, Adoption, AdoptOptions, PlanCheck, Publication, PublishOptions, Switch
    from builder.repository import Pruning, Repository
    from builder.server import AdminAccess, Server, serve
    from builder.tensorrt import BuildOptions
    from builder.tuning import Goal, ServerAccess, Together, TuneOptions, Tuning

_HOMES = {
    "builder.api": (
        "Inspection",
        "Verification",
        "adopt",
        "check_plan",
        "configure",
        "deploy",
        "export",
        "inspect",
        "list_models",
        "prune",
        "publish",
        "rollback",
        "switch",
        "tune",
        "tune_together",
        "undo_tuning",
        "verify",
    ),
    "builder.bounded": ("Limits",),
    "builder.config": ("ConfigOptions", "InstanceGroup", "Resource"),
    "builder.deployment": ("Deployment",),
    "builder.errors": ("BuilderError", "HostError", "ModelError", "RepositoryError", "VerificationError"),
    "builder.exporting": ("ExportOptions", "ExportedModel", "InputSpec"),
    "builder.proof": ("AccuracyOptions",),
    "builder.publishing": (
        "AdoptOptions",
        "AdoptedModel",
        "Adoption",
        "PlanCheck",
        "Publication",
        "PublishOptions",
        "Switch",
    ),
    "builder.repository": ("Pruning", "Repository"),
    "builder.server": ("AdminAccess", "Server", "serve"),
    "builder.tensorrt": ("BuildOptions",),
    "builder.tuning": ("Goal", "ServerAccess", "Together", "TuneOptions", "Tuning"),
}
"""The module that defines each name."""

__all__ = [
    "AccuracyOptions",
    "AdminAccess",
    "AdoptOptions",
    "AdoptedModel",
    "Adoption",
    "BuildOptions",
    "BuilderError",
    "ConfigOptions",
    "Deployment",
    "ExportOptions",
    "ExportedModel",
    "Goal",
    "HostError",
    "InputSpec",
    "Inspection",
    "InstanceGroup",
    "Limits",
    "ModelError",
    "PlanCheck",
    "Pruning",
    "Publication",
    "PublishOptions",
    "Repository",
    "RepositoryError",
    "Resource",
    "Server",
    "ServerAccess",
    "Switch",
    "Together",
    "TuneOptions",
    "Tuning",
    "Verification",
    "VerificationError",
    "__version__",
    "adopt",
    "check_plan",
    "configure",
    "deploy",
    "export",
    "inspect",
    "list_models",
    "prune",
    "publish",
    "rollback",
    "serve",
    "switch",
    "tune",
    "tune_together",
    "undo_tuning",
    "verify",
]

if not TYPE_CHECKING:  # a type checker would accept any name that this function could return

    def __getattr__(name: str) -> object:
        """Import a public name when it is first used."""
        from importlib import import_module

        for module, names in _HOMES.items():
            if name in names:
                return globals().setdefault(name, getattr(import_module(module), name))
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
