"""References to models: what they are equal by, what other processes get from them, and what they refuse."""

import copy
import gc
import json
import pickle
import weakref
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import pytest
import torch
from grid import SEED, SMALL, build, config, run_of

from circuits.gallery import entry
from interp import CheckpointError, ConfigError, HookedTransformer, Vocabulary
from interp.jobs import ModelRef
from interp.jobs.models import N_ALIVE
from interp.weights import center_unembed, fold_layer_norm

WORDS = list("abcdefghij")


class Loud(HookedTransformer):
    """A subclass that tests can find by name."""


def a_model(seed: int = SEED, kind: type[HookedTransformer] = HookedTransformer) -> HookedTransformer:
    made = build(config(SMALL), seed, Vocabulary(WORDS))
    model = kind(made.cfg, made.tokenizer)
    model.load_state_dict(made.state_dict())
    return model


def elsewhere(ref: ModelRef, tokens: torch.Tensor) -> dict[str, Any]:
    """What another process finds."""
    try:
        model = ref.load()
    except CheckpointError as error:
        return {"error": str(error)}
    with torch.no_grad():
        logits = model(tokens).tolist()
    again = pickle.loads(pickle.dumps(ref))
    return {
        "logits": logits,
        "key": ref.key(),
        "class": type(model).__name__,
        "same": ref.load() is model and again.load() is model and again == ref,
    }


# ---------------------------------------------------------------------------------------------- in one process


def test_a_reference_to_a_live_model_gives_the_model_itself_also_after_copies_and_pickles():
    model = a_model()
    ref = ModelRef.of(model)
    assert ModelRef.of(ref) is ref and ref.load() is model and ref.hash == model.weights_hash()
    for again in (copy.copy(ref), copy.deepcopy(ref), pickle.loads(pickle.dumps(ref))):
        assert again == ref and hash(again) == hash(ref) and again.load() is model
        assert (again.hash, again.signature, again.key()) == (ref.hash, ref.signature, ref.key())
    assert len(pickle.dumps(ref)) < 1000 < sum(tensor.nbytes for tensor in model.parameters())


def test_references_are_equal_by_content():
    model = a_model()
    twin, other, kin = copy.deepcopy(model), a_model(SEED + 1), a_model(kind=Loud)
    assert ModelRef.of(model) == ModelRef.of(twin) != ModelRef.of(other)
    assert len({ModelRef.of(model), ModelRef.of(twin), ModelRef.of(other)}) == 2
    assert ModelRef.of(model) != ModelRef.of(kin) and ModelRef.of(model) != "a model"
    assert ModelRef("a/b", process=["center_unembed"]) == ModelRef("a/b", process=("center_unembed",))
    assert ModelRef("a/b") != ModelRef("a/b", dtype="float64") != ModelRef("a/b", dtype=torch.float32)


def test_a_key_tells_apart_all_that_results_depend_on():
    others = [copy.deepcopy(a_model()) for _ in range(3)]
    others[0].double()
    others[1].tokenizer = Vocabulary(WORDS[::-1])
    others[2].tokenizer = None
    models = [a_model(), a_model(SEED + 1), a_model(kind=Loud), *others]
    keys = [ModelRef.of(one).key() for one in models]
    texts = [json.dumps(key, sort_keys=True) for key in keys]
    assert len(set(texts)) == len(texts)
    assert json.loads(texts[0]) == ModelRef.of(a_model()).key()


def test_a_live_model_whose_weights_changed_is_not_what_was_referred_to(tmp_path: Path):
    model = a_model()
    ref, sent = ModelRef.of(model), ModelRef.of(model).snapshotted(tmp_path)
    before = model.weights_hash()
    with torch.no_grad():
        model.b_U.add_(1)
    with pytest.raises(CheckpointError, match=f"live HookedTransformer with weights {before}> has other weights now"):
        ref.load()
    assert sent.load() is not model and sent.load().weights_hash() == before == sent.hash


def test_hooks_are_refused():
    model = a_model()
    ref = ModelRef.of(model)
    with model.hooks([("hook_embed", lambda x, hook: None)]):
        for ask in (lambda: ModelRef.of(model), ref.load, ref.key):
            with pytest.raises(ConfigError, match="the model has hooks, at 'hook_embed' first"):
                ask()
        model(torch.tensor([[1]]))
    assert ref.load() is model


