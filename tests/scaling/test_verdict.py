"""Verdicts against figures worked out by hand: without noise a step takes 105 ms on one device and 61 ms on two."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from tests.study.synthetic import make_study
from tests.study.synthetic_work import phases_of
from worldsize.records import PHASES
from worldsize.study.records import StudyResult
from worldsize.study.results import analyse


def clean(folder: Path, **study: Any) -> StudyResult:
    return analyse(make_study(folder, **{"noise": 0.0, **study}))


def test_headline(tmp_path: Path) -> None:
    # 105 / 61 = 1.721, of 2 = 86.1 %
    headline = clean(tmp_path).verdict.headline
    assert headline == "2 devices are 1.72x as fast as 1 (95 % interval 1.72-1.72), 86 % efficiency, for the same work."


def test_why_splits_the_lost_time(tmp_path: Path) -> None:
    # ideal 52.5, lost 8.5 ms = 6 exposed + (4 - 2) optimizer + (0.5 - 0.25) data + (0.5 - 0.25) other
    why = clean(tmp_path).verdict.why
    assert why[0] == "Ideally a step would take 52.5 ms (105.0 ms / 2); it takes 61.0 ms, so 8.5 ms are lost:"
    assert [line.split(".  ")[0].split(" of the loss")[0] for line in why[1:]] == [
        "Exposed communication: 6.0 ms, 71 %",
        "Optimizer: 2.0 ms, 24 %",
        "Other: 0.3 ms, 3 %",
        "Data: 0.2 ms, 3 %",
    ]


def test_next_is_reckoned_from_the_phases(tmp_path: Path) -> None:
    # all hidden: 105 / 55; double batch: 205.5 / 111.5; half the update: 105 / 59
    suggestions = clean(tmp_path).verdict.next
    assert ["1.91x" in suggestions[0], "1.84x" in suggestions[1], "1.78x" in suggestions[2]] == [True] * 3
    assert suggestions[1].startswith("Doubling the global batch to 128")
    assert "measure a second batch to know (--global-batch 64,128)" in suggestions[1]
    # half the exchange by the model: 105 / 58, and between all of it latency (105 / 61) and all of it link (105 / 58)
    assert suggestions[3].startswith("Gradients exchanged in bf16 would give 1.76x (1.72-1.81), by the model")
    assert suggestions[4].startswith("4 devices: nothing believable can be said, since two numbers of devices")
    assert len(suggestions) == 5  # data wait would give 0.3 %: not worth a line


def test_nothing_to_gain(tmp_path: Path) -> None:
    phases = [{"compute_s": 0.1}, {"compute_s": 0.05}]
    faults = {f"n{n}-b64": {"phases": dict.fromkeys(phases_of(1, 64), 0.0) | p} for n, p in enumerate(phases, 1)}
    verdict = clean(tmp_path, faults=faults).verdict
    assert verdict.next[0] == "No change that these measurements can judge would give more than 2 %."
    assert verdict.why == ["A step takes 50.0 ms, no longer than the ideal 50.0 ms (100.0 ms / 2): no time is lost."]


def test_two_batches_let_the_model_speak_of_a_third(tmp_path: Path) -> None:
    # without noise the model is exact: 256 samples take 400 + 5 on one device, 200 + 5 + 6 on two
    verdict = clean(tmp_path, global_batches=(64, 128)).verdict
    assert "1.85x as fast as 1 at a global batch of 128" in verdict.headline
    assert any(
        line.startswith("A global batch of 256 would give 1.92x (1.92-1.92), by the model") for line in verdict.next
    )
    assert not any("should give" in line or "micro batches" in line for line in verdict.next)
    assert verdict.evidence[-1].startswith("The model behind what would be assumes: ")


def test_the_headline_of_a_lossy_study_says_why_and_what_instead(tmp_path: Path) -> None:
    # 55 / 72 at 32 samples, 42 of 72 exposed: 58 %; 128 samples: 205 / 147; half the exchange: 55 / 72 if all of it is
    # latency, 55 / 51 if all is link, 55 / 61.5 in the middle
    faults = {f"n2-b{batch}": {"phases": phases_of(2, batch, exposed_s=0.042)} for batch in (16, 32)}
    verdict = clean(tmp_path, global_batches=(16, 32), faults=faults).verdict
    assert verdict.headline == (
        "2 devices are slower than 1: 0.76x as fast as 1 at a global batch of 32 (95 % interval 0.76-0.76), "
        "38 % efficiency, for the same work, because exposed communication is 58 % of the step; "
        "a global batch of 128 would give 1.39x (1.39-1.39); "
        "or gradients exchanged in bf16 would give 0.89x (0.76-1.08)."
    )


def test_a_larger_batch_that_is_worse_is_told_from_measurement(tmp_path: Path) -> None:
    worse = {"n2-b128": {"phases": phases_of(2, 128, exposed_s=0.05)}}
    verdict = clean(tmp_path, global_batches=(64, 128), faults=worse).verdict
    assert "at a global batch of 64" in verdict.headline
    # 205.5 / 155.5 = 1.32
    assert verdict.next[0].startswith(
        "Doubling the batch was measured in this study: a global batch of 128 gives 1.32x"
    )
    assert not any("should give" in line and "Doubling" in line for line in verdict.next)


def test_a_slow_rank_is_a_cause_and_a_thing_to_mend(tmp_path: Path) -> None:
    # rank 1 computes 60 ms, the other 50: the step takes 71; without the 10 ms 105 / 61
    verdict = clean(tmp_path, faults={"n2-b64": {"slow_rank": 1}}).verdict
    assert any(line.startswith("Rank 1 computes 20 % longer") and "Look for" in line for line in verdict.why)
    assert not any("slow-rank" in line for line in verdict.evidence)
    mend = next(line for line in verdict.next if line.startswith("Bringing the slow rank level"))
    assert "1.72x" in mend
    # of 11 ms exposed, 5 are waiting (10 on one of two ranks): 105 / (71 - 6)
    assert any("at most 1.62x" in line for line in verdict.next)


def test_evidence(tmp_path: Path) -> None:
    evidence = "\n".join(clean(tmp_path).verdict.evidence)
    assert "Same work: 1,600 samples and 204,800 tokens in each of 6 runs" in evidence
    assert "at most 0.0e+00 relative over 25 steps (fp32 allows 1e-04)" in evidence
    assert "1 device 105.0 ms (105.0-105.0) in 3 repeats; 2 devices 61.0 ms (61.0-61.0) in 3 repeats" in evidence
    assert "6.0 ms by the clock, 6.0 ms by leaving the exchange out, 6.0 ms by the trace; they agree" in evidence
    assert "4,000,000 bytes a rank and step go into collectives: predicted and observed alike" in evidence
    assert "Measuring costs 0.20 % of the step" in evidence
    assert "Gloo on one host: a real measurement of training on CPU cores" in evidence
    assert "No MFU is given: the peak of this CPU is not known" in evidence


def test_a_noisy_headline_names_no_cause(tmp_path: Path) -> None:
    slow = {"n2-b64": {"phases": phases_of(2, 64, exposed_s=0.06)}}
    verdict = clean(tmp_path, noise=0.2, faults=slow).verdict
    assert any(line.startswith("First make the figure certain (noisy)") for line in verdict.next)
    assert "because" not in verdict.headline
    assert "batch" not in verdict.headline


def test_weak_scaling_speaks_of_rate_per_device(tmp_path: Path) -> None:
    # 105 / 111 = 94.6 %
    result = clean(tmp_path, scaling="weak")
    assert result.verdict.headline.startswith(
        "2 devices, each with as much work as before, keep 95 % (95 % interval 95-95 %)"
    )
    assert result.cells[1].speedup is None


def test_no_gain_and_slower(tmp_path: Path) -> None:
    slower = {"n2-b64": {"phases": phases_of(2, 64, exposed_s=0.08)}}
    assert "2 devices are slower than 1: 0.78x" in clean(tmp_path / "a", faults=slower).verdict.headline
    equal = {"n2-b64": {"step_time_s": 0.105}}
    assert "show no gain over 1 beyond the noise" in clean(tmp_path / "b", faults=equal, noise=0.01).verdict.headline


def test_fewer_devices_that_do_as_well_are_named(tmp_path: Path) -> None:
    result = clean(tmp_path, world_sizes=(1, 2, 4), faults={"n4-b64": {"step_time_s": 0.07}})
    assert "; 2 devices already give 1.72x" in result.verdict.headline


def test_refusal_and_override(tmp_path: Path) -> None:
    folder = make_study(tmp_path, faults={"n2-b64": {"every_rank_all_data": True}})
    refused = analyse(folder).verdict
    assert refused.headline == "No speedup is given: n2-b64 cannot be compared with n1-b64."
    assert refused.why[0].startswith("No speedup for n2-b64 (every-rank-all-data): each rank consumed all 64 samples")
    assert "1.7" not in refused.headline + "".join(refused.why + refused.next + refused.evidence)
    forced = analyse(folder, override=True)
    assert forced.cells[1].overridden
    assert forced.cells[1].speedup
    assert forced.verdict.headline.startswith("Overridden, not the same work: 2 devices are")
    assert "for the same work" not in forced.verdict.headline


def test_one_world_size_is_a_plain_measurement(tmp_path: Path) -> None:
    # 64 × 128 tokens / 61 ms = 134,295 tokens/s
    verdict = clean(tmp_path, world_sizes=(2,)).verdict
    assert verdict.headline.startswith("2 devices train 134,295 tokens/s: 61.0 ms (61.0-61.0) a step.")
    assert verdict.why[0] == "Compute: 50.0 ms, 82 % of the step."
    assert verdict.next == ["Measure what more devices bring: --nproc 2,4."]


def test_phases_that_win_are_told_apart_from_those_that_lose(tmp_path: Path) -> None:
    # compute takes 45 where 50 would do: 11 + 2 + 0.25 + 0.25 lost, 5 won
    uneven = {"n2-b64": {"phases": phases_of(2, 64, exposed_s=0.011) | {"compute_s": 0.045}}}
    verdict = clean(tmp_path, faults=uneven).verdict
    assert verdict.why[0].endswith("so 8.5 ms are lost: 13.5 ms in some parts, less 5.0 ms won in others")
    assert verdict.why[1].startswith("Exposed communication: 11.0 ms, 81 % of the loss.")
    assert "Compute: 5.0 ms won. 45.0 ms a step, where the baseline's share would be 50.0 ms." in verdict.why
    # with the exchange hidden 105 / 50 = 2.1: more than two devices can
    assert any("at most 2.00x" in line for line in verdict.next)


def test_uncertain_figures_come_first(tmp_path: Path) -> None:
    assert (
        clean(tmp_path, repeats=2).verdict.next[0].startswith("First make the figure certain (few-repeats): 2 finished")
    )


def test_nothing_finished(tmp_path: Path) -> None:
    folder = make_study(tmp_path)
    shutil.rmtree(folder / "runs")
    assert analyse(folder).verdict.headline == "No run has finished yet."


def test_a_pipelines_bubble_is_told_and_gradients_are_not(tmp_path: Path) -> None:
    # 20 ms of bubble of 75 ms: half of it gone leaves 105 / 65
    phases = {"compute_s": 0.05, "bubble_s": 0.02, "exposed_communication_s": 0.004, "optimizer_s": 0.001}
    study = make_study(
        tmp_path, noise=0.0, faults={"n2-b64": {"phases": phases_of(2, 64) | dict.fromkeys(PHASES, 0.0) | phases}}
    )
    for path in study.glob("runs/n2-b64/r*/*.json"):
        tree = json.loads(path.read_text())
        path.write_text(json.dumps(tree | {"strategy": "pipeline", "layout": {"dp": 1, "fsdp": 1, "tp": 1, "pp": 2}}))
    suggestions = analyse(study).verdict.next
    [bubble] = [line for line in suggestions if "micro batches" in line]
    assert "should give 1.62x, if smaller ones compute as efficiently: the bubble of 20.0 ms halves" in bubble
    assert not any("bf16" in line or "bucket" in line for line in suggestions)
