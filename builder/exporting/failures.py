"""Say why no way to export a module gives a file with its answers."""

from collections.abc import Mapping, Sequence

from builder.errors import BuilderError, Listing, ModelError, VerificationError
from builder.exporting.frozen import FROZEN, UNKNOWN, find_warned
from builder.exporting.sizes import OneSizeError
from builder.exporting.subject import Diagnosis, Subject
from builder.exporting.unsupported import UnsupportedError
from builder.tensors import Arrays


def all_failed(
    subject: Subject, failures: Mapping[str, BuilderError], example: Arrays, *, is_static: bool
) -> BuilderError:
    """Return the error that lists why each strategy failed, strategies with the same reason together.

    Args:
        subject: The module.
        failures: The error of each strategy, by its name.
        example: What the module was exported with.
        is_static: Whether it was to have no batch.
    """
    frozen = [line for error in failures.values() for line in _lines(error)[1:] if line.startswith((FROZEN, UNKNOWN))]
    listed = [*_reasons(failures), *dict.fromkeys(frozen)]
    wrong = [error for error in failures.values() if isinstance(error, VerificationError)]
    if wrong:
        fix = "replace Python values in forward by tensor operations such as torch.where and torch.gather"
        is_frozen = any(line.startswith(FROZEN) for line in frozen)
        what = Listing("no export gives the module's answers:", listed)
        return VerificationError(subject.where, what, fix if is_frozen else wrong[-1].fix)
    if not any(isinstance(error, UnsupportedError) for error in failures.values()):
        listed += _warned(subject, example, listed)
    last = list(failures.values())[-1]
    telling = next((error for error in failures.values() if isinstance(error, OneSizeError)), last)
    advice = "" if is_static else subject.without_scalars()
    return ModelError(subject.where, Listing("it cannot be exported:", listed), f"{advice}{telling.fix}")


def _lines(error: BuilderError) -> tuple[str, ...]:
    return error.what.lines if isinstance(error.what, Listing) else (error.what,)


def _reasons(failures: Mapping[str, BuilderError]) -> list[str]:
    """Return each reason with the strategies that it stopped, and what is listed below it."""
    names: dict[str, list[str]] = {}
    details: dict[str, dict[str, None]] = {}
    for name, error in failures.items():
        reason, *lines = _lines(error)
        names.setdefault(reason, []).append(name)
        own = (f"  {line}" for line in lines if not line.startswith((FROZEN, UNKNOWN)))
        details.setdefault(reason, {}).update(dict.fromkeys(own))
    return [line for reason in names for line in (f"{'; '.join(names[reason])}: {reason}", *details[reason])]


def _warned(subject: Subject, example: Arrays, listed: Sequence[str]) -> list[str]:
    """Return the lines about which PyTorch warns in a trace.

    If it cannot be traced, that is not the verdict, and it is not said again if it is `listed` already.
    """
    with Diagnosis() as diagnosis:
        return [f"{FROZEN} {line}" for line in find_warned(subject, example)]
    is_said = any(line.endswith(diagnosis.failure) for line in listed)
    return [] if is_said else [f"{UNKNOWN}: {diagnosis.failure}"]