def test_hooks_of_torch_are_refused():
    model = a_model()
    ref = ModelRef.of(model)
    for part, name in ((model, "the whole model"), (model.blocks[0], "blocks.0")):
        for register in (part.register_forward_hook, part.register_forward_pre_hook):
            handle = register(lambda *given: None)
            for ask in (lambda: ModelRef.of(model), ref.load):
                with pytest.raises(ConfigError, match=f"hooks of torch, at '{name}' first"):
                    ask()
            handle.remove()
    assert ref.load() is model


def test_weights_that_were_written_to_through_their_data_are_another_model():
    model = a_model()
    before = ModelRef.of(model)
    assert before.hash == model.weights_hash()
    model.W_E.data[0, 0] += 1
    assert ModelRef.of(model).hash != before.hash
    with torch.inference_mode():
        model = a_model()
        before = ModelRef.of(model)
        model.W_E[0, 0] += 1
        assert ModelRef.of(model).hash != before.hash


@pytest.mark.parametrize("given", [3, None, torch.ones(2), ["a"], "", " "])
def test_what_is_no_model_is_refused(given: Any, as_installed: None):
    with pytest.raises(ConfigError, match=r"allowed: a (HookedTransformer, a name|name or a path)"):
        ModelRef.of(given)


def test_other_misuse_is_refused(as_installed: None):
    with pytest.raises(ConfigError, match="did you mean 'fold_layer_norm'"):
        ModelRef("a/b", process="fold_layernorm")
    with pytest.raises(ConfigError, match="meta device"):
        ModelRef.of(HookedTransformer(SMALL, device="meta"))
    with pytest.raises(ConfigError, match=r"unknown argument 'processes'.*did you mean process="):
        ModelRef("a/b", processes=())  # pyright: ignore[reportCallIssue]
    with pytest.raises(CheckpointError, match="does not exist"):
        ModelRef("/no/such/folder").load()


# ---------------------------------------------------------------------------------------------- from files


def test_a_source_is_processed_opened_once_and_kept_for_a_while(tmp_path: Path):
    model = a_model()
    model.save_pretrained(tmp_path / "m")
    ref = ModelRef(tmp_path / "m", dtype=torch.float64, process=("fold_layer_norm", "center_unembed"))
    want = center_unembed(fold_layer_norm(HookedTransformer.from_pretrained(tmp_path / "m", dtype="float64")))
    opened = ref.load()
    assert ref.hash == want.weights_hash() == opened.weights_hash() != model.weights_hash()
    assert ref.load() is opened and pickle.loads(pickle.dumps(ref)).load() is opened
    assert ModelRef.of(str(tmp_path / "m")) == ModelRef(tmp_path / "m")


def test_few_opened_models_stay_in_memory(tmp_path: Path):
    refs = []
    for name in range(N_ALIVE + 1):
        a_model(SEED + name).save_snapshot(tmp_path / str(name))
        refs.append(ModelRef(tmp_path / str(name)))
    seen = [weakref.ref(ref.load()) for ref in refs[:N_ALIVE]]
    refs[0].load()
    refs[-1].load()  # takes the place of the one that was asked for longest ago
    gc.collect()
    assert [model() is not None for model in seen] == [True, False]
    assert refs[0].load() is seen[0]()


def test_an_opened_model_that_somebody_wrote_to_is_opened_again(tmp_path: Path):
    a_model().save_snapshot(tmp_path)
    ref = ModelRef(tmp_path)
    opened = ref.load()
    with torch.no_grad():
        opened.W_E.add_(1)
    assert ref.load() is not opened and ref.load().weights_hash() == ref.hash == a_model().weights_hash()


def test_references_that_are_made_anew_share_a_model_as_long_as_nobody_writes_to_it_or_its_files(tmp_path: Path):
    a_model().save_snapshot(tmp_path)
    opened = ModelRef(tmp_path).load()
    ref = ModelRef(tmp_path)
    assert ref.load() is opened and ref.hash == a_model().weights_hash() == ModelRef(tmp_path).hash
    with torch.no_grad():
        opened.W_E.add_(1)
    again = ModelRef(tmp_path).load()
    assert again is not opened and again.weights_hash() == a_model().weights_hash()
    a_model(SEED + 1).save_pretrained(tmp_path)
    assert ModelRef(tmp_path).hash == a_model(SEED + 1).weights_hash()


# ---------------------------------------------------------------------------------------------- snapshots


def test_a_snapshot_is_written_once(tmp_path: Path):
    ref = ModelRef.of(a_model())
    sent = ref.snapshotted(tmp_path / "new" / "m")
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "new" / "m").iterdir()}
    again = ModelRef.of(a_model()).snapshotted(tmp_path / "new" / "m")
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "new" / "m").iterdir()} == before
    assert again == sent == sent.snapshotted(tmp_path / "new" / "m") and sent.hash == ref.hash
    assert sent.load() is ref.load()  # here the live model is at hand
    assert sent.key() == ref.key()


