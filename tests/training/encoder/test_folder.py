"""What an encoder's project holds, what it says, and that it works: its own tests, a training."""

import os
import subprocess
import sys

import numpy as np
import pytest

import archc
from tests.training.encoder.specs import DECODER, SPEC, SUMMED, laid_out
from tests.training.project import one_line
from tests.xla import FLAGS


def test_an_encoder_s_folder_has_nothing_for_generating_and_a_model_s_nothing_for_masking(backend):
    encoder, model = ({a.path: a.text for a in archc.compile(s, backend=backend)} for s in (SPEC, DECODER))
    assert set(model) - set(encoder) >= {"generate.py", "ngram.py", "tasks.py"}
    assert "masking.py" in set(encoder) - set(model)
    assert "generate" not in "".join(text for path, text in encoder.items() if not path.startswith("kernels/"))
    assert "masked" not in "".join(model[path] for path in ("corpus.py", "data.py", "settings.py", "config.toml"))


def test_a_sequence_counts_as_one_document_where_the_model_sums_over_it(backend):
    apart, summed = ({a.path: a.text for a in archc.compile(s, backend=backend)} for s in (SPEC, SUMMED))
    assert "cannot tell packed documents apart" in summed["README.md"]
    assert "cannot tell packed documents apart" not in apart["README.md"]
    assert "packed" in apart["test_model.py"]
    assert "packed" not in summed["test_model.py"]


@pytest.mark.parametrize("spec", [SPEC, SUMMED, DECODER])
def test_the_emitted_tests_pass(tmp_path, backend, cache, spec):
    laid_out(tmp_path, backend, cache, spec)
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "test_model.py"]
    quick = os.environ | {"XLA_FLAGS": FLAGS}
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False, env=quick)
    assert done.returncode == 0, done.stdout


def test_a_body_without_logits_says_that_it_cannot_be_trained(tmp_path, backend, cache):
    body = SUMMED.replace(" @ U[width -> vocab]", "")
    outcome = laid_out(tmp_path, backend, cache, body).train()
    assert "the model gives no logits for its tokens, so there is nothing to train" in one_line(outcome)


@pytest.mark.parametrize("spec", [SUMMED, DECODER])
def test_further_inputs_and_outputs_do_not_stop_a_training(tmp_path, backend, cache, spec):
    project = laid_out(tmp_path, backend, cache, spec)
    project.trained("--steps", 2)
    assert np.isfinite(project.values("heldout_loss")).all()
