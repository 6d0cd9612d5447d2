"""Decoding by compiled graphs: the same tokens, and no silent fall-back."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tests.inference.models import opened, tokens
from tests.models.model_configs import gpt, llama
from worldsize.config.schema import ModelConfig
from worldsize.errors import UserError
from worldsize.inference import compiled as module
from worldsize.inference import kernels
from worldsize.inference.compiled import just_in_time
from worldsize.inference.engine import Engine
from worldsize.inference.methods import known

needs_compiler = pytest.mark.skipif(
    kernels.why_not() is not None, reason="torch.compile on a CPU needs the compiler that the kernels need"
)


def test_the_compilers_settings_are_where_this_was_written_for() -> None:
    for name in ("recompile_limit", "accumulated_recompile_limit", "fail_on_recompile_limit_hit"):
        assert hasattr(torch._dynamo.config, name)
    for name in ("aoti_compile_and_package", "aoti_load_package"):
        assert callable(getattr(torch._inductor, name))


def test_without_a_compiler_it_says_so(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CXX", raising=False)
    with pytest.raises(UserError, match="needs a C"):
        Engine(opened(gpt()), compile_decoding=True)


@needs_compiler
@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize(
    ("model", "method"),
    [(gpt(), "int8"), (llama(), "int4"), (gpt(), "torchao-int8-weights"), (gpt(), "torch-dynamic")],
    ids=str,
)
def test_compiled_decoding_gives_the_same_logits(model: ModelConfig, method: str) -> None:
    if known(method).why_not() is not None:
        pytest.skip(f"{method}: {known(method).why_not()}")
    ours, ids_BT = opened(model), tokens(2, 20)
    eager, graphs = (Engine(ours, method_name=method, num_slots=2, compile_decoding=chosen) for chosen in (False, True))
    assert graphs.compiled == (method != "torch-dynamic")
    for place in range(3):
        positions_B = torch.tensor([place, place])
        expected_BV = eager.decode(ids_BT[:, place], positions_B)
        torch.testing.assert_close(graphs.decode(ids_BT[:, place], positions_B), expected_BV, rtol=1e-4, atol=1e-3)


@needs_compiler
@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("method", ["fp32", "bf16", "int8", "int4-all"])
def test_a_compiled_row_in_pytorch_alone(method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """One row is a product that the compiler makes itself: nearer to the weights than rounded inputs are."""
    monkeypatch.setattr(kernels, "why_not", lambda: "not in this test")
    ours, ids_1T = opened(gpt(num_layers=1)), tokens(1, 20)
    engine = Engine(ours, method_name=method, compile_decoding=True)
    got_1V = engine.decode(ids_1T[:, 0], torch.tensor([0]))
    expected_1V = Engine(ours, method_name=method).decode(ids_1T[:, 0], torch.tensor([0]))
    assert (got_1V - expected_1V).norm() < {"fp32": 1e-5, "int4-all": 1e-5}.get(method, 0.03) * expected_1V.norm()


@needs_compiler
@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_too_many_shapes_are_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MOST_SHAPES", 2)
    step = just_in_time(lambda x: x + 1)
    for size in (1, 2):
        step(torch.zeros(size))
    with pytest.raises(torch._dynamo.exc.FailOnRecompileLimitHit, match="recompile_limit"):
        step(torch.zeros(3))
