"""Captions that can stand alone under a figure in a paper: what is drawn, of what, with which marks. Torch-free."""

from __future__ import annotations

from worldsize.report import labels
from worldsize.report.cells import classified
from worldsize.report.method import setting
from worldsize.report.numbers import count, in_words, show
from worldsize.study.records import CellResult, StudyResult


def _subject(result: StudyResult) -> str:
    """Return 'strong scaling of a 4-layer decoder (width 128) on 2 cores of ACME CPU' as far as it is known."""
    layers, width = setting(result, "model", "num_layers"), setting(result, "model", "d_model")
    text = f"{result.scaling} scaling"
    if layers and width:
        text += f" of a {layers}-layer decoder of width {width}"
    if common := labels.in_common(result):
        text += f", {common},"
    environment = result.environment
    if environment is None:
        return text.rstrip(",")
    names = sorted(set(environment.device_names)) or [environment.device_kind]
    return f"{text} on {labels.plain(', '.join(names), 80)}"


def _marks(result: StudyResult) -> str:
    """Explain the marks that occur, and only those."""
    text = ""
    if any(labels.is_refused(cell) for cell in result.cells):
        text += " Hollow: the comparison with the baseline was refused."
    if any(cell.overridden for cell in result.cells):
        text += " †: refused, and printed by override."
    if any(cell.other_maths for cell in result.cells):
        text += " ‡: other maths; compare by loss."
    return text


def _repeats(result: StudyResult) -> str:
    most = max((len(cell.runs) for cell in result.cells), default=0)
    return f"up to {count(most, 'repeat')} a cell"


def step_time(result: StudyResult) -> str:
    return (
        f"Time of one optimizer step, {_subject(result)}. Dots: every repeat's median over its timed steps "
        f"({_repeats(result)}); tick: their median; band: its 95 % bootstrap interval.{_marks(result)}"
    )


def throughput(result: StudyResult) -> str:
    return (
        f"Tokens per second of all devices together, {_subject(result)}. Dots, ticks and bands as for step "
        f"time: "
        f"repeats, median, 95 % interval.{_marks(result)}"
    )


def speedup(result: StudyResult) -> str:
    return (
        f"Speedup over the baseline for the same work, {_subject(result)}. Dashed: ideal. Large marks: medians with "
        f"95 % "
        f"bootstrap intervals; small dots beside them: every repeat.{_absent(result)}{_marks(result)}"
    )


def efficiency(result: StudyResult) -> str:
    what = "speedup over added devices" if result.scaling == "strong" else "throughput per device over the baseline's"
    return (
        f"Efficiency ({what}), {_subject(result)}. Dashed: ideal. Large marks: medians with 95 % bootstrap intervals; "
        f"small "
        f"dots beside them: every repeat.{_absent(result)}{_marks(result)}"
    )


def _absent(result: StudyResult) -> str:
    missing = any(cell.step_time_s is None for cell in result.cells)
    return " At the foot: cells without a finished repeat." if missing else ""


def phases(result: StudyResult) -> str:
    return (
        f"Where one step's time goes, {_subject(result)}: mean over ranks; a bar's length is the step time. Exposed "
        f"communication is time in which nothing computes.{_marks(result)}"
    )


def exposed(result: StudyResult) -> str:
    return (
        "Exposed communication of one step by independent measures, with 95 % intervals: clock marks in timed steps; "
        "steps "
        f"with the exchange minus steps without (ablation); profiled steps (trace). {_sentence(_subject(result))}"
    )


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:] + "."


def loss_by_step(result: StudyResult) -> str:
    return (
        f"Training loss by optimizer step, {_subject(result)}. Equal work must give one curve whatever the layout; a "
        f"wide line under a narrow one is two curves that coincide.{_distance(result)}"
    )


def loss_by_time(result: StudyResult) -> str:
    return (
        f"The same losses against training time (step × the cell's median step time; warm-up and evaluation left out), "
        f"{_subject(result)}. Time to an equal loss is what a speedup is for."
    )


def _distance(result: StudyResult) -> str:
    """Return how far any curve lies from its baseline's, where both have one."""
    by_name = {cell.name: cell for cell in result.cells}
    pairs = [(cell, by_name[cell.baseline]) for cell in result.cells if cell.baseline in by_name and cell.losses]
    same_batch = [(cell, base) for cell, base in pairs if cell.global_batch == base.global_batch and base.losses]
    if not same_batch:
        return ""
    worst, cell = max(((_apart(cell, base), cell) for cell, base in same_batch), key=lambda pair: pair[0])
    if worst == 0:
        return " All curves equal their baseline's exactly."
    text = show(worst) if worst >= 1e-3 else f"{worst:.1e}"
    return f" Largest distance from the baseline at any step: {text} nats per token ({labels.describe(cell)})."


