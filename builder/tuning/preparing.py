"""What a tuning needs before its first run: the repository, what the runs hold for, what can be tried, and refusals."""

from pathlib import Path

from builder.bucket import is_url
from builder.errors import RepositoryError, VerificationError
from builder.progress import Report
from builder.repository import Repository
from builder.tuning.bench import ServerBench, read_machine
from builder.tuning.keeping import Conditions, ModelFacts, changed_fields
from builder.tuning.measurement import Configuration, Measurement
from builder.tuning.options import TuneOptions
from builder.tuning.search import Space
from builder.tuning.wording import count, say_configuration


def place_of(
    repository: Path | str, *, report: Report, lock_timeout_s: float | None, to_undo: bool = False
) -> Repository:
    """Return the repository to tune in, which is a folder.

    Args:
        repository: The folder of the model repository.
        report: Called with who holds a lock that is waited for.
        lock_timeout_s: How long to wait for it, in seconds.
        to_undo: Whether a tuning is to be taken back.

    Raises:
        RepositoryError: It is a bucket.
    """
    if is_url(repository):
        what, bucket = "a tuning loads its candidates from a folder, and this is a bucket", f"--repository {repository}"
        fix = f"tune a copy in a folder, and write the settings here with `python -m builder configure NAME {bucket}`"
        if to_undo:
            what = "a tuning is applied in a folder, and this is a bucket"
            fix = f"take the last change of the config back with `python -m builder rollback NAME {bucket}`"
        raise RepositoryError(repository, what, fix)
    return Repository(Path(repository), report=report, lock_timeout_s=lock_timeout_s)


def conditions_of(
    repository: Repository, name: str, options: TuneOptions, bench: ServerBench, fixed: tuple[str, ...] = ()
) -> Conditions:
    """Return what the measurements of a bench hold for.

    Args:
        repository: The repository.
        name: The model.
        options: The limit and the load.
        bench: What measures it.
        fixed: What is held as it is meanwhile; one sentence each.

    Raises:
        RepositoryError: The config or the manifest cannot be read, or the config is not the one that is measured.
    """
    model = repository.model(name)
    facts = ModelFacts.of(model, bench.version)
    if bench.config_text is not None and (changed := changed_fields(bench.config_text, facts.config)):
        what = f"{', '.join(changed)} was changed after the tuning had read it, so it was not measured"
        raise RepositoryError(model.config_path, what, "run the command again")
    return Conditions(
        model=facts,
        goal=options.goal,
        stage_time_s=options.stage_time_s,
        protocol=options.protocol,
        server=bench.server or None,
        machine=read_machine(),
        software={name: number for name, number in bench.software.items() if number},
        fixed=fixed,
    )


def space_of(bench: ServerBench, options: TuneOptions, current: Configuration | None = None) -> Space:
    """List what can be tried on a bench, from the configuration of config.pbtxt on or from another one."""
    return Space.of(
        current or bench.current,
        cores=bench.cores,
        proven_max_batch=bench.proven_max_batch,
        largest_request=options.goal.largest_request,
        kind="tensorrt" if bench.plan else bench.kind,
        max_p99_s=options.goal.max_p99_s,
        plan=bench.plan,
    )


def refuse_version(repository: Repository, name: str, options: TuneOptions) -> None:
    """Refuse to write back what another version than the served one gives, before anything is measured.

    Raises:
        RepositoryError: That was asked for.
    """
    if not options.apply or options.version is None:
        return
    model = repository.model(name)
    if (served := model.served_version()) != options.version and options.version in model.versions():
        what = f"it serves version {served}, and --apply would give that the settings of version {options.version}"
        to = f"python -m builder switch {name} --to {options.version}"
        raise RepositoryError(model.config_path, what, f"leave out --version or --apply, or run `{to}` first")


def refuse_wrong(run: Measurement, current: Configuration, name: str, *, is_first: bool) -> None:
    """Refuse to go on after a run in which the model answers wrongly as it is.

    The first run has the current settings, or nearly so. If nearly every answer of it is wrong, that is the model's
    fault, and other settings would change nothing. A later run with other settings only puts these out.

    Args:
        run: The run.
        current: The configuration in config.pbtxt.
        name: The model.
        is_first: Whether it is the first run of the tuning.

    Raises:
        VerificationError: It does.
    """
    is_most = run.wrong >= run.requests  # wrong answers of the warm-up count, too
    if run.wrong and (run.configuration == current or (is_first and is_most)):
        wrong = count(run.wrong, "wrong answer")
        what = f"{wrong} in a run with {say_configuration(run.configuration)}, so nothing else was tried"
        fix = f"run `python -m builder verify {name}`, which shows what is wrong; once that is repaired, tune again"
        raise VerificationError(name, what, fix)
