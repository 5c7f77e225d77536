"""The calls behind the commands: one function for each command that works on files.

`builder` exports them for use from Python, and `builder.cli` makes the same calls. (`serve` is one call already, in
`builder.server`, which imports nothing heavy.)
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from builder import bounded, bucket, exporting, fetching, publishing
from builder.batching import BatchedModel, BatchedTensor, Rewrite
from builder.bounded import Limits
from builder.bucket import wanted
from builder.config import ConfigOptions, Interface, check_config, interface, interface_of, pbtxt, unproven_files
from builder.errors import ModelError
from builder.exporting import ExportedModel, ExportOptions, InputSpec, Kind, Source, publish_module
from builder.model import Model, TensorSpec, fix_inputs, keep_outputs, load
from builder.progress import Report, silent
from builder.publishing import (
    Adoption,
    AdoptOptions,
    Origin,
    PlanCheck,
    ProvenVersion,
    Publication,
    PublishOptions,
    Switch,
    advised,
    blamed,
    make_batch_dynamic,
    model_name_of,
    roll_back,
    summary,
    verify_files,
)
from builder.record import Accuracy, Download, Manifest, Proof
from builder.repository import ListedModel, ModelDirectory, Pruning, Repository
from builder.samples import ask_sizes, ask_sizes_of
from builder.tensorrt import check_request, find_host

if TYPE_CHECKING:
    from builder.deployment import Address, Certificates, Deployment, Reach
    from builder.server import AdminAccess
    from builder.tuning import Applied, ServerAccess, Step, Together, TuneOptions, Tuning

REPOSITORY = Path("model_repository")
"""The model repository, when none is given."""


def publish(
    model: Path | str,
    repository: Path | str = REPOSITORY,
    *,
    name: str | None = None,
    options: PublishOptions | None = None,
    inputs: Sequence[InputSpec] = (),
    exporter: str | None = None,
    opset: int | None = None,
    is_verbose: bool = False,
    task: str | None = None,
    is_download: bool = False,
    revision: str | None = None,
    sha256: str | None = None,
    report: Report = silent,
) -> Publication:
    """Make a model's batch dynamic, compare it with the original, and install it as a new version.

    Args:
        model: An ONNX file, `package.module:factory` of a PyTorch module, a PyTorch file (`.pt2`, TorchScript), or
            `hf:folder` of a model that transformers has saved. A file may also be at a URL: `https://…`, `s3://…`.
        repository: A folder, or the URL of a bucket: `s3://bucket/prefix`, `gs://…` or `az://…`. In a bucket, the
            version is at `repository/NAME/VERSION`, and `version.path` of the result no longer exists.
        name: The model's name in the repository. Default: the name of the file or of the factory.
        options: How to publish it.
        inputs: The parameters of a PyTorch module's `forward`. Exported programs (`.pt2`) declare their own.
        exporter: `torch.export` or `TorchScript`, for a PyTorch module. Default: the first that works.
        opset: The ONNX opset, for a PyTorch module. Default: the exporter's own choice.
        is_verbose: Show what PyTorch itself prints, logs and warns about.
        task: What a Hugging Face model does, such as `text-classification`. Default: what its config says.
        is_download: Whether `hf:owner/name` may be downloaded from the Hugging Face Hub.
        revision: The branch, tag or commit to download. Default: the main branch.
        sha256: The digest of a file at a URL, without which it is not published.
        report: Called with each step and what it found.

    Raises:
        ModelError: The model cannot be read, or its batch cannot be made dynamic.
        VerificationError: An answer differs from the original's.
        RepositoryError: The repository cannot take the version.
        HostError: Something is missing on this machine, such as PyTorch or a GPU.

    Nothing in the repository changes unless the call succeeds.
    """
    asked = options or PublishOptions()
    if asked.format == "tensorrt":  # before anything is fetched or exported; in a child, because it loads the driver
        bounded.run(_check_host, where=Path(str(model)), limits=asked.limits, has_gpu=True)
    with _at_hand(str(model), sha256, report) as (found, download):
        source = Source.of(found)

        def publish_to(root: Path, report: Report) -> Publication:
            if source.kind is Kind.ONNX and not inputs:
                origin = Origin(download=download)
                return publishing.publish(Path(found), root, name=name, options=asked, report=report, origin=origin)
            return publish_module(
                found,
                root,
                inputs=inputs,
                exporter=exporter,
                opset=opset,
                is_verbose=is_verbose,
                task=task,
                is_download=is_download,
                revision=revision,
                name=name,
                download=download,
                options=asked,
                report=report,
            )

        if not bucket.is_url(repository):
            return publish_to(Path(repository), report)
        return _publish_into_bucket(
            str(repository), name or model_name_of(Path(f"{source.name}.onnx")), publish_to, report
        )


def _check_host(_: Report) -> None:
    find_host()


@contextmanager
def _at_hand(model: str, sha256: str | None, report: Report) -> Iterator[tuple[str, Download | None]]:
    """Yield what a model is named by on this machine, and where it was fetched from if it is at a URL."""
    if not fetching.is_url(model):
        yield model, None
        return
    with fetching.fetched(model, sha256, report) as (file, download):
        yield str(file), download


def _publish_into_bucket(
    repository: str, name: str, publish_to: Callable[[Path, Report], Publication], report: Report
) -> Publication:
    def report_all_but_install(step: str, what: str) -> None:
        if step != "install":
            report(step, what)

    done = bucket.change(repository, name, publish_to, wanted=wanted.to_publish, report=report_all_but_install)
    for line in summary.of_version(done.version, f"{repository.rstrip('/')}/{name}/{done.version.version}"):
        report("install" if done.version.is_dry_run else "upload", line)
    return done


def export(
    source: str, path: Path | str, *, options: ExportOptions, sha256: str | None = None, report: Report = silent
) -> ExportedModel:
    """Export a PyTorch module to an ONNX file with a dynamic batch.

    Args:
        source: `package.module:factory`, where `factory()` returns a `torch.nn.Module`, a PyTorch file, or
            `hf:folder` of a model that transformers has saved. A file may also be at a URL.
        path: The file to write.
        options: The inputs of `forward`, and how to export it.
        sha256: The digest of a file at a URL, without which it is not exported.
        report: Called with each step and what it found.

    Raises:
        ModelError: The module is missing, does not take the inputs, or cannot be exported.
        VerificationError: The file would give other answers than the module.
        HostError: PyTorch is not installed, or the file cannot be written.
    """
    with _at_hand(source, sha256, report) as (found, _):
        return exporting.export(found, Path(path), options=options, report=report)


@dataclass(frozen=True, slots=True)
class Batching:
    """How the batch of a model is made dynamic.

    Attributes:
        static_batch: How many samples the file takes at once.
        inputs: The inputs of the rewritten model.
        outputs: Its outputs.
        rewrites: The nodes that change.
    """

    static_batch: int
    inputs: tuple[BatchedTensor, ...]
    outputs: tuple[BatchedTensor, ...]
    rewrites: tuple[Rewrite, ...]

    @classmethod
    def of(cls, batched: BatchedModel) -> "Batching":
        """Describe the rewritten model without its nodes."""
        return cls(batched.static_batch, tuple(batched.inputs), tuple(batched.outputs), tuple(batched.rewrites))


@dataclass(frozen=True, slots=True)
class Inspection:
    """A model, and either how its batch is made dynamic or why it cannot be.

    Attributes:
        path: The file.
        sha256: Its digest.
        opsets: The version of each operator set; `""` is ONNX's own.
        nodes: How many nodes the graph has.
        inputs: The inputs in the file.
        outputs: The outputs in the file.
        optional: Inputs in the file that have a value there. Every request gets it, so clients cannot send them.
        batched: How its batch is made dynamic; None if that is refused.
        refusal: Why it is refused.
        plan: Whether a plan of it can be built; None if that was not asked for, or its batch was refused.
    """

    path: Path
    sha256: str
    opsets: Mapping[str, int]
    nodes: int
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    optional: tuple[TensorSpec, ...]
    batched: Batching | None
    refusal: ModelError | None
    plan: PlanCheck | None = None

    @classmethod
    def of(cls, model: Model, found: BatchedModel | ModelError) -> "Inspection":
        """Describe a model without its weights and nodes."""
        return cls(
            path=model.path,
            sha256=model.sha256,
            opsets=dict(model.ir.opset_imports),
            nodes=len(model.ir.graph),
            inputs=tuple(model.inputs),
            outputs=tuple(model.outputs),
            optional=model.optional,
            batched=Batching.of(found) if isinstance(found, BatchedModel) else None,
            refusal=found if isinstance(found, ModelError) else None,
        )


def inspect(
    path: Path | str,
    *,
    batch_axes: Mapping[str, int | None] | None = None,
    constants: Mapping[str, float | Path] | None = None,
    sizes: Mapping[str, int] | None = None,
    limits: Limits | None = None,
) -> Inspection:
    """Read an ONNX file and try to make its batch dynamic; nothing is written.

    If it has symbolic dimensions, the model is run to find sizes that it works at. If its batch cannot be made dynamic,
    other options are tried for a few seconds.

    Args:
        path: The file.
        batch_axes: The axis of the batch, by input, if it is not axis 0; None for an input without one.
        constants: Inputs to turn into constants: a number, or an .npy file.
        sizes: Sizes of dynamic axes at which the model runs, by the name of the axis or by `INPUT:AXIS`.
        limits: How much time and memory this may take.

    Raises:
        ModelError: The file cannot be read. If the batch cannot be made dynamic, the result says why.
        HostError: It takes more time or memory than it may.
    """
    options = PublishOptions(
        batch_axes=batch_axes or {}, constants=constants or {}, sizes=sizes or {}, limits=limits or Limits()
    )
    return inspect_with(path, options)


def inspect_with(path: Path | str, options: PublishOptions) -> Inspection:
    """Do the same for more of the options that `publish` would be asked for."""
    return bounded.run(partial(_inspect, Path(path), options), where=Path(path), limits=options.limits)


def check_plan(path: Path | str, *, options: PublishOptions | None = None, report: Report = silent) -> Inspection:
    """Inspect an ONNX file, and build a plan of it that is thrown away; nothing is written.

    It takes the steps of `publish`: the model is named, lowered and proven before the plan is built, unless the effort
    is `off`. The plan is built by TensorRT, or where that is not installed by TensorRT for RTX, which needs no GPU. It
    is not run.

    Args:
        path: The file.
        options: What `publish` would be asked for.
        report: Called with each step and what it found.

    Raises:
        ModelError: The file cannot be read. If its batch cannot be made dynamic, or the plan cannot be built, the
            result says why.
        HostError: No compiler is installed, or it takes more time or memory than it may.
    """
    asked = replace(options or PublishOptions(), format="tensorrt")
    work = partial(_inspect, Path(path), asked)
    # The compiler reserves memory that it does not use, and where it gets none, it may wait for ever.
    return bounded.run(work, where=Path(path), limits=asked.limits, report=report, has_gpu=True)


def _inspect(path: Path, options: PublishOptions, report: Report) -> Inspection:
    is_plan = options.format == "tensorrt"
    if is_plan:
        check_request(options.build)
    with bounded.during("it is read"):
        loaded = ask_sizes(keep_outputs(load(path), options.outputs), options.sizes)
        if options.samples is not None:
            loaded = ask_sizes_of(loaded, options.samples, options.batch_axes)
    bounded.expect(sum(file.stat().st_size for file in loaded.files), all_sizes=options.effort == "full")
    model = fix_inputs(loaded, options.constants)
    try:
        with blamed(model), advised(loaded, options):
            batched = make_batch_dynamic(model, options)
    except ModelError as refusal:
        return Inspection.of(model, refusal)
    found = Inspection.of(model, batched)
    if not is_plan:
        return found
    with blamed(model):
        return replace(found, plan=publishing.check_plan(batched, options, report))


def adopt(
    names: Sequence[str] = (),
    repository: Path | str = REPOSITORY,
    *,
    options: AdoptOptions | None = None,
    report: Report = silent,
) -> Adoption:
    """Prove ONNX models that are in a repository already as they are, and keep samples and answers with them.

    Their files and configs stay as they are. Afterwards every other call treats these versions as published ones.

    Args:
        names: The models. Default: every ONNX model with a served version that is not known yet.
        repository: The folder of the model repository, or the URL of a bucket.
        options: What to adopt, and how to prove it.
        report: Called with each step and what it found.

    Raises:
        RepositoryError: There is no such repository or model, or a named model is of another kind. What is wrong with
            the files of a model is in the result instead, so that it keeps no other from being adopted.
    """
    if not bucket.is_url(repository):
        return publishing.adopt(Path(repository), names, options=options, report=report)
    chosen = tuple(dict.fromkeys(names)) or tuple(model.name for model in list_models(repository))
    done = [
        bucket.change(
            repository,
            name,
            partial(_adopt_in, names=(name,) if names else (), options=options),
            wanted=wanted.to_adopt(None if options is None else options.version),
            report=report,
        )
        for name in chosen
    ]
    return Adoption(
        tuple(model for each in done for model in each.adopted),
        {name: why for each in done for name, why in each.skipped.items()},
        {name: error for each in done for name, error in each.refused.items()},
    )


def _adopt_in(root: Path, report: Report, *, names: Sequence[str], options: AdoptOptions | None) -> Adoption:
    return publishing.adopt(root, names, options=options, report=report)


@dataclass(frozen=True, slots=True)
class Verification:
    """A published version that still gives the answers stored with it.

    Attributes:
        name: The model.
        version: The version that was checked.
        proof: What was compared, and the largest differences.
        notes: What the caller should know, one sentence each.
        accuracy: How right it was on labelled samples when it was published; None if that was not measured.
    """

    name: str
    version: int
    proof: Proof
    notes: tuple[str, ...] = ()
    accuracy: Accuracy | None = None


def incomplete_models(repository: Path | str = REPOSITORY) -> tuple[str, ...]:
    """Return the ONNX models that have no config.pbtxt, or one without inputs or outputs: Triton has to complete it.

    Args:
        repository: The folder of the model repository.

    Raises:
        RepositoryError: The repository does not exist, or cannot be read.
    """
    described = ((model.name, model.kind) for model in Repository(Path(repository)).list_models())
    return tuple(name for name, kind in described if kind is not None and kind.is_onnx and not kind.is_complete)


def models_with_unused_plans(repository: Path | str = REPOSITORY) -> tuple[str, ...]:
    """Return the models whose served version has a TensorRT plan beside the ONNX file that a CPU serves.

    Args:
        repository: The folder of the model repository.

    Raises:
        RepositoryError: The repository does not exist, or cannot be read.
    """
    return tuple(
        model.name
        for model in Repository(Path(repository)).list_models()
        if any(version.served and version.manifest and version.manifest.has_fallback for version in model.versions)
    )


def verify(
    name: str,
    repository: Path | str = REPOSITORY,
    *,
    version: int | None = None,
    limits: Limits | None = None,
    report: Report = silent,
) -> Verification:
    """Run a published version again, and compare its answers with those stored when it was published.

    If config.pbtxt serves the version, it is checked too: Triton has to load the version with it, with the inputs and
    outputs that it lists.

    Args:
        name: The model.
        repository: The folder of the model repository, or the URL of a bucket.
        version: Default: the one that is served.
        limits: How much time and memory this may take.
        report: Called with each step and what it found.

    Raises:
        RepositoryError: There is no such version, a file of it is missing, or Triton would refuse its config.
        VerificationError: The bytes changed, Triton would refuse them, or an answer differs.
        HostError: This machine cannot run it: a TensorRT plan needs a GPU. Or it takes more time or memory than it may.
    """

    def verify_in(root: Path, report: Report) -> Verification:
        return _verify_version(Repository(root).model(name), version, limits or Limits(), report)

    return bucket.read(repository, name, verify_in, wanted=wanted.to_verify(version), report=report)


def _verify_version(model: ModelDirectory, version: int | None, limits: Limits, report: Report) -> Verification:
    chosen = model.served_version() if version is None else version
    manifest = model.read_manifest(chosen)
    seen = _interface_in_force(model, chosen, manifest)
    report("verify", f"{model.name} version {chosen}, {manifest.reference.rows} rows")
    file, is_plan = model.version_dir(chosen) / manifest.model.file, manifest.plan is not None
    proven = bounded.run(partial(_verify, model, chosen, manifest), where=file, limits=limits, has_gpu=is_plan)
    notes = () if seen is None else tuple(_notes(model, chosen, seen))
    return Verification(model.name, chosen, proven.proof, (*proven.notes, *notes), manifest.accuracy)


def _interface_in_force(model: ModelDirectory, version: int, manifest: Manifest) -> Interface | None:
    """Check the config with which a version is served, and return what clients see; None when it is not served."""
    text = model.find_config()
    if text is None or version not in model.served_versions():
        return None
    check_config(text, manifest, name=model.name, where=model.config_path, folder=model.path)
    return interface_of(pbtxt.parse(text, where=model.config_path), manifest, where=model.config_path)


def _notes(model: ModelDirectory, version: int, seen: Interface) -> Iterator[str]:
    """Yield what was compared although no client can ask for it."""
    reference = model.read_reference(version)
    if (what := interface.misfit(seen, {t.name: reference[f"input:{t.name}"] for t in seen.inputs})) is not None:
        yield f"the stored samples were compared, but no client can send them: {what}"
    config = pbtxt.parse(model.find_config() or "", where=model.config_path)
    yield from (f"{model.config_path}: {what}" for what in unproven_files(config, model.read_manifest(version)))
    if seen.left_out:
        yield f"{model.config_path} does not list output {', '.join(seen.left_out)}, so no client can get it"


def _verify(model: ModelDirectory, version: int, manifest: Manifest, _: Report) -> ProvenVersion:
    return verify_files(model, version, manifest)


def list_models(repository: Path | str = REPOSITORY) -> list[ListedModel]:
    """Return every model of a repository with its versions, in the order of their names.

    Raises:
        RepositoryError: There is no such folder, or it cannot be read.
    """
    return bucket.read_all(repository, lambda root: list(Repository(root).list_models()))


def configure(
    name: str,
    repository: Path | str = REPOSITORY,
    *,
    options: ConfigOptions,
    dry_run: bool = False,
    lock_timeout_s: float | None = None,
    report: Report = silent,
) -> Switch:
    """Change settings of the config that serves a model, in one atomic change, without a new version.

    Args:
        name: The model.
        repository: The folder of the model repository, or the URL of a bucket.
        options: The settings; None keeps what config.pbtxt says. `max_batch_size` may be at most what was proven.
        dry_run: Only say what would be changed.
        lock_timeout_s: How long to wait while somebody else changes the repository, in seconds. Default: until it is
            free.
        report: Called with `wait` and who holds the lock if the wait takes more than a second, and with `note`.

    Raises:
        RepositoryError: There is no such model, the served version was neither published nor adopted, or the options
            contradict the config or the version. Nothing on disk changed.
        ModelError: A file of labels cannot be used.
    """

    def configure_in(root: Path, report: Report) -> Switch:
        target = Repository(root, report=report, lock_timeout_s=lock_timeout_s)
        return publishing.reconfigure(target, name, options, dry_run=dry_run)

    return bucket.change(repository, name, configure_in, wanted=wanted.to_configure, report=report)


def switch(
    name: str,
    repository: Path | str = REPOSITORY,
    *,
    to: int,
    number: int | None = None,
    keep_settings: bool = False,
    serve_also: Iterable[int] | None = None,
    dry_run: bool = False,
    lock_timeout_s: float | None = None,
    report: Report = silent,
) -> Switch:
    """Serve another version of a model, in one atomic change of its config.pbtxt.

    Args:
        name: The model.
        repository: The folder of the model repository, or the URL of a bucket.
        to: The version to serve.
        number: Which of the configs kept with the version to bring back. Default: the one that served it last.
        keep_settings: Serve the version with the settings that config.pbtxt has now instead.
        serve_also: Lower versions to serve at the same time. Default: those that the config serves.
        dry_run: Only say what would be changed.
        lock_timeout_s: How long to wait while somebody else changes the repository, in seconds. Default: until it is
            free.
        report: Called with `wait` and who holds the lock if the wait takes more than a second, and with `note`.

    Raises:
        RepositoryError: There is no such version or kept config, or Triton would refuse the config with it. Nothing on
            disk changed.
    """
    besides = None if serve_also is None else tuple(serve_also)

    def switch_in(root: Path, report: Report) -> Switch:
        return publishing.switch(
            Repository(root, report=report, lock_timeout_s=lock_timeout_s),
            name,
            to,
            number=number,
            keep_settings=keep_settings,
            beside=besides,
            dry_run=dry_run,
        )

    return bucket.change(repository, name, switch_in, wanted=wanted.to_switch(to), report=report)


def rollback(
    name: str,
    repository: Path | str = REPOSITORY,
    *,
    to: int | None = None,
    number: int | None = None,
    keep_settings: bool = False,
    serve_also: Iterable[int] | None = None,
    dry_run: bool = False,
    lock_timeout_s: float | None = None,
    report: Report = silent,
) -> Switch:
    """Go back to a config that a model had before, in one atomic change of its config.pbtxt.

    Args:
        name: The model.
        repository: The folder of the model repository, or the URL of a bucket.
        to: The version to serve, with the config that served it last. Default: what the last change replaced; each
            further rollback goes one change further back.
        number: Which of the configs kept with the version to bring back. Default: the one that served it last.
        keep_settings: Serve the version with the settings that config.pbtxt has now instead.
        serve_also: Lower versions to serve at the same time. Default: those that the config serves.
        dry_run: Only say what would be changed.
        lock_timeout_s: How long to wait while somebody else changes the repository, in seconds. Default: until it is
            free.
        report: Called with `wait` and who holds the lock if the wait takes more than a second, and with `note`.

    Raises:
        RepositoryError: There is no such version or kept config, or Triton would refuse the config with it. Nothing on
            disk changed.
    """
    besides = None if serve_also is None else tuple(serve_also)

    def roll_back_in(root: Path, report: Report) -> Switch:
        return roll_back(
            Repository(root, report=report, lock_timeout_s=lock_timeout_s),
            name,
            to,
            number=number,
            keep_settings=keep_settings,
            beside=besides,
            dry_run=dry_run,
        )

    return bucket.change(repository, name, roll_back_in, wanted=wanted.to_switch(to), report=report)


def prune(
    name: str,
    repository: Path | str = REPOSITORY,
    *,
    keep: int,
    servers: Sequence["Address | str"] = (),
    admin: "AdminAccess | None" = None,
    headers: Mapping[str, str] | None = None,
    certificates: "Certificates | None" = None,
    gone: Sequence["Address | str"] = (),
    no_other_servers: bool = False,
    dry_run: bool = False,
    lock_timeout_s: float | None = None,
    report: Report = silent,
) -> Pruning:
    """Remove all versions of a model but the newest `keep` and those that are in use, all at once or none.

    In use is what the configs of the repository and its ensembles name, what servers answer with, what `deploy` has
    left on servers, and what is newer than that. The servers that you run on this machine with `serve` are asked.

    Args:
        name: The model.
        repository: The folder of the model repository, or the URL of a bucket.
        keep: How many of the newest versions to keep.
        servers: Other servers to ask, as `grpc://host:port`.
        admin: The key to their administrative APIs. Default: that of a server that you run at this address.
        headers: Other headers to send to them, by name in lower case.
        certificates: The certificates for `grpcs://`.
        gone: Servers that exist no more, as `deploy` was told their addresses: what it left there is in use no more.
        no_other_servers: Whether no server answers with the model but those that are asked, or were deployed to. If
            you name no server, there may be one, and what was served before the last change stays.
        dry_run: Say what would be removed, and change nothing.
        lock_timeout_s: How long to wait while somebody else changes the repository, or deploys the model, in seconds.
            Default: until it is free.
        report: Called with `wait` and who holds the lock if the wait takes more than a second, and with `note`.

    Returns:
        The versions that were removed, and the others with the reasons why they stay.

    Raises:
        RepositoryError: There is no such model, or its config.pbtxt, or another one that could name its versions,
            cannot be read.
        HostError: A server does not say what it serves. Nothing was removed.
        ValueError: One of `servers` or `gone` is not a gRPC address.
    """
    from builder import deployment  # gRPC takes 0.1 s to import, which no other call needs

    addresses, old = (
        [deployment.Address.parse(one) if isinstance(one, str) else one for one in given] for given in (servers, gone)
    )
    with ExitStack() as stack:
        asked = [
            stack.enter_context(deployment.LiveServer(one, admin=admin, headers=headers, certificates=certificates))
            for one in deployment.every_server(addresses)
        ]

        def prune_in(root: Path, report: Report) -> Pruning:
            return Repository(root, report=report, lock_timeout_s=lock_timeout_s).prune(
                name,
                keep=keep,
                ask=lambda: deployment.ask(name, root.resolve(), asked, report),
                is_stopped=deployment.is_stopped,
                are_all_known=bool(asked) or no_other_servers,
                gone=[str(address) for address in old],
                dry_run=dry_run,
            )

        return bucket.change(repository, name, prune_in, wanted=wanted.nothing, reads_others=True, report=report)


def deploy(
    name: str,
    server: "Address | str | Sequence[Address | str]",
    repository: Path | str = REPOSITORY,
    *,
    waves: "str | Sequence[Reach]" = "1,100%",
    admin: "AdminAccess | None" = None,
    headers: Mapping[str, str] | None = None,
    certificates: "Certificates | None" = None,
    timeout_s: float = 300.0,
    version: int | None = None,
    rehearse: bool = True,
    watch_s: float = 0.0,
    slack: float = 1.0,
    lock_timeout_s: float | None = None,
    report: Report = silent,
    finished: "Callable[[Deployment], None] | None" = None,
) -> "Deployment":
    """Load a version into running Tritons and check its answers there, or put everything back as it was.

    Args:
        name: The model.
        server: The gRPC address, such as `grpc://127.0.0.1:8001`, or several. A name that the DNS has several addresses
            for stands for a server at each of them. Triton runs in explicit mode.
        repository: The model repository that the servers read: a folder, or the URL of a bucket.
        waves: How many servers have the version after each wave: numbers or percentages, such as `1,25%,100%`.
        admin: The key of servers that restrict who may load models, and the header that they expect it in. Default:
            the key of the server that this user runs at this address of this machine with `serve`.
        headers: Other headers to send with each request, by name in lower case.
        certificates: The certificates for `grpcs://`. Default: the system's root certificates, and none of the client.
        timeout_s: How long a server may take to load the version, in seconds.
        version: Default: the one that config.pbtxt names.
        rehearse: Load and check the version under another name first.
        watch_s: How long to go on checking after each wave, in seconds.
        slack: Multiplies the allowed differences.
        lock_timeout_s: How long to wait for another deployment of the model, or another change, in seconds. Default:
            until it is over.
        report: Called with each step and what it found.
        finished: Called with how every server was left, also when the deployment failed, before the error is raised.

    Raises:
        RepositoryError: There is no such version, or no stored answers.
        VerificationError: A server's answers differ.
        HostError: A server is down, reads another repository, or does not load the version.
        ValueError: `server` is not a gRPC address, or there is none; or `waves` has another form.
    """
    from builder import deployment  # gRPC takes 0.1 s to import, which no other call needs

    given = [server] if isinstance(server, str) or not isinstance(server, Sequence) else server
    addresses = [deployment.Address.parse(one) if isinstance(one, str) else one for one in given]
    with ExitStack() as stack:
        servers = [
            stack.enter_context(
                deployment.LiveServer(one, admin=admin, headers=headers, certificates=certificates, timeout_s=timeout_s)
            )
            for one in deployment.every_server(addresses)
        ]
        place = stack.enter_context(bucket.mirrored(repository, name, version))
        named = place.names.in_reports(report)
        done: Deployment = place.names.in_result(
            deployment.deploy(
                Repository(place.root, report=named, lock_timeout_s=lock_timeout_s),
                name,
                servers,
                version=version,
                rehearse=rehearse,
                watch_s=watch_s,
                slack=slack,
                steps=deployment.parse_waves(waves) if isinstance(waves, str) else waves,
                mirror=place.mirror,
                report=named,
                finished=lambda done: None if finished is None else finished(place.names.in_result(done)),
            )
        )
        return done


def tune(
    name: str,
    repository: Path | str = REPOSITORY,
    *,
    options: "TuneOptions",
    server: "ServerAccess | None" = None,
    lock_timeout_s: float | None = None,
    report: Report = silent,
    observed: "Callable[[Step], None]" = lambda step: None,
) -> "Tuning":
    """Find the configuration of a model with the highest throughput that keeps a latency limit.

    It is measured under another name beside the served model, by load tests in which every answer is checked. What is
    served does not change, unless `options.apply` asks for it and something better was found.

    Args:
        name: The model.
        repository: The folder of the model repository.
        options: The limit, the load, and how much is measured.
        server: A Triton that serves the repository in explicit mode, to measure on it. Default: one that is started on
            this machine for the tuning.
        lock_timeout_s: How long to wait for another tuning or deployment of the model, in seconds. Default: until it is
            over.
        report: Called with each step and what it found.
        observed: Called before each load test, and after it.

    Raises:
        RepositoryError: There is no such model or version, its answers cannot be compared, or the repository is a
            bucket.
        VerificationError: The current configuration answers wrongly.
        HostError: There is no server that can be controlled, or it ended.
    """
    from builder import tuning  # gRPC takes 0.1 s to import, which no other call needs

    place = tuning.place_of(repository, report=report, lock_timeout_s=lock_timeout_s)
    return tuning.tune(place, name, options, server=server, report=report, observed=observed)


def tune_together(
    names: Sequence[str],
    repository: Path | str = REPOSITORY,
    *,
    options: "TuneOptions",
    server: "ServerAccess | None" = None,
    lock_timeout_s: float | None = None,
    report: Report = silent,
    observed: "Callable[[str, Step], None]" = lambda name, step: None,
) -> "Together":
    """Find the configurations of several models that share a server, while all of them are under load.

    The models are searched in turns. The limit and the load of the options are those of each model; the load has to be
    given. What is served does not change, unless `options.apply` asks for it and the new settings are better for all
    models together.

    Args:
        names: The models.
        repository: The folder of the model repository.
        options: The limit, the load, and how much is measured in a turn. Every tuning of several models starts anew.
        server: A Triton that serves the repository in explicit mode, to measure on it. Default: one that is started on
            this machine for the tuning.
        lock_timeout_s: How long to wait for another tuning or deployment of a model, in seconds. Default: until it is
            over.
        report: Called with each step and what it found.
        observed: Called with the model, before each load test of its turn, and after it.

    Raises:
        RepositoryError: There is no such model, its answers cannot be compared, or the repository is a bucket.
        VerificationError: A model answers wrongly.
        HostError: There is no server that can be controlled, or it ended.
        ValueError: No load is given.
    """
    from builder import tuning

    place = tuning.place_of(repository, report=report, lock_timeout_s=lock_timeout_s)
    return tuning.tune_together(place, names, options, server=server, report=report, observed=observed)


def undo_tuning(
    name: str,
    repository: Path | str = REPOSITORY,
    *,
    servers: Sequence["Address | str"] = (),
    admin: "AdminAccess | None" = None,
    headers: Mapping[str, str] | None = None,
    certificates: "Certificates | None" = None,
    lock_timeout_s: float | None = None,
    report: Report = silent,
) -> "Applied":
    """Bring back the settings from before the last tuning that was applied, also on the servers that got it.

    What was changed elsewhere in config.pbtxt since stays. Each further call takes back the tuning before.

    Args:
        name: The model.
        repository: The folder of the model repository.
        servers: Which of the servers may get the key, the headers and the client's certificate, if any are given. Those
            on this machine always may.
        admin: The key to the servers' administrative APIs. Default: that of a server that you run at this address.
        headers: Other headers to send to them, by name in lower case.
        certificates: The certificates for `grpcs://`.
        lock_timeout_s: How long to wait for another tuning or deployment of the model, in seconds. Default: until it is
            over.
        report: Called with each step and what it found.

    Raises:
        RepositoryError: What the tuning changed was changed again since, or the repository is a bucket.
        VerificationError: An answer is not the proven one.
        HostError: A server does not load the config, does not answer, or may not get the key.
    """
    from builder import deployment, tuning  # gRPC takes 0.1 s to import, which no other call needs

    place = tuning.place_of(repository, report=report, lock_timeout_s=lock_timeout_s, to_undo=True)
    named = tuple(deployment.Address.parse(one) if isinstance(one, str) else one for one in servers)
    access = tuning.UndoAccess(named, admin, headers, certificates)
    return tuning.undo_applied(place, name, access, report=report)