def _apart(cell: CellResult, base: CellResult) -> float:
    return max(abs(own - other) for own, other in zip(cell.losses, base.losses, strict=False))


def per_rank(result: StudyResult) -> str:
    return (
        f"Every rank of every repeat, {_subject(result)}: median step time and median compute. Ranks in lock-step "
        f"must agree "
        "in step time; a slow rank shows in its compute while the others wait."
    )


def lost_time(result: StudyResult) -> str:
    known = [cell for cell in result.cells if cell.lost_time]
    ideal = "the baseline's step divided over the devices" if result.scaling == "strong" else "the baseline's step"
    some = "" if len(known) <= 4 else f" Shown are the 4 of {len(known)} cells that lost most; the table has all."
    return (
        f"From the ideal step ({ideal}) to the measured one, part by part, {_subject(result)}. Hatched: won back.{some}"
    )


def compute_communication(result: StudyResult) -> str:
    return (
        f"Exposed communication against compute of one step, {_subject(result)}; the number at a mark is its devices. "
        "Along a grey diagonal their ratio, compute : communication, is the same; further down is better."
    )


def batch_efficiency(result: StudyResult) -> str:
    noise = ""
    if any(cell.noise_scale and cell.noise_scale.noise_scale for cell in result.cells):
        noise = (
            " Dotted, with its band: progress of a sample over that of one in a tiny batch, from the gradient noise "
            "scale (McCandlish et al. 2018); where it falls, a larger batch buys less progress per sample."
        )
    return f"Efficiency against the global batch, {_subject(result)}. Bars: 95 % bootstrap intervals.{noise}"


def step_samples(result: StudyResult) -> str:
    return (
        f"Every timed step of every repeat, {_subject(result)}: one tick a step (slowest rank), as a share of its "
        "cell's median. Repeats lie below each other in two colours, the steps of each run downwards in time, so that "
        "a drift leans."
    )


def rank_phases(result: StudyResult) -> str:
    widest = max((cell.world_size for cell in result.cells), default=1)
    return (
        f"Seconds that each rank spends in each phase of a step on {count(widest, 'device')}, median over repeats. "
        "Orange: longer than the mean of the ranks, blue: shorter. A rank that computes for longer makes the others "
        f"wait in communication. {_sentence(_subject(result))}"
    )


def laws(result: StudyResult) -> str:
    fits = result.fits
    if fits is None or fits.best is None:
        return ""
    best = next(fit for fit in fits.fits if fit.law == fits.best)
    others = [fit.title for fit in fits.fits if fit.is_possible and fit.law != fits.best]
    rest = f" As possible: {' and '.join(others)}." if others else ""
    few = " Of many curves four are shown." if len(best.curves) > 4 else ""
    return (
        f"Step time against devices, {_subject(result)}. Filled: every measured repeat; line and band: {best.title} "
        "with its 95 % interval; open marks with bars: where one further run will fall, by every law that is possible. "
        f"Grey and hatched: not believable. Dashed: ideal.{rest}{few}"
    )


def confusion(result: StudyResult) -> str:
    cell = classified(result)
    assert cell is not None
    assert cell.held_out is not None
    rows = sum(map(sum, cell.held_out.confusion))
    return (
        f"Which class the held-out texts of each class are taken for, {labels.describe(cell)}: {rows:,} texts over all "
        "repeats. A line sums to 100 %."
    )


def alt(result: StudyResult, key: str) -> str:
    """Return what a figure shows, read out where it cannot be seen: its title and the numbers in it."""
    picks = {
        "step_time": lambda cell: cell.step_time_s and f"{in_words(cell.step_time_s)} s",
        "throughput": lambda cell: cell.tokens_per_s and f"{in_words(cell.tokens_per_s)} tokens/s",
        "speedup": lambda cell: cell.speedup and in_words(cell.speedup),
        "efficiency": lambda cell: cell.efficiency and in_words(cell.efficiency),
        "loss_by_step": lambda cell: cell.losses and f"last loss {show(cell.losses[-1], 4)}",
        "loss_by_time": lambda cell: cell.losses and f"last loss {show(cell.losses[-1], 4)}",
    }
    if key == "confusion":
        return _confused(result)
    pick = picks.get(key)
    if pick is None:
        return "The numbers stand in the table of the same name."
    said = [f"{labels.describe(cell)}: {pick(cell) or 'not known'}" for cell in result.cells]
    return "; ".join(said)


def _confused(result: StudyResult) -> str:
    """Return each class's own share: the diagonal of the matrix."""
    cell = classified(result)
    assert cell is not None
    assert cell.held_out is not None
    lines = zip(cell.held_out.labels, cell.held_out.confusion, strict=True)
    return "; ".join(f"{name}: {100 * line[i] / max(sum(line), 1):.1f} % found" for i, (name, line) in enumerate(lines))
