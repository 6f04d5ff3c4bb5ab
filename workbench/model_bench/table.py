"""The table of a measurement, in Markdown, with the notes that its figures need."""

from __future__ import annotations

from collections.abc import Callable

from eval.report import LONG, errors_note, plus_minus, ppl_text
from eval.result import PerplexityResult
from workbench.assets import demo_model_path
from workbench.show.table import NONE, Table

from .measure import Measurement, Row
from .speed import Rate


def markdown(measurement: Measurement) -> str:
    """The main table, the split of the losses through the references, and notes."""
    main, split = main_table(measurement).markdown(), split_table(measurement).markdown()
    return f"{main}\n\nThrough the references:\n\n{split}\n\n{notes(measurement)}\n"


def main_table(measurement: Measurement) -> Table:
    """A row a model, with everything that was measured."""
    return Table.of(_columns(measurement), measurement.rows)


def split_table(measurement: Measurement) -> Table:
    """What the formats alone lose, through the references."""
    return Table.of(_split_columns(measurement), measurement.rows)


def short_table(measurement: Measurement) -> Table:
    """Of `main_table` what fits on a screen of 80 columns."""

    def perplexity(row: Row) -> str:
        form = ".2f" if row.result.ppl < 1000 else ".1e"
        return f"{row.result.ppl:{form}}{plus_minus(row.result.ppl_error, form)}"

    long = _columns(measurement)
    columns = {
        "format": long["format"],
        "bits": lambda row: f"{row.bits_per_weight:.2f}",
        "MB": long["file, MB"],
        "perplexity": perplexity,
        "change, %": long["change, %"],
        "KL, nats": long["mean KL, nats"],
        "tokens/s": lambda row: f"{row.speed.decode.median:.0f}" if row.speed else NONE,
    }
    return Table.of(columns, measurement.rows)


def _columns(measurement: Measurement) -> dict[str, Callable[[Row], str]]:
    label = next((row.speed.label for row in measurement.rows if row.speed), "CPU")
    return {
        "format": lambda row: row.name,
        "bits a weight": lambda row: f"{row.bits_per_weight:.3f}",
        "file, MB": lambda row: f"{row.file_bytes / 1e6:.2f}",
        "perplexity": lambda row: ppl_text(row.result.ppl, row.result.ppl_error),
        "change, %": lambda row: NONE if row.change is None else change_text(*row.change),
        "mean KL, nats": lambda row: divergence_text(row.result),
        "same top-1, %": lambda row: share_text(row.same_top1),
        "kernel loss, nats": _kernel,
        "its RMS": lambda row: f"{row.kernel_loss.rms:.1e}" if row.kernel_loss else NONE,
        f"prefill, tokens/s ({label})": lambda row: _rate(row.speed and row.speed.prefill),
        f"decode, tokens/s ({label})": lambda row: _rate(row.speed and row.speed.decode),
        **(
            {f"stream, tokens/s ({label})": lambda row: _rate(row.speed and row.speed.stream)}
            if measurement.settings.stream_tokens
            else {}
        ),
    }


def _split_columns(measurement: Measurement) -> dict[str, Callable[[Row], str]]:
    def loss(row: Row) -> str:
        found = row.format_loss
        return f"{found.mean:+.5f}{plus_minus(found.error, '.5f')}" if found else NONE

    def references(row: Row) -> str:
        return ppl_text(row.results["torch"].ppl, row.results["torch"].ppl_error)

    return {
        "format": lambda row: row.name,
        "perplexity": references,
        "format loss, nats": loss,
        "its RMS": lambda row: f"{row.format_loss.rms:.1e}" if row.format_loss else NONE,
    }


def change_text(percent: float, se: float) -> str:
    """A change in % with its standard error."""
    form = ".3f" if abs(percent) < 1 else ".2f" if abs(percent) < LONG else ".2e"
    return f"{percent:+{form}}{plus_minus(se, form)}"


