"""The options of a load test, as Locust's command line and its start form show them."""

from argparse import Action, Namespace
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from loadtest.scenarios import ARRIVALS, LONGEST, SCENARIOS, UNITS, listed, readers, users
from loadtest.wire import CLIENTS

_ACRONYMS = {"ca": "CA", "grpc": "gRPC", "http": "HTTP", "tls": "TLS", "url": "URL"}


@dataclass(frozen=True, slots=True)
class Option:
    """One option: its form, its default as text, its help, and its choices (none: any text).

    Attributes:
        form: Its name, and what to give it if it has no choices: `--report-dir DIR`. A flag is given nothing.
        key: The name of its value, if that does not follow from the option's name.
        bare: What it means if it is given without a value; empty if it needs one.
        is_secret: Whether it gives secrets, or protects them. The page neither shows it nor lets anybody change it.
        is_list: Whether it can be given several times.
        is_joined: Whether it can be given several times, and is then one text with commas.
    """

    form: str
    default: str
    help: str
    choices: tuple[str, ...] = ()
    key: str = ""
    bare: str = ""
    is_secret: bool = False
    is_list: bool = False
    is_joined: bool = False

    @property
    def name(self) -> str:
        """What it is called on the command line: `--report-dir`."""
        return self.form.partition(" ")[0]

    @property
    def metavar(self) -> str:
        """What stands for its value: `DIR`. Empty if it has choices, or is a flag."""
        return self.form.partition(" ")[2]

    @property
    def is_flag(self) -> bool:
        """Whether it is given without a value, and then means yes."""
        return not self.metavar and not self.choices

    @property
    def dest(self) -> str:
        """The name of its value among the parsed options."""
        return self.key or self.name.removeprefix("--").replace("-", "_")

    @property
    def label(self) -> str:
        """What the start form calls it: `gRPC address` for `--grpc-address`."""
        words = [_ACRONYMS.get(word, word) for word in self.name.removeprefix("--").split("-")]
        return " ".join([words[0] if words[0] in _ACRONYMS.values() else words[0].capitalize(), *words[1:]])


def declare(parser: Any) -> None:
    """Add the options to Locust's parser; the start form shows all of them too, except those with a secret."""
    for option in all_options():
        action = parser.add_argument(
            option.name,
            help=option.help.replace("%", "%%"),  # argparse formats the text
            dest=option.dest,
            include_in_web_ui=not option.is_secret,
            **_kind(option),
        )
        if option.is_flag:
            action.choices = ["no", "yes"]  # of the start form


def _kind(option: Option) -> dict[str, Any]:
    if option.is_flag:
        return {"action": "store_const", "const": "yes", "default": option.default}
    if option.is_list:
        return {"action": "append", "metavar": option.metavar}
    shown = {"choices": [*option.choices]} if option.choices else {"metavar": option.metavar}
    bare = {"nargs": "?", "const": option.bare} if option.bare else {}
    action = {"action": _Join} if option.is_joined else {}
    return {"default": option.default, **shown, **bare, **action}


class _Join(Action):
    """Joins the values of an option that is given several times with commas, where argparse would keep the last."""

    def __call__(self, parser: object, namespace: Namespace, values: Any, option_string: str | None = None) -> None:
        before = getattr(namespace, self.dest, None)
        setattr(namespace, self.dest, f"{before},{values}" if before else values)


def to_text(parsed: Namespace, host: str | None) -> dict[str, str]:
    """Return the options as text, whether they came from the command line or the start form."""
    return {"host": host or "", **{one.dest: _as_text(getattr(parsed, one.dest, None)) for one in all_options()}}


def _as_text(value: Any) -> str:
    """Return the text of a value as Locust parsed it; values of a repeated option are on lines of their own."""
    return "\n".join(value) if isinstance(value, list) else str("" if value is None else value).strip()


def all_options() -> list[Option]:
    """Return the options, in the order in which they are shown."""
    return [option for options in grouped().values() for option in options]


def grouped() -> dict[str, list[Option]]:
    """Return the options under the headings that they are shown under, in the order in which people fill them in."""
    return {
        "Server": _server(),
        "Model": _model(),
        "Requests": _requests(),
        "Load": _load(),
        "Timing": _timing(),
        "Limits": _limits(),
        "Report": _report(),
    }


def find_unused(text: Mapping[str, str]) -> list[str]:
    """Return the names of the options that were given although the scenario does not use them.

    With `--scenario steps --rate 100`, this is `--rate`. With `--scenario search --rate 50,2000 --concurrency 8`, it is
    `--concurrency`. An option that has its default counts as not given.
    """
    scenario = text["scenario"]
    ignored = SCENARIOS[scenario].reads.find_ignored(has_rate=bool(text["rate"])) if scenario in SCENARIOS else ()
    given = [option.name for option in all_options() if text[option.dest] != option.default]
    return [name for name in given if name in ignored or (users(name) and scenario not in users(name))]


