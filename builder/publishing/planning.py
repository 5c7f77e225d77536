"""Work out what a switch to another version would change, without changing anything.

The config that serves a version is, in this order:

- with `keep_settings`, the one that is there, with only the necessary changes;
- the last config that served the version, as it was, if it was kept;
- the config that was prepared for the version when it was published without being served, with what people have edited
  since;
- the one that is there, with only the necessary changes.
"""

from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, replace

from builder.config import Config, ExistingConfig, lineage, make_config, pbtxt, point_at, policy
from builder.errors import RepositoryError
from builder.publishing.beside import check_beside, check_served_beside
from builder.publishing.restoring import merged_text, restore
from builder.record import first_row
from builder.repository import KeptConfig, ModelDirectory, Replacement, kept


@dataclass(frozen=True, slots=True)
class Plan:
    """What a switch would change; `content` is `replaced` if it would change nothing.

    Attributes:
        model: The model.
        before: The version that is served.
        after: The version that would be served.
        replacement: The config that would be written, and how the one that is there would be kept.
        restored: The kept config that would be restored; None if one would be made from what is there.
        notes: What the operator should know, one sentence each.
    """

    model: ModelDirectory
    before: int
    after: int
    replacement: Replacement
    restored: KeptConfig | None = None
    notes: tuple[str, ...] = ()

    @property
    def content(self) -> bytes:
        """The content that config.pbtxt would have."""
        return self.replacement.content

    @property
    def replaced(self) -> bytes:
        """The content that it has."""
        return self.replacement.before or b""

    @property
    def config(self) -> Config:
        """The text that config.pbtxt would have, and the files that would be written for it."""
        return self.replacement.config

    @property
    def diff(self) -> str:
        """What would change in config.pbtxt, as a unified diff."""
        return difference(self.model, self.replacement)


def difference(model: ModelDirectory, replacement: Replacement) -> str:
    """Return what a replacement changes in config.pbtxt, as a unified diff."""
    before = None if replacement.before is None else pbtxt.decode(replacement.before)
    return model.config_diff(before, pbtxt.decode(replacement.content))


def plan_switch(
    model: ModelDirectory,
    to: int,
    *,
    number: int | None = None,
    keep_settings: bool = False,
    beside: Iterable[int] | None = None,
) -> Plan:
    """Plan to serve a version; the config that does so will name the one that is there as the one it replaced.

    Args:
        model: The model.
        to: The version.
        number: The number of the kept config to restore. By default the last one that served the version.
        keep_settings: Serve it with the config that is there instead.
        beside: The lower versions to serve beside it. By default those that the config names.

    Raises:
        RepositoryError: There is no such version or kept config, or Triton would refuse the config with it.
    """
    situation = _Situation.of(model, to, beside)
    if to == situation.served and number is None:
        return _plan_same_version(situation)
    made = _find(situation, number, keep_settings)
    return situation.plan(made, changed(model, situation.content, made.config))


def plan_rollback(
    model: ModelDirectory,
    to: int | None = None,
    *,
    number: int | None = None,
    keep_settings: bool = False,
    beside: Iterable[int] | None = None,
) -> Plan:
    """Plan to go back to a config that the model had before, byte for byte.

    By default that is the config which the one that is there has replaced. Because it names in turn the one before it,
    one rollback after the other goes further back. Where nothing was kept, the version below the served one is served.

    The arguments and errors are those of `plan_switch`.
    """
    if to is None and number is None:
        target, note = _one_before(model, other_version=keep_settings)
        to, number = target.version, target.number or None
    else:
        note = None
    situation = _Situation.of(model, model.served_version() if to is None else to, beside)
    if situation.to == situation.served and number is None:
        return _plan_same_version(situation)
    made = _find(situation, number, keep_settings)
    if note is not None:
        made = replace(made, notes=(note, *made.notes))
    if made.is_prepared:  # it has never served, so there is no going back to it
        return situation.plan(made, changed(model, situation.content, made.config))
    return situation.plan(made, _going_back(situation, made))


def changed(model: ModelDirectory, before: bytes, config: Config) -> Replacement:
    """Return the replacement of the config that is there by another one, which will name it."""
    text = pbtxt.decode(before)
    if config.text == text:
        return Replacement(before, before, config, None)
    keeping = kept.place(model, before, served_by(model, text))
    named = None if keeping is None else str(keeping.kept)
    new = lineage.with_previous(config.text, named, where=model.config_path)
    pbtxt.check_length(new, where=model.config_path)
    return Replacement(before, new.encode(), replace(config, text=new), keeping)


def served_by(model: ModelDirectory, config: str) -> int:
    """Return the version that a config serves; 0 if it serves none."""
    parsed = pbtxt.parse(config, where=model.config_path)
    return max(policy.named_versions(parsed, model.versions()), default=0)


