"""`adopt`: prove models that are in a repository already, and treat them as published ones from then on."""

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from builder.cli.arguments import FILE_TO_READ, VERSION, whole_number
from builder.cli.conflicts import accuracy_conflicts
from builder.cli.faults import WrongUsage
from builder.cli.filling import fill
from builder.cli.finishing import finishing
from builder.cli.help_pages import Command
from builder.cli.options import PROOF, accuracy, as_json, limits, lock_timeout, option, repository, samples, sizes
from builder.cli.output import print_json, print_message, print_result, report

if TYPE_CHECKING:
    from builder.publishing import AdoptedModel, Adoption


@click.command(
    cls=Command,
    short_help="Take over ONNX models that a repository has already.",
    examples=("adopt", "adopt digits --samples digits.npz", "adopt digits --version 2 --original digits.onnx"),
)
@click.argument("names", nargs=-1, metavar="[NAME]...", help="The models. Default: all ONNX models.")
@repository
@option("--version", type=VERSION, help="The version to adopt. Default: every version that is served.")
@option(
    "--max-batch-size",
    type=whole_number(1),
    help="Prove batches of up to this size, so that max_batch_size can be raised later. Default: that of config.pbtxt.",
)
@option("--dry-run", is_flag=True, help="Prove the models and print what would be added, but write nothing.")
@option(
    "--original",
    section=PROOF,
    type=FILE_TO_READ,
    metavar="FILE.onnx",
    help="The ONNX file that gives the right answers. Default: the version itself, run on one sample at a time.",
)
@samples
@sizes
@accuracy
@option(
    "--prove",
    "effort",
    section=PROOF,
    type=click.Choice(["sample", "full", "off"]),
    metavar="[sample|full|off]",
    help="How much to compare: a few batch sizes (sample, the default), every one (full), or nothing (off).",
)
@limits
@lock_timeout
@as_json
def adopt(
    names: tuple[str, ...],
    repository: Path | str,
    prove_timeout: float | None,
    prove_memory: int | None,
    as_json: bool,
    **given: Any,
) -> None:
    """Prove ONNX models that others put into the repository, and treat them as published ones from then on.

    Each version is compared with itself: its answers to batches with its answers to single samples. A manifest and a
    reference are added to its folder. A model without config.pbtxt gets one that says what Triton makes up for it. No
    file that is there changes.
    """
    _check_usage(names, given)
    from builder import api
    from builder.publishing import AdoptOptions

    options = fill(AdoptOptions, {**given, "prove_timeout": prove_timeout, "prove_memory": prove_memory})
    if conflict := next(accuracy_conflicts(options.accuracy, options.samples), None):
        raise WrongUsage(*conflict)
    with finishing():
        done = api.adopt(names, repository, options=options, report=report)
        if as_json:
            print_json(_to_json(done))
        _show(done, names, options.dry_run, as_json=as_json)
    if done.refused:
        raise next(iter(done.refused.values()))


def _check_usage(names: tuple[str, ...], given: dict[str, Any]) -> None:
    """Refuse options for one model where there are several.

    Raises:
        WrongUsage: There are.
    """
    if given["sizes"] and given["samples"] is not None:
        raise WrongUsage("--size is for random inputs, and --samples gives others", "leave out --size or --samples")
    flags = {"version": "version", "max_batch_size": "max-batch-size", "original": "original", "samples": "samples"}
    for parameter, flag in {**flags, "sizes": "size"}.items():
        if given[parameter] not in (None, {}) and len(set(names)) != 1:
            raise WrongUsage(f"--{flag} is for one model, and {len(set(names)) or 'none'} is named", "name one model")


def _show(done: "Adoption", names: tuple[str, ...], is_dry: bool, *, as_json: bool) -> None:
    """Print a line for each model that was adopted to stdout, and for each other one to stderr."""
    for name, why in done.skipped.items():
        report("skip", f"{name}: {why}")
    for model in done.adopted:
        for note in model.notes:
            report("note", f"{model.name}: {note}")
        if not as_json:
            print_result(f"{model.name}: {_what(model, is_dry)}")
    for error in list(done.refused.values())[1:]:  # the first one is raised, for the exit code
        print_message(f"error: {error}")
    if not (names or done.adopted or done.refused or as_json):
        print_result("nothing to adopt")


def _what(model: "AdoptedModel", is_dry: bool) -> str:
    if not model.versions:
        return "its served versions are known already"
    plural = "s" if len(model.versions) > 1 else ""
    verb = "would adopt" if is_dry else "adopted"
    what = f"{verb} version{plural} {', '.join(map(str, model.versions))}"
    return f"{what}, with files {', '.join(model.files)}" if is_dry else what


def _to_json(done: "Adoption") -> dict[str, Any]:
    return {
        "adopted": [
            {
                "name": model.name,
                "versions": [
                    {
                        "version": number,
                        "max_batch_size": manifest.max_batch_size,
                        "proven_batch_sizes": list(manifest.proof.batch_sizes),
                        "source": {"file": manifest.source.file, "sha256": manifest.source.sha256},
                        "accuracy": asdict(manifest.accuracy) if manifest.accuracy else None,
                    }
                    for number, manifest in model.versions.items()
                ],
                "files": list(model.files),
                "config": model.config,
                "notes": list(model.notes),
            }
            for model in done.adopted
        ],
        "skipped": [{"name": name, "reason": why} for name, why in done.skipped.items()],
        "refused": [
            {"name": name, "where": str(error.where), "what": str(error.what), "fix": error.fix}
            for name, error in done.refused.items()
        ],
    }