def divergence_text(result: PerplexityResult) -> str:
    """The mean KL divergence to the baseline with its standard error, nats."""
    found = result.baseline
    return (
        NONE
        if found is None or found.kl is None
        else f"{found.kl['mean']:.2e}{plus_minus(found.kl_error, '.0e')}"
    )


def share_text(share: tuple[float, float] | None) -> str:
    """A share with its standard error, both in %."""
    return NONE if share is None else f"{100 * share[0]:.2f}{plus_minus(100 * share[1], '.2f')}"


def _kernel(row: Row) -> str:
    found = row.kernel_loss
    return f"{found.mean:+.0e}{plus_minus(found.error, '.0e')}" if found else NONE


def _rate(rate: Rate | None) -> str:
    return NONE if rate is None else str(rate)


def notes(measurement: Measurement) -> str:
    """What the table's figures are, and where they come from, as a list of Markdown."""
    return "\n".join(f"- {line}" for line in note_lines(measurement))


def note_lines(measurement: Measurement) -> list[str]:
    """The same, a text a note, with code between backticks."""
    result = measurement.row(measurement.baseline).result
    source = result.text["name"] if result.text else "bare tokens"
    digest = f", sha256 {result.text['sha256'][:12]}" if result.text else ""
    separator = f", documents apart at `{result.separator}`" if result.separator else ""
    whole = "all" if result.windows == result.windows_available else "the first"
    lines = [
        f"n = {result.tokens_scored:,} tokens scored, {whole} {result.windows} windows of protocol "
        f"`{result.protocol.name}` on {source}{digest}{separator}.",
    ]
    lines += model_note(result.provenance)
    if measurement.no_adapter:
        lines.append(
            f"No WebGPU adapter: {measurement.no_adapter}. Every figure is of the PyTorch references; "
            "there is no kernel loss and no time of a kernel."
        )
    else:
        lines.append(
            f"Perplexities, changes, KL and times through the WGSL kernels on {_device(measurement)}."
        )
        lines.append(
            "Kernel loss: WGSL against references on the same packed bytes, mean of the paired "
            "differences of -ln p. That of the baseline is the noise floor."
        )
    lines.append(
        f"Change, KL and same top-1: paired with `{measurement.baseline}` (unquantized), token by token, so "
        f"their errors are smaller than the perplexity's. {errors_note(measurement.errors)}; both errors of each "
        "are in results.json."
    )
    speed = next((row.speed for row in measurement.rows if row.speed), None)
    if speed:
        load = "" if speed.load_average is None else f", load average {speed.load_average:.1f}"
        kind = " These are times of a CPU, not of a GPU." if speed.on_cpu else ""
        lines.append(
            f"Times: median (lowest to highest) of {len(speed.prefill.seconds)} repetitions after a warm-up, "
            f"prompt of {speed.prefill.tokens} tokens, then {speed.decode.tokens} greedy ones{load}.{kind}"
        )
    lines += [f"{row.name}: {row.note}." for row in measurement.rows if row.note]
    return [*lines, versions_text(result.provenance)]


def _device(measurement: Measurement) -> str:
    return measurement.row(measurement.baseline).result.provenance.get("device", "an unknown device")


def model_note(provenance: dict) -> list[str]:
    """What is to be said of figures of the model that comes with the project, or of a fetched, dequantized one."""
    if provenance.get("model") != demo_model_path().name:
        fetched = provenance.get("source", {}).get("fetched", {})
        return [fetched["note"]] if "note" in fetched else []
    return [
        "Of the embedded model (7.3M parameters, children's stories): these figures prove the code, and say nothing of "
        "other models."
    ]


def versions_text(provenance: dict) -> str:
    """Versions and commit of a result's provenance."""
    versions = ", ".join(f"{name} {version}" for name, version in provenance.get("versions", {}).items())
    commit = provenance.get("commit")
    changed = " with changes" if provenance.get("dirty") else ""
    return f"{versions}{f', commit {commit[:12]}{changed}' if commit else ''}."