def test_a_folder_that_holds_something_else_is_left_alone(tmp_path: Path):
    ref, other = ModelRef.of(a_model()), ModelRef.of(a_model(SEED + 1))
    kin = a_model()
    kin.tokenizer = None
    deeper = HookedTransformer(config(SMALL, n_layers=2))
    ref.snapshotted(tmp_path / "m")
    kin.save_pretrained(tmp_path / "plain")
    (tmp_path / "foreign").mkdir()
    (tmp_path / "foreign" / "config.json").write_text('{"model_type": "bert"}')
    files = {path: path.read_bytes() for path in tmp_path.rglob("*.*")}
    for folder, one, said in (
        ("m", other, f"holds another model, with weights {ref.hash}, not {other.hash}"),
        ("m", ModelRef.of(deeper), "holds another model"),
        ("m", ModelRef.of(kin), r"another tokenizer, Vocabulary\(10 words"),
        ("plain", ref, "holds something else, which is no snapshot"),
        ("foreign", ref, "holds something else"),
    ):
        with pytest.raises(CheckpointError, match=said):
            one.snapshotted(tmp_path / folder)
    assert {path: path.read_bytes() for path in tmp_path.rglob("*.*")} == files


def test_a_half_written_or_damaged_snapshot_is_written_again(tmp_path: Path):
    ref = ModelRef.of(a_model())
    ref.snapshotted(tmp_path)
    whole = {path: path.read_bytes() for path in tmp_path.iterdir()}
    weights, about = tmp_path / "model.safetensors", tmp_path / "config.json"
    for damage in (
        about.unlink,
        weights.unlink,
        lambda: weights.write_bytes(whole[weights][:-100]),
        lambda: weights.write_bytes(b""),
    ):
        damage()
        ref.snapshotted(tmp_path)
        assert {path: path.read_bytes() for path in tmp_path.iterdir()} == whole


@pytest.fixture(scope="module")
def processes() -> Iterator[ProcessPoolExecutor]:
    """Two other processes, for all tests: they take seconds to start."""
    with ProcessPoolExecutor(2, mp_context=get_context("spawn")) as executor:
        yield executor


@pytest.mark.apart
def test_other_processes_get_the_same_bits_or_an_error(tmp_path: Path, processes: ProcessPoolExecutor):
    runs = [run_of(name) for name in ("gemma_like", "sinusoidal_no_norm", "capped_window_tied")]
    loud, circuit, lost = a_model(kind=Loud), entry("skip_1").build().compile(), a_model(SEED + 2)
    swapped = ModelRef.of(a_model()).snapshotted(tmp_path / "swapped")
    a_model(SEED + 1).save_snapshot(tmp_path / "swapped")
    token = torch.tensor([[1]])
    models = [(run.model, run.tokens[:, :3]) for run in runs] + [(loud, token), (circuit, token)]
    sent = [(ModelRef.of(model).snapshotted(tmp_path / str(i)), x) for i, (model, x) in enumerate(models)]
    sent += [(ModelRef.of(lost), token), (swapped, token)]
    *found, of_live, of_swapped = [processes.submit(elsewhere, *one).result() for one in sent]
    for (ref, tokens), got in zip(sent, found, strict=False):
        model = ref.load()
        with torch.no_grad():
            want = {"logits": model(tokens).tolist(), "class": type(model).__name__}
        assert got == want | {"key": ref.key(), "same": True}
    assert of_live.keys() == {"error"} and "not in this process; a reference that every" in of_live["error"]
    wrong = ModelRef(tmp_path / "swapped").hash
    assert f"weights {wrong}, " in of_swapped["error"] and f"not weights {swapped.hash}" in of_swapped["error"]


def write_again(folder: Path, seed: int) -> str:
    """Made anew in every process, for a live model is known in its own only."""
    return ModelRef.of(a_model(seed)).snapshotted(folder).hash


@pytest.mark.apart
def test_processes_may_write_the_same_snapshot_at_once(tmp_path: Path, processes: ProcessPoolExecutor):
    for attempt in range(4):
        folder = tmp_path / str(attempt)
        written = [processes.submit(write_again, folder, SEED) for _ in range(6)]
        assert {one.result() for one in written} == {a_model().weights_hash()}
        assert sorted(path.name for path in folder.iterdir()) == ["config.json", "model.safetensors"]
