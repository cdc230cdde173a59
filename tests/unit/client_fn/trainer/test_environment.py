"""A trainer's environment: what torch needs, what the site adds, and nothing that opens a door."""

from client_fn.trainer import environment
from client_fn.trainer.group import MARK

SECRETS = {
    "FEDKEEPER_URL": "nats://user:hidden@host",
    "FEDKEEPER_KEY": "hidden",
    "FEDKEEPER_KEY_FILE": "/run/hidden",
    "FEDKEEPER_SITE_SECRET": "hidden",
    "AWS_SECRET_ACCESS_KEY": "hidden",
    "GOOGLE_APPLICATION_CREDENTIALS": "/run/hidden",
    "GITHUB_TOKEN": "hidden",
    "NATS_PASSWORD": "hidden",
    "HF_TOKEN": "hidden",
    "__OW_API_KEY": "hidden",
    "PGPASSWORD": "hidden",
}
NEEDED = {
    "PATH": "/bin",
    "HOME": "/home/u",
    "LC_ALL": "C",
    "LD_LIBRARY_PATH": "/lib",
    "CUDA_VISIBLE_DEVICES": "1",
    "PYTORCH_CUDA_ALLOC_CONF": "x",
    "PYTHONPATH": "/own",
    "TORCH_HOME": "/models",
}


def test_what_torch_and_python_need_passes() -> None:
    result = environment.for_trainer(NEEDED, (), "m")
    assert NEEDED.items() <= result.items()


def test_no_credential_and_none_of_our_variables_passes() -> None:
    result = environment.for_trainer({**SECRETS, **NEEDED}, (), "m")
    assert not result.keys() & SECRETS.keys()
    assert "hidden" not in str(result)


def test_the_site_may_add_names_and_patterns() -> None:
    environ = {"HF_HOME": "/cache", "HF_TOKEN": "mine", "OTHER": "x"}
    result = environment.for_trainer(environ, ("HF_HOME", "OTHER*"), "m")
    assert (result["HF_HOME"], result["OTHER"], result.get("HF_TOKEN")) == ("/cache", "x", None)


def test_our_variables_do_not_pass_even_if_the_site_names_them() -> None:
    for names in (("*",), ("FEDKEEPER_URL", "FEDKEEPER_KEY"), ("FED*",)):
        result = environment.for_trainer(SECRETS, names, "m")
        assert {name for name in result if name.startswith("FEDKEEPER")} == {MARK}


def test_threads_are_fixed_and_hashes_are_the_same_in_every_trainer() -> None:
    threads = {"OMP_NUM_THREADS": "8", "MKL_NUM_THREADS": "8"}
    result = environment.for_trainer(threads, ("*",), "m")
    assert (result["OMP_NUM_THREADS"], result["MKL_NUM_THREADS"], result["PYTHONHASHSEED"]) == ("1", "1", "0")
    assert environment.for_trainer({"PYTHONHASHSEED": "5"}, (), "m")["PYTHONHASHSEED"] == "5"


def test_the_mark_can_t_be_set_from_outside() -> None:
    assert environment.for_trainer({MARK: "another's"}, ("*",), "m")[MARK] == "m"
