"""Configurations, loads and figures in words: the same words in the progress, in the table and in the reasons."""

from builder.tuning.measurement import Configuration, Interval, Load, Measurement


def say_configuration(configuration: Configuration) -> str:
    """Return a configuration in words, such as `2 instances of 1 thread, batches up to 32, delay 500 µs`."""
    return ", ".join(_parts(configuration).values())


def say_changes(configuration: Configuration, current: Configuration) -> str:
    """Return what a configuration changes of the current one; `as it is` if that is nothing."""
    before, unchanged = _parts(current), f" (of {current.max_batch_size})"
    changed = [text.removesuffix(unchanged) for name, text in _parts(configuration).items() if before.get(name) != text]
    changed += [f"no {_MISSING[name]}" for name in before if name not in _parts(configuration)]
    return ", ".join(changed) or "as it is"


_MISSING = {"preferred": "preferred sizes", "delay": "delay", "profiles": "chosen profiles", "graphs": "CUDA graphs"}


def _parts(configuration: Configuration) -> dict[str, str]:
    """Return the parts of a configuration that say anything, by the setting that they are about.

    A single preferred size without a delay is a cap: Triton then runs batches of at most this size, although clients
    may send larger requests.
    """
    one, parts = configuration, {"instances": count(configuration.instances, "instance")}
    is_capped = len(one.preferred) == 1 and not one.delay_us
    if one.threads is not None:
        parts["instances"] += f" of {count(one.threads, 'thread')}"
    parts["batch"] = f"batches up to {one.max_batch_size}" if one.max_batch_size else "no batches"
    if is_capped:
        parts["batch"] = f"batches up to {one.preferred[0]} (of {one.max_batch_size})"
    elif one.preferred:
        parts["preferred"] = f"preferred {'/'.join(map(str, one.preferred))}"
    if one.delay_us:
        parts["delay"] = f"delay {one.delay_us:,} µs"
    if one.profiles:
        parts["profiles"] = f"{'profile' if len(one.profiles) == 1 else 'profiles'} {'/'.join(map(str, one.profiles))}"
    if one.cuda_graphs:
        parts["graphs"] = "CUDA graphs"
    return parts


def say_load(load: Load) -> str:
    """Return a load in words: `16 users`, `300 requests/s`, `16 users with 1 or 4 rows` unless each request has one."""
    text = count(load.users or 0, "user") if load.rate is None else f"{load.rate:,.6g} requests/s"
    *others, last = [str(rows) for rows, _ in load.rows]
    rows = f"{', '.join(others)} or {last}" if others else last
    if len(others) >= _MOST_SIZES:
        rows = f"{others[0]} to {last}"
    return text if rows == "1" else f"{text} with {rows} rows"


def say_result(measurement: Measurement) -> str:
    """Return what a run gave in one line, or why it gave nothing."""
    if measurement.error:
        return measurement.error
    figures = [
        f"{say_throughput(measurement.throughput)} rows/s",
        f"p99 {say_ms(measurement.p99_s)}",
        f"mean batch {measurement.mean_batch:.2g}",
    ]
    counts = {"wrong": measurement.wrong, "failed": measurement.failed, "unchecked": measurement.unchecked}
    return ", ".join([*figures, *(f"{number:,} {what}" for what, number in counts.items() if number)])


def say_throughput(interval: Interval | None) -> str:
    """Return a throughput and how far it may be off: `1,240 ± 3%`."""
    if interval is None:
        return NO_FIGURE
    off = max(interval.high - interval.value, interval.value - interval.low)
    share = f" ± {_percent(100 * off / interval.value)}%" if interval.value else ""
    return f"{figure(interval.value)}{share}"


def _percent(percent: float) -> str:
    return f"{percent:.1f}" if percent < 9.95 else f"{percent:,.0f}"


def say_ms(interval: Interval | None) -> str:
    """Return a time in milliseconds with its interval: `12.3 ms (11.9 to 13.1)`."""
    if interval is None:
        return NO_FIGURE
    value, low, high = (figure(1e3 * one) for one in (interval.value, interval.low, interval.high))
    return f"{value} ms ({low} to {high})"


def say_duration(seconds: float) -> str:
    """Return a duration in the unit that suits it: `70 s`, `5 min`, `2.5 h`."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 100 * 60 else f"{seconds / 3600:.3g} h"


def say_gain(gain: float, *, of_p99: bool = False) -> str:
    """Return how many times as good something is as a change: `+12%` for 1.12, `-3.0%` for 0.97.

    What is better in p99 has a lower one: twice as good is half of it, `-50%`.
    """
    percent = 100 * ((1 / gain if of_p99 else gain) - 1)
    return f"{percent:+,.0f}%" if abs(percent) >= 10 else f"{percent:+.1f}%"


def say_gains(gain: Interval, *, of_p99: bool = False) -> str:
    """Return a gain and its interval: `+12% (+8.1% to +16%)`, or `p99 -50% (-54% to -45%)`."""
    value, low, high = (say_gain(one, of_p99=of_p99) for one in (gain.value, gain.low, gain.high))
    return f"p99 {value} ({high} to {low})" if of_p99 else f"{value} ({low} to {high})"


_MOST_SIZES = 3
"""More sizes of requests are not named one by one."""

NO_FIGURE = "–"  # noqa: RUF001
"""What is shown in place of a figure that there is not."""


def figure(value: float) -> str:
    """Return a number with three digits: 0.0123, 1.23, 12.3, 123, 1,230."""
    return f"{float(f'{value:.3g}'):,.6g}"


def count(number: int, noun: str) -> str:
    """Return a count with its noun: `1 user`, `16 users`."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"
