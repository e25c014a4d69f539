"""Projects of an encoder, and one that is trained."""

import pytest

from tests.training.encoder.specs import laid_out


@pytest.fixture
def project(tmp_path, backend, cache):
    return laid_out(tmp_path, backend, cache)


@pytest.fixture(scope="session")
def all_trained():
    """By backend: a fixture of the session would outlive a backend that a test names itself."""
    return {}


@pytest.fixture
def trained(tmp_path_factory, backend, cache, all_trained):
    if backend not in all_trained:
        all_trained[backend] = laid_out(tmp_path_factory.mktemp("trained"), backend, cache)
        all_trained[backend].trained("--steps", 60, "--eval-every", 30, "--save-every", 0)
    return all_trained[backend]