def _server() -> list[Option]:
    return [
        Option(
            "--grpc-address HOST:PORT",
            "",
            "HOST:PORT of the server's gRPC port, as in 127.0.0.1:8001. It has TLS if --host has; to say otherwise, "
            "begin with grpc:// or, for TLS, grpcs://. Empty (the default) takes the port after that of --host.",
        ),
        Option(
            "--server-metrics HOST:PORT",
            "",
            "HOST:PORT of the server's Prometheus metrics, or none to leave them out. If several servers share "
            "the load behind --host, name the metrics of all of them, as in 10.0.0.1:8002,10.0.0.2:8002: they are "
            "added up. Empty (the default) takes the second port after that of --host.",
        ),
        Option(
            "--header NAME:VALUE",
            "",
            "Header to send with every request, as in --header 'X-Team: vision'; can be given several times. Everybody "
            "on this machine can read it with ps, so give secrets in a --header-file.",
            is_secret=True,
            is_list=True,
        ),
        Option(
            "--header-file FILE",
            "",
            "File with headers to send with every request, one on each line, as in Authorization: Bearer TOKEN. "
            "Headers can also be in the environment variable TRITON_HEADERS.",
            is_secret=True,
        ),
        Option(
            "--ca-file FILE",
            "",
            "PEM file with the certificates of the authorities that sign the server's certificate. Empty (the default) "
            "takes those of the operating system.",
        ),
        Option("--client-cert FILE", "", "PEM file with the certificate that proves to the server who the client is."),
        Option("--client-key FILE", "", "PEM file with the key of --client-cert, if that file does not have it."),
        Option(
            "--insecure",
            "no",
            "Use TLS without checking the server's certificate: anybody on the way can then read the requests and give "
            "the answers.",
        ),
    ]


def _model() -> list[Option]:
    return [
        Option(
            "--model NAME",
            "",
            "Model to send requests to, as in --model digits. To mix several, give each a weight: digits=3,ranker=1 "
            "sends three requests to digits for each one to ranker. A version to ask for comes after a colon: "
            "digits:1,digits:3 sends as many requests to version 1 as to version 3. Can be given several times.",
            is_joined=True,
        ),
        Option(
            "--model-version N",
            "",
            "Version to ask for, as in --model-version 2; with several models, see --model. Empty (the default) lets "
            "the server choose.",
        ),
    ]


def _requests() -> list[Option]:
    return [
        Option(
            "--repository DIR",
            "",
            "Directory of the model repository that the server serves, as in --repository model_repository. The "
            "requests are its stored samples, and answers are compared with its stored answers. Empty (the default) "
            "sends what --input-data says.",
        ),
        Option(
            "--input-data FILE",
            "",
            "What to send without a repository: random (the default), zero, or a file with inputs and, if you like, "
            "the right answers: perf_analyzer's JSON, or arrays in an .npz file. As in --input-data inputs.json.",
        ),
        Option(
            "--shape NAME:DIMS",
            "",
            "Shape of an input whose dims are of any size, without the batch axis, as in --shape image:3,640,640. Put "
            "spaces between several inputs.",
        ),
        Option(
            "--request-parameters NAME:VALUE:TYPE",
            "",
            "Parameters that each request carries beside its tensors, as name:value:type, where type is bool, int, "
            "double or string, as in --request-parameters max_tokens:256:int. Put spaces between several.",
        ),
        Option(
            "--tolerance RTOL,ATOL",
            "",
            "How far floats may be off the right answers in --input-data, as rtol,atol: a right answer is within "
            "atol + rtol * |right answer|, as in --tolerance 0.001,0.00001. Empty (the default) takes 0.0001 and a "
            "hundred-thousandth of the largest right answer (more for FP16 and BF16), or less if a few are huge.",
        ),
        Option(
            "--sequence-length N",
            "",
            "Steps in each sequence that is sent to a stateful model, as in --sequence-length 50. Empty (the default) "
            "takes the length of each stream in --input-data, or else 20.",
        ),
        Option(
            "--sequence-length-variation PERCENT",
            "20",
            "Percentage by which the length of a sequence may differ from --sequence-length. Default: 20.",
        ),
        Option(
            "--rows N",
            "1",
            "Rows (samples) in each request, as in --rows 4. To mix several sizes, give each a weight: 1=8,16=1 "
            "sends eight requests of 1 row for each one of 16. Default: 1.",
        ),
        Option(
            "--seed N",
            "0",
            "Seed of every random choice, a whole number, as in --seed 7. Runs with the same seed send the same "
            "requests in the same order. Default: 0.",
        ),
        Option("--protocol", "http", "Protocol that the requests are sent over. Default: http.", (*CLIENTS,)),
        Option(
            "--request-timeout SECONDS",
            "10",
            "Seconds to wait for an answer before the request counts as failed, as in --request-timeout 2.5. "
            "Default: 10.",
        ),
    ]


