"""What a switch would write (stand-in)."""

from builder.config import Config, ExistingConfig, make_config, point_at
from builder.publishing import roll_back
from builder.record import first_row
from builder.repository import Repository

switch = roll_back


def plan_switch(repository: Repository, name: str, version: int) -> Config | None:
    """Return the config that a switch would write."""
    model = repository.model(name)
    text, path, before = model.read_config(), model.config_path, model.served_version()
    if before == version:
        return None
    if not model.is_published(version):
        return point_at(text, version, model.versions(), where=path)
    return make_config(
        model.read_manifest(version),
        name=model.name,
        version=version,
        sample=first_row(model.read_reference(version)),
        existing=ExistingConfig(text, model.find_manifest(before), path),
        present=model.versions(),
    )
