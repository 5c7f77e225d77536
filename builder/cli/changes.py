"""What the commands print about a change of config.pbtxt: the diff, and how to take the change back."""

from typing import TYPE_CHECKING, Any

from builder.cli.output import print_diff, print_json, print_result, report

if TYPE_CHECKING:
    from builder.publishing import Switch


def show(switch: "Switch", *, as_json: bool, dry_run: bool, same: str | None = None) -> None:
    """Print what a change of the config changed, or would change; `same` says why it changed nothing."""
    if as_json:
        print_json(_to_json(switch, dry_run=dry_run))
        return
    print_diff(switch.diff)
    if switch.kept is not None and not dry_run:
        kept = switch.kept
        back = f"`rollback {switch.model_name} --to {kept.version} --config {kept.number}` brings it back"
        report("kept", f"the config before is in {switch.model_name}/{kept.file}; {back}")
    for note in switch.notes:
        report("note", note)
    print_result(_in_words(switch, same) + ("; this was a dry run, and nothing was changed" if dry_run else ""))


def is_new(diff: str) -> bool:
    """Return whether a diff is that of a file that was not there before."""
    return diff.startswith("--- /dev/null\n")


def _in_words(switch: "Switch", same: str | None) -> str:
    name = switch.model_name
    if not switch.diff:
        return f"{name}: {same or f'version {switch.after} is already served'}"
    if switch.before != switch.after:
        return f"{name}: version {switch.before} → {switch.after}"
    if switch.restored is not None:
        return f"{name}: version {switch.after} is served with its config from before, {switch.restored.file}"
    return f"{name}: version {switch.after} is served with another config"


def _to_json(switch: "Switch", *, dry_run: bool) -> dict[str, Any]:
    return {
        "name": switch.model_name,
        "before": switch.before,
        "after": switch.after,
        "config_diff": switch.diff,
        "kept": None if switch.kept is None else switch.kept.file,
        "restored": None if switch.restored is None else switch.restored.file,
        "dry_run": dry_run,
        "notes": list(switch.notes),
    }
