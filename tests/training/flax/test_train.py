"""Training: it learns, resumes to the last bit, survives a kill at any moment and says in one line what is wrong."""

import signal

import jax
import numpy as np
import pytest

from tests.training.project import one_line, same_weights

KILLS = {
    "before the state": "checkpoint.ocp.Checkpointer.save = kill",
    "before the rename": "folder.sync = kill",
}


def test_a_short_training_learns(trained):
    losses = trained.column("loss")
    assert np.isclose(losses[1], np.log(260), rtol=0.1)
    assert losses[12] < losses[1] - 2
    heldout = trained.column("heldout_loss")
    assert heldout[12] < heldout[6]


def test_twelve_steps_equal_six_a_kill_and_six_to_the_last_bit(trained, project):
    process = project.start("train.py", *project.training("--save-every", 6))
    project.kill_after(7, process)
    assert "step-000006" in project.checkpoints()
    project.trained("--resume")
    for metric in ("loss", "grad_norm", "heldout_loss"):
        assert project.column(metric) == trained.column(metric)
    assert same_weights(project.weights(12), trained.weights(12))


def test_a_termination_saves_and_the_rest_follows_exactly(copied):
    endless = ("--steps", 400, "--resume", "--save-every", 0, "--eval-every", 0)
    process = copied.start("train.py", *copied.training(*endless))
    copied.wait_for(14, process)
    process.terminate()
    outcome = copied.finish(process)
    assert outcome.code == 0
    step = int(copied.checkpoints()[-1].removeprefix("step-"))
    assert f"stopped after step {step}" in outcome.stdout
    assert 14 <= step == max(copied.column("loss")) < 400
    copied.trained("--steps", step + 1, "--resume")
    assert list(copied.column("loss")) == list(range(1, step + 2))


@pytest.mark.parametrize("moment", KILLS)
def test_a_kill_while_a_checkpoint_is_written_leaves_one_that_loads(copied, moment):
    before, left = copied.weights(12), copied.checkpoints()
    script = f"""
import os, signal, sys
import checkpoint, folder, train
def kill(*arguments, **named): os.kill(os.getpid(), signal.SIGKILL)
{KILLS[moment]}
train.main(sys.argv[1:])
"""
    (copied.folder / "killed.py").write_text(script)
    outcome = copied.run("killed.py", *copied.training("--resume", "--steps", 14))
    assert outcome.code == -signal.SIGKILL
    assert copied.checkpoints() == left
    assert same_weights(copied.weights(12), before)
    copied.trained("--resume", "--steps", 14)
    assert list(copied.column("loss")) == list(range(1, 15))
    assert [path.name for path in (copied.folder / "checkpoints").glob(".*")] == []


@pytest.mark.parametrize("writer", ["checkpoint.save_file", "checkpoint.ocp.Checkpointer.save"])
def test_a_full_disk_keeps_the_checkpoints_before(copied, writer):
    left = copied.checkpoints()
    script = f"""
import resource, sys
import checkpoint, train
write = {writer}
def write_little(*arguments, **named):
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
    return write(*arguments, **named)
{writer} = write_little
train.main(sys.argv[1:])
"""
    (copied.folder / "full.py").write_text(script)
    message = one_line(copied.run("full.py", *copied.training("--resume", "--steps", 14)))
    assert "cannot write" in message
    assert "File too large" in message
    assert copied.checkpoints() == left


def test_a_loss_that_is_not_finite_ends_the_training_and_names_step_and_weight(copied):
    weights = copied.weights(12)
    weights["layers.2.W_out"][3, 4] = np.nan
    copied.write_weights(12, weights)
    message = one_line(copied.train("--resume", "--steps", 14))
    assert "step 13: loss nan" in message
    assert "first not finite: the gradient of E" in message
    assert copied.checkpoints()[-1] == "step-000012"


def test_accumulation_remat_and_bfloat16_change_only_rounding(trained, copied):
    full = trained.values("loss")
    for options, tolerance in ((("--accumulate", 4, "--remat"), 2e-4), (("--dtype", "bfloat16"), 0.03)):
        copied.trained("--out", copied.folder / options[0], *options)
        losses = copied.values("loss", options[0])
        assert (losses != full).any()
        np.testing.assert_allclose(losses, full, rtol=tolerance)
    stored = copied.weights(12, "--dtype").values()
    assert {weight.dtype.name for weight in stored} == {"float32"}


