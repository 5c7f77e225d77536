"""Change settings of the config that serves a model: no new version, and nothing is proven again."""

from functools import partial

from builder.config import ConfigOptions, ExistingConfig, make_config
from builder.publishing.beside import check_served_beside
from builder.publishing.planning import Plan, changed
from builder.publishing.switching import ConfigChange, Switch, carry_out
from builder.record import first_row
from builder.repository import ModelDirectory, Repository


def reconfigure(repository: Repository, name: str, options: ConfigOptions, *, dry_run: bool = False) -> Switch:
    """Give the config that serves a model other settings, in one atomic change. `roll_back` undoes it.

    The settings are those of `publish`, and are refused where `publish` refuses them. `max_batch_size` may be at most
    what the served version was proven for. Comments, and what the options do not name, stay as they are.

    Args:
        repository: The repository.
        name: The model.
        options: The settings.
        dry_run: Whether to say only what would be done; nothing is written.

    Raises:
        RepositoryError: There is no such model, the served version was neither published nor adopted, or the options
            contradict the config or the version. Nothing on disk changed.
        ModelError: A file of labels cannot be used.
    """
    change = ConfigChange(f"configure {name}", partial(plan_reconfigure, options=options))
    return carry_out(repository, name, change, dry_run=dry_run)


def plan_reconfigure(model: ModelDirectory, options: ConfigOptions) -> Plan:
    """Plan to give the config that is there other settings.

    The errors are those of `reconfigure`.
    """
    return plan_config(model, model.read_config(), options)


def plan_config(model: ModelDirectory, text: str, options: ConfigOptions) -> Plan:
    """Plan to put a config in place of the one that is there, which serves the same versions.

    Args:
        model: The model.
        text: The config. Triton takes it, or the version that is served contradicts it.
        options: The settings that it is to have.

    The errors are those of `reconfigure`.
    """
    before, served = model.find_config_bytes() or b"", model.served_version()
    manifest = model.read_manifest(served)
    config = make_config(
        manifest,
        name=model.name,
        version=served,
        sample=first_row(model.read_reference(served)),
        options=options,
        existing=ExistingConfig(text, manifest, model.config_path),
        present=model.versions(),
    )
    replacement = changed(model, before, config)
    if replacement.content != before:
        present = model.versions()
        beside = [version for version in model.served_versions() if version != served and version in present]
        check_served_beside(model, config.text, beside)
    return Plan(model, served, served, replacement, None, config.notes)
