"""The order of writes and norms, held to what the model does."""

import torch
from grid import Run

from interp.model import Part, StreamPlace, steps


def test_the_steps_are_the_writes_in_the_order_in_which_the_model_makes_them(run: Run):
    written = [name for name in run.model.hook_points if name.endswith(("hook_attn_out", "hook_mlp_out"))]
    assert [step.hook_name for step in steps(run.model.cfg)] == written


def test_adding_the_writes_and_passing_the_norms_gives_the_stream_at_every_place(run: Run):
    model, cache = run.model, run.cache
    parts: list[Part] = ["attn", "mlp"] if model.cfg.has_resid_mid else ["attn"]
    places = [StreamPlace(layer, part) for layer in range(model.cfg.n_layers) for part in parts]
    for place in [*places, StreamPlace(model.cfg.n_layers)]:
        x = cache["hook_embed"]
        if model.cfg.positions_in_stream:
            x = x + cache["hook_pos_embed"]
        if model.cfg.n_token_types:
            x = x + cache["hook_token_type_embed"]
        if model.cfg.embed_norm:
            norm = cache.norm("embed_ln")
            x = norm.linear(x)
            x = x if norm.bias is None else x + norm.bias
        for step in steps(model.cfg, place):
            norm = cache.norm(step.stream_norm)
            x = norm.linear(x + cache[step.hook_name])
            x = x if norm.bias is None else x + norm.bias
        if place.layer == model.cfg.n_layers:
            stream = cache["resid_post", -1]
        else:
            stream = cache["resid_mid" if place.part == "mlp" else "resid_pre", place.layer]
        torch.testing.assert_close(x, stream)


def test_what_a_step_reads_and_writes_passes_the_norms_that_it_names(run: Run):
    model, cache = run.model, run.cache
    for step in steps(model.cfg):
        if step.read_norm is not None:
            norm = cache.norm(step.read_norm)
            read = "resid_mid" if step.part == "mlp" and model.cfg.has_resid_mid else "resid_pre"
            normalized = norm.linear(cache[read, step.layer])
            normalized = normalized if norm.bias is None else normalized + norm.bias
            torch.testing.assert_close(normalized, cache[f"{step.read_norm}.hook_normalized"])
        if step.write_norm is not None:
            torch.testing.assert_close(cache[f"{step.write_norm}.hook_normalized"], cache[step.hook_name])


def test_directions_are_carried_back_by_the_transpose_of_what_carries_the_stream_forward(run: Run):
    for name in [None, *(step.read_norm for step in steps(run.model.cfg)), "ln_final"]:
        norm, x = run.cache.norm(name), run.cache["resid_post", -1]
        directions = torch.randn_like(x)
        torch.testing.assert_close((norm.linear(x) * directions).sum(-1), (x * norm.pull_back(directions)).sum(-1))