def test_utilisation_is_speed_times_the_flops_of_a_token_over_the_peak(copied):
    copied.trained("--resume", "--steps", 14, "--peak-flops", 1e9)
    speed, mfu = copied.column("tokens_per_second"), copied.column("mfu")
    assert list(mfu) == [13, 14]
    np.testing.assert_allclose([mfu[13], mfu[14]], [speed[13] * 1.5e5 / 1e9, speed[14] * 1.5e5 / 1e9])


def test_weight_decay_leaves_its_exceptions_alone(load, blank):
    train, stacks, settings = load("train"), load("stacks"), load("settings")
    params = {path: np.ones(value.shape, np.float32) for path, value in stacks.parameters(blank).items()}
    flat = {path: np.zeros_like(value) for path, value in params.items()}
    optimizer = train.make_optimizer(settings.load_settings(["--weight-decay", "0.5"]), 0.1)
    changes = jax.jit(lambda: optimizer.update(flat, optimizer.init(params), params)[0])()
    for name, change in stacks.unstacked(changes).items():
        np.testing.assert_allclose(change, 0.0 if name in train.Model.NO_DECAY else -0.1 * 0.5, rtol=1e-6)


def test_two_steps_are_adamw_as_published(load):
    train, settings = load("train"), load("settings")
    chosen = settings.load_settings(["--clip", "0.5", "--weight-decay", "0.1"])
    weight, gradient = np.float64([1.0, -2.0, 3.0]), np.float64([0.3, -0.4, 1.2])  # of norm 1.3
    optimizer = train.make_optimizer(chosen, 0.01)
    params = {"E": np.float32(weight), "W": np.float32(weight)}  # E is of NO_DECAY
    slope = {name: np.float32(gradient) for name in params}

    @jax.jit
    def two_steps(params):
        state = optimizer.init(params)
        for _ in range(2):
            changes, state = optimizer.update(slope, state, params)
            params = {name: params[name] + changes[name] for name in params}
        return params

    found = two_steps(params)
    clipped = gradient * 0.5 / (1.3 * np.sqrt(2))
    first, second, expected = np.zeros(3), np.zeros(3), {"E": weight, "W": weight}
    for step in (1, 2):
        first, second = 0.9 * first + 0.1 * clipped, 0.95 * second + 0.05 * clipped**2
        pace = first / (1 - 0.9**step) / (np.sqrt(second / (1 - 0.95**step)) + 1e-8)
        expected = {"E": expected["E"] - 0.01 * pace, "W": expected["W"] - 0.01 * (pace + 0.1 * expected["W"])}
    np.testing.assert_allclose(found["E"], expected["E"], rtol=1e-6)
    np.testing.assert_allclose(found["W"], expected["W"], rtol=1e-6)


def test_decay_that_splits_a_stack_is_refused(copied):
    text = (copied.folder / "model.py").read_text()
    (copied.folder / "model.py").write_text(text.replace('"layers.2.decay", ', ""))
    message = one_line(copied.train("--resume", "--steps", 14))
    assert "layers.0.decay and layers.2.decay are one array: Model.FP32 and Model.NO_DECAY have to name" in message


def test_a_folder_that_holds_a_training_is_not_trained_over(trained):
    assert "already holds step-000012; give --resume" in one_line(trained.train())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("--device cuda:7", "device 'cuda:7' can't be used"),
        ("--device cpu:3", "device 'cpu:3' can't be used"),
        ("--resume --batch 8", "batch = 4, this run has batch = 8"),
        ("--tokenizer bpe:270 --out bpe", "the tokenizer has 270 tokens, the model only 260"),
        ("--step 3", "unknown argument '--step'; did you mean '--steps'?"),
    ],
)
def test_a_mistake_gives_one_line(copied, options, message):
    assert message in one_line(copied.train(*options.split()))


def damage_state(folder):
    for path in (folder / "state").rglob("*"):
        if path.is_file():
            path.write_bytes(path.read_bytes()[:10])


DAMAGE = {
    "cannot read": damage_state,
    "no such file of weights": lambda folder: (folder / "weights.safetensors").unlink(),
    "is damaged": lambda folder: (folder / "progress.json").write_text("{"),
}


@pytest.mark.parametrize("message", DAMAGE)
def test_a_damaged_checkpoint_is_refused(copied, message):
    DAMAGE[message](copied.folder / "checkpoints" / "step-000012")
    assert message in one_line(copied.train("--resume", "--steps", 14))