@dataclass(frozen=True, slots=True)
class _Situation:
    """What is there, and what is wanted.

    Attributes:
        content: The content of config.pbtxt.
        text: Its text.
        served: The version that it serves.
        to: The version that is wanted.
        beside: The versions that are wanted beside it.
    """

    model: ModelDirectory
    content: bytes
    text: str
    served: int
    to: int
    beside: tuple[int, ...] | None

    @classmethod
    def of(cls, model: ModelDirectory, to: int, beside: Iterable[int] | None) -> "_Situation":
        model.read_config()  # refuses an unknown model, and a file that is no text
        content = model.find_config_bytes() or b""
        served = model.served_version()
        model.check_version(to)
        wanted = None if beside is None else tuple(beside)
        check_beside(model, to, wanted)
        return cls(model, content, pbtxt.decode(content), served, to, wanted)

    def plan(self, made: "_Made", replacement: Replacement) -> Plan:
        text = pbtxt.decode(replacement.content)
        check_served_beside(self.model, text, self.beside)
        notes = made.notes
        if replacement.keeping is None and replacement.content != replacement.before:
            notes = (*notes, f"the config before could not be kept, because version {self.served} has no folder here")
        restored = made.source if made.is_restored else None
        return Plan(self.model, self.served, self.to, replacement, restored, (*made.config.notes, *notes))


@dataclass(frozen=True, slots=True)
class _Made:
    """The config that is to serve a version.

    Attributes:
        config: It, and the files that it needs.
        source: The last config that served the version, if one was kept.
        is_restored: Whether it is that config, or was made.
        content: The content of the kept config, if it comes back byte for byte.
        is_prepared: Whether it was prepared when the version was published without being served.
        notes: What the operator should know.
    """

    config: Config
    source: KeptConfig | None = None
    is_restored: bool = False
    content: bytes | None = None
    is_prepared: bool = False
    notes: tuple[str, ...] = ()


def _plan_same_version(situation: _Situation) -> Plan:
    """Plan what is left to do when the version is served already: to serve others beside it."""
    model, text = situation.model, situation.text
    if situation.beside is not None:
        config = pbtxt.parse(text, where=model.config_path)
        policy.serve(config, {*situation.beside, situation.to}, model.versions())
        text = pbtxt.edit(text, config, where=model.config_path)
    made = _Made(Config(text, {}))
    return situation.plan(made, changed(model, situation.content, made.config))


def _one_before(model: ModelDirectory, *, other_version: bool) -> tuple[KeptConfig, str | None]:
    """Return the config to go back to, and what to know about it.

    Its number is 0 if none was kept for the version below.

    Args:
        model: The model.
        other_version: Whether to look for one that served another version than is served now.
    """
    text, where = model.read_config(), model.config_path
    now, served = model.find_config_bytes(), model.served_version()
    seen: set[KeptConfig] = set()
    note = None
    while (named := lineage.previous(text, where=where)) is not None:
        found = KeptConfig.parse(named)
        if found is None or found in seen:
            what = f"{lineage.PREVIOUS} is {named!r}, which names no config from before"
            raise RepositoryError(where, what, "choose a version with --to")
        if found.version not in model.versions():
            note = f"the config before served version {found.version}, which was removed, so the one below is served"
            break
        content = kept.read(model, found)
        if content != now and not (other_version and found.version == served):
            return found, None
        seen.add(found)
        where = model.path / found.file
        text = pbtxt.decode(content)
    below = model.version_before(served)
    return kept.newest(model, below) or KeptConfig(below, 0), note


def _find(situation: _Situation, number: int | None, keep_settings: bool) -> _Made:
    """Find or make the config that serves the wanted version."""
    model, to = situation.model, situation.to
    source = kept.newest(model, to) if number is None else KeptConfig(to, number)
    if keep_settings:
        return _Made(_made_from(situation, situation.text), source)
    if source is not None:
        back = restore(model, source, situation.beside)
        return _Made(back.config, source, is_restored=True, content=back.content, notes=back.notes)
    prepared = merged_text(model, to, situation.text)
    if prepared is not None:
        return _Made(_made_from(situation, prepared), is_prepared=True)
    note = f"no config was kept with version {to}, so it is served with the settings of today"
    return _Made(_made_from(situation, situation.text), notes=(note,))


def _going_back(situation: _Situation, made: _Made) -> Replacement:
    """Return the replacement by a config from before; it keeps naming the one before it, not the one it replaces."""
    model, before = situation.model, situation.content
    content = made.content
    if content is None:
        text = made.config.text
        if not made.is_restored:
            text = lineage.with_previous(text, _previous_of(model, made.source), where=model.config_path)
        content = text.encode()
    keeping = None if content == before else kept.place(model, before, situation.served)
    return Replacement(before, content, replace(made.config, text=pbtxt.decode(content)), keeping)


def _previous_of(model: ModelDirectory, source: KeptConfig | None) -> str | None:
    """Return which config a kept one replaced; None if that is unknown."""
    if source is not None:
        with suppress(RepositoryError):
            return lineage.previous(pbtxt.decode(kept.read(model, source)), where=model.path / source.file)
    return None


def _made_from(situation: _Situation, text: str) -> Config:
    """Make the config that serves the wanted version from a text, with only the necessary changes."""
    model, to = situation.model, situation.to
    if not model.is_published(to):
        return point_at(text, to, model.versions(), where=model.config_path, beside=situation.beside)
    model.check_complete(to)
    return make_config(
        model.read_manifest(to),
        name=model.name,
        version=to,
        sample=first_row(model.read_reference(to)),
        existing=ExistingConfig(text, model.find_manifest(situation.served), model.config_path),
        present=model.versions(),
        beside=situation.beside,
    )