def _load() -> list[Option]:
    scenarios = "; ".join(f"{name}: {scenario.help}" for name, scenario in SCENARIOS.items())
    return [
        Option("--scenario", "steps", f"Shape of the load. {scenarios}. Default: steps.", (*SCENARIOS,)),
        Option(
            "--concurrency N",
            "",
            "Number of users; each sends its next request when the last one was answered. Used by "
            f"{readers('--concurrency')}.",
        ),
        Option(
            "--stages N",
            "10",
            f"Number of equal stages, as in --stages 60. Used by {listed(users('--stages'))}. Default: 10.",
        ),
        Option(
            "--rate N",
            "",
            f"Requests per second, one stage for each number. Used by {readers('--rate')}; and by search instead of "
            "--concurrency, with the lowest and the highest rate, as in --rate 50,2000.",
        ),
        Option(
            "--arrivals",
            "constant",
            "Gaps between requests sent at a --rate: constant gaps, or random ones (poisson), as if "
            "from many independent clients. Default: constant.",
            ARRIVALS,
        ),
        Option(
            "--arrivals-file FILE",
            "",
            "CSV file with the time of each request in its first column; the first request is sent at once, and the "
            f"others as long after it as in the file. Used by {readers('--arrivals-file')}.",
        ),
        Option(
            "--arrivals-unit",
            "s",
            f"Unit of the times in --arrivals-file. Used by {listed(users('--arrivals-unit'))}. Default: s.",
            (*UNITS,),
        ),
        Option(
            "--max-in-flight N",
            "256",
            "Most requests in flight at once when --rate or --arrivals-file is used; further requests wait. "
            "Default: 256.",
        ),
        Option(
            "--search-precision PERCENT",
            "5%",
            "How near the highest load that keeps --max-p99-ms must be to the lowest one that misses it, as in "
            f"--search-precision 2%; users need not be nearer than 1. Used by {listed(users('--search-precision'))}. "
            "Default: 5%.",
        ),
    ]


def _timing() -> list[Option]:
    return [
        Option(
            "--stage-time SECONDS",
            "10",
            "Seconds that each stage is measured, as in --stage-time 30. A scenario that waits for stable figures "
            "ends a stage as soon as it has them. A search takes up to four times as long where p99 is near the limit. "
            "Default: 10.",
        ),
        Option(
            "--min-requests N",
            "0",
            "Requests that must be answered in each stage, as in --min-requests 1000. A stage goes on until then, for "
            f"at most {LONGEST} times --stage-time; with fewer answers, the run fails. Default: 0.",
        ),
        Option(
            "--warm-up SECONDS",
            "1",
            "Seconds at the start of a stage that are left out of its figures, as in --warm-up 0.5; answers are "
            "checked all the same. Default: 1.",
        ),
    ]


def _limits() -> list[Option]:
    return [
        Option(
            "--max-p99-ms MS",
            "",
            "Fail the run unless 99 of 100 answers come within this many milliseconds, as in --max-p99-ms 20. Empty "
            "(the default) sets no limit.",
            key="max_latency_ms",  # the start form cannot handle a name that contains digits
        ),
        Option(
            "--min-throughput N",
            "",
            "Fail the run unless the server answers this many rows per second, as in --min-throughput 500. Empty "
            "(the default) sets no limit.",
        ),
        Option(
            "--max-failures N",
            "0",
            "Fail the run if more requests than this get no answer: a number, as in --max-failures 5, or a share of "
            "all requests, as in --max-failures 1.5%. Default: 0.",
        ),
        Option(
            "--require-checked",
            "auto",
            "Fail the run if an answer could not be checked: yes, no, or only if there are right answers to compare "
            "with, from --repository or --input-data (auto). Without a value, it means yes. Default: auto.",
            ("auto", "yes", "no"),
            bare="yes",
        ),
    ]


def _report() -> list[Option]:
    return [
        Option(
            "--report-dir DIR",
            "",
            "Directory to write result.json, stages.csv and report.html to, as in --report-dir out. Empty (the "
            "default) writes no report.",
        ),
        Option(
            "--markdown FILE",
            "",
            "File to append verdict, figures and notes to, in Markdown, as in --markdown $GITHUB_STEP_SUMMARY. Empty "
            "(the default) writes none.",
        ),
        Option(
            "--web-allowed-hosts",
            "",
            "Names under which the page of --web may be opened, such as that of a reverse proxy, separated by commas. "
            "Empty (the default): if it listens only on this machine, it answers to localhost and to IP addresses.",
            is_secret=True,
        ),
    ]
