"""Generation: the same seed, the same text; the same text alone and in a batch; nothing drawn that was cut off."""

from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx


def generate(project, *arguments: object) -> str:
    outcome = project.run("generate.py", project.folder, "--threads", 1, *arguments)
    assert outcome.code == 0, outcome.stderr
    assert outcome.stderr == ""
    return outcome.stdout


def test_a_seed_decides_the_text(trained):
    first = generate(trained, "--prompt", "the gate", "--tokens", 30, "--seed", 1)
    assert first.startswith("the gate")
    assert generate(trained, "--prompt", "the gate", "--tokens", 30, "--seed", 1) == first
    assert generate(trained, "--prompt", "the gate", "--tokens", 30, "--seed", 2) != first


@pytest.mark.parametrize("temperature", [0, 1])
def test_prompts_in_a_batch_go_on_as_alone(trained, temperature):
    prompts, options = ("the gate of", "a", ""), ("--tokens", 20, "--temperature", temperature)
    alone = [generate(trained, "--prompt", prompt, *options) for prompt in prompts]
    together = generate(trained, *(part for prompt in prompts for part in ("--prompt", prompt)), *options)
    assert together == "\n".join(f"---- {row}\n{text}" for row, text in enumerate(alone, 1))


def test_greedy_text_is_what_the_whole_sequence_says(trained, load):
    generation, asked = load("generate"), load("request")
    folder = trained.folder / "checkpoints" / "step-000012"
    model = generation.load_model(folder, "float32")
    request = asked.Request(prompt=("the gate",), temperature=0)
    prompt = np.frombuffer(b"the gate", np.uint8)
    found = [row[0] for row in generation.continuations(model, [prompt], 6, 256, request)]
    whole = np.int32([*prompt, *found])[None]
    logits = nnx.jit(lambda model: model(whole))(model)
    assert found == logits[0, len(prompt) - 1 : -1, :256].argmax(-1).tolist()


@pytest.mark.parametrize("grows", [False, True])
def test_a_cache_of_all_tokens_is_told_from_a_state_of_fixed_size(load, grows):
    model = SimpleNamespace(init_state=lambda batch, context, dtype: jnp.zeros((batch, context if grows else 7), dtype))
    assert load("generate").state_grows(model) is grows


def draws(load, **options: object) -> set[int]:
    """Which tokens are drawn in 400 rows of the same logits."""
    generation, asked = load("generate"), load("request")
    logits = jnp.log(jnp.array([0.1, 0.4, 0.2, 0.3]))
    keys = jax.random.split(jax.random.key(0), 400)
    return set(generation.sample(jnp.tile(logits, (400, 1)), asked.Request(**options), keys).tolist())


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"temperature": 1.0}, {0, 1, 2, 3}),
        ({"temperature": 0}, {1}),
        ({"temperature": 1.0, "top_k": 2}, {1, 3}),
        ({"temperature": 1.0, "top_k": 9}, {0, 1, 2, 3}),
        ({"temperature": 1.0, "top_p": 0.65}, {1, 3}),
        ({"temperature": 1.0, "top_p": 0.75}, {1, 2, 3}),
        ({"temperature": 1.0, "top_p": 0.01}, {1}),
        ({"temperature": 1.0, "top_k": 3, "top_p": 0.5}, {1, 3}),
    ],
)
def test_only_what_is_not_cut_off_is_drawn(load, options, expected):
    assert draws(load, **options) == expected


def test_tokens_are_drawn_with_their_probabilities_at_the_temperature(load):
    generation, asked = load("generate"), load("request")
    logits, rows = jnp.log(jnp.array([0.1, 0.4, 0.2, 0.3])), 20_000
    keys = jax.random.split(jax.random.key(1), rows)
    drawn = generation.sample(jnp.tile(logits, (rows, 1)), asked.Request(temperature=0.5), keys)
    expected = np.array([0.1, 0.4, 0.2, 0.3]) ** 2
    np.testing.assert_allclose(np.bincount(drawn, minlength=4) / rows, expected / expected.sum(), atol=0.015)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("absent",), "no such run folder or checkpoint: absent"),
        (("text",), "text holds no checkpoint"),
        ((".", "--temperature", "-1"), "temperature: input should be greater than or equal to 0"),
        ((".", "--top_k", "many"), "top_k: input should be a valid integer"),
        ((".", "--device", "cuda:7"), "device 'cuda:7' can't be used"),
    ],
)
def test_a_mistake_gives_one_line(trained, arguments, message):
    outcome = trained.run("generate.py", *arguments)
    assert outcome.code == 1
    assert outcome.stderr.startswith("error: ")
    assert message in outcome.stderr
    assert outcome.stderr.count("\n") == 1
