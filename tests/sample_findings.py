"""A report's worth of realistic findings, built by a seed: eight models, five probes, two of them with several figures;
and a heavy one, with as many numbers and figures as the five probes of a study return.

The values follow no model; they have the shapes, sizes and gaps of what probes return (a failed probe, a model that has
not learned, a number that was not measured).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Literal

import numpy as np

from kc_interp.comparison import Arm, Comparison, ModelFacts, Roster
from kc_interp.finding import Figure, Finding, Number, Table
from kc_interp.report import Document, TaskNote

TOKENS = ["[SUM", "1", "[MAX", "4", "3", "]", "]", ">", "[SUM", "1", "4", "]", "="]
HEADS = [f"L{layer}H{head}" for layer in range(2) for head in range(4)]
DIGITS = [str(digit) for digit in range(10)]
ARMS = ("SUM alone", "MAX+MED+SUM")
REFUTE = "The same pattern for shuffled digits, or in the same model before training."


def model_name(arm: str, initialisation: str, seed: int) -> str:
    return f"{arm.replace(' alone', '')} {initialisation} seed {seed}"


def facts(
    arm: str, initialisation: str, seed: int, accuracy: float | None = 0.97, *, name: str | None = None
) -> ModelFacts:
    learned = None if accuracy is None else accuracy >= 0.9
    low, high = (None, None) if accuracy is None else (max(0.0, accuracy - 0.03), min(1.0, accuracy + 0.02))
    return ModelFacts(
        name or model_name(arm, initialisation, seed), arm, initialisation, arm.removesuffix(" alone"), seed, learned,
        accuracy, low, high, 1_000, 8_000, 48, 61_000,
    )  # fmt: skip


def roster(models: Sequence[ModelFacts] | None = None) -> Roster:
    accuracies = iter([0.08, 0.11, 0.97, 0.93, 0.98, 0.41, 0.99, 1.0])
    if models is None:
        models = [facts(arm, i, seed, next(accuracies)) for i in ("narrow", "wide") for arm in ARMS for seed in (0, 1)]
    criterion = "the whole chain, written free-running, is right to the end symbol on test questions of SUM only."
    return Roster(tuple(models), "SUM", criterion, 0.9, 0.104)


def geometry(model: ModelFacts, rng: np.random.Generator) -> Finding:
    """Two dozen numbers, a heatmap, a scatter and bars."""
    order = float(rng.uniform(0.5, 0.95))
    cosine = np.corrcoef(rng.standard_normal((10, 6)))
    numbers = [
        Number("embed.order", "Number order in the embedding", order, unit="exact", control=0.63,
               control_says="95 % point of 2,000 relabellings of the digits",
               higher_means="a principal component follows the digits' order more closely"),
        Number("embed.parity", "Parity in the embedding", float(rng.uniform(0, 0.5)), unit="exact", control=0.31,
               control_says="95 % point of 2,000 relabellings of the digits", note="p = 0.21"),
        Number("embed.wrap", "Wrap test in the embedding", None, note="refused: no frequency stands clear of its null"),
    ]  # fmt: skip
    for block in range(2):
        for k in range(1, 11):
            value = float(rng.uniform(0, 0.4))
            numbers.append(
                Number(f"block{block}.fourier.k{k}", f"Fourier power at k = {k} in block {block}", value,
                       value * 0.9, value * 1.2, 512, "input", 0.22, "95 % point of the relabellings")
            )  # fmt: skip
    figures = (
        Figure("heatmap", "Cosine similarity of digit embeddings", "Similar digits are blue.", REFUTE,
               {"x": DIGITS, "y": DIGITS, "z": cosine.tolist(), "zmid": 0, "x_title": "digit", "y_title": "digit",
                "z_title": "cosine", "text": [[f"{a}<{b}" for b in DIGITS] for a in DIGITS]}),
        Figure("scatter", "Digit embeddings on two components", "Digits joined in number order.", REFUTE,
               {"points": [{"x": float(x), "y": float(y), "label": d} for d, (x, y) in
                           zip(DIGITS, rng.standard_normal((10, 2)), strict=True)],
                "x_title": "PC 1", "y_title": "PC 2", "path": True}),
        Figure("bars", "Fourier power by frequency", "Power at k = 5 is parity.", REFUTE,
               {"x": [f"k = {k}" for k in range(1, 6)], "y_title": "share of variance",
                "series": [{"name": "embedding", "y": (y := rng.uniform(0.05, 0.4, 5)).tolist(),
                            "low": (y * 0.8).tolist(), "high": (y * 1.2).tolist()},
                           {"name": "before training", "y": (y / 2).tolist()}],
                "reference": {"y": 0.31, "name": "relabellings, 95 %"}}),
    )  # fmt: skip
    return Finding(
        "embedding-geometry", model.name, "How the model arranges its digits",
        f"Number order is {order:.2f} in the embedding against .63 by chance; whether it is used is not shown here.",
        _status(model), tuple(numbers), (), figures, {"permutations": 2000},
    )  # fmt: skip


def attention(model: ModelFacts, rng: np.random.Generator) -> Finding:
    """A CircuitsVis widget of each kind, a table, and heads to switch off."""
    n = len(TOKENS)
    raw = np.tril(rng.uniform(0, 1, (len(HEADS), n, n)))
    patterns = raw / raw.sum(-1, keepdims=True)
    share = float(patterns[:, -1, 2].mean())
    figures = (
        Figure("attention", "Where each head looks", "Rows look at columns.", REFUTE,
               {"tokens": TOKENS, "heads": HEADS, "patterns": patterns.tolist()}),
        Figure("tokens", "Attention from the answer", "Darker tokens receive more.", REFUTE,
               {"tokens": TOKENS, "values": patterns[:, -1].mean(0).tolist()}),
        switches(rng),
    )  # fmt: skip
    table = Table("Attention by token class", ("head", "digits", "brackets"),
                  tuple((h, float(rng.uniform()), float(rng.uniform())) for h in HEADS),
                  "Shares of one row.")  # fmt: skip
    return Finding(
        "attention-attribution", model.name, "Where attention goes when a line is written",
        f"{share:.0%} of the attention at the answer goes to the first operand.", _status(model),
        (Number("answer.digits", "Attention on digits at the answer", share, share - 0.05, share + 0.05, 512, "input",
                0.3, "uniform over earlier tokens", "more weight on the digits to be combined"),),
        (table,), figures,
    )  # fmt: skip


def switches(rng: np.random.Generator) -> Figure:
    """Every subset of eight heads on two examples, whole distributions."""
    examples = []
    for tokens, target in ((TOKENS, "5"), (["[SUM", "7", "8", "]", "="], "5")):
        answers = {}
        for mask in range(2 ** len(HEADS)):
            odds = rng.uniform(0, 1, 10) + (3.0 * (np.arange(10) == (int(target) + mask % 10) % 10))
            p = odds / odds.sum()
            answers[str(mask)] = [[DIGITS[i], float(p[i])] for i in np.argsort(-p)[:4]]
        examples.append({"tokens": tokens, "target": target, "answers": answers})
    return Figure("switches", "Switch heads off", "The exact prediction without the chosen heads.",
                  "A head whose removal changes nothing is not needed for this example.",
                  {"heads": HEADS, "examples": examples})  # fmt: skip


def patching(model: ModelFacts, rng: np.random.Generator) -> Finding:
    """Layers by positions, both ways, with lines."""
    effect = rng.normal(0, 0.4, (6, len(TOKENS)))
    rows = [f"{site} of block {block}" for block in range(2) for site in ("stream", "attention", "MLP")]
    figures = tuple(
        Figure("heatmap", f"Operand 1, {way}", "Where the difference between two questions is carried.", REFUTE,
               {"x": TOKENS, "y": rows, "z": (effect * sign).tolist(), "zmid": 0, "x_title": "position",
                "y_title": "", "z_title": "effect"})
        for way, sign in (("denoising", 1), ("noising", -1))
    )  # fmt: skip
    line = Figure("lines", "Effect by block", "How far into the model the operand is still needed.", REFUTE,
                  {"series": [{"name": "stream", "x": [0, 1, 2], "y": [0.9, 0.5, 0.1], "low": [0.8, 0.4, 0.0],
                               "high": [1.0, 0.6, 0.2]}, {"name": "heads", "x": [0, 1, 2], "y": [0.1, 0.6, 0.3]}],
                   "x_title": "block", "y_title": "effect"})  # fmt: skip
    value = float(rng.uniform(0.2, 0.9))
    return Finding(
        "activation-patching", model.name, "What carries the difference to the answer",
        "An activation with a large effect carries the difference; what is computed from it is not shown.",
        _status(model),
        (*(Number(f"patch.{i}", f"Effect of {row}", float(v), float(v) - 0.1, float(v) + 0.1, 64, "input", 0.01,
                     "another pair's run") for i, (row, v) in enumerate(zip(rows, effect[:, 1], strict=True))),
         Number("chain.last", "Answers that follow the last line", value, value - 0.1, value + 0.1, 128)),
        (), (*figures, line),
    )  # fmt: skip


def failed(model: ModelFacts, message: str = "no 64 pairs of one template; lower `pairs`") -> Finding:
    return Finding("feed-forward", model.name, "Attention and feed-forward", message, "failed")


def feed_forward(model: ModelFacts, rng: np.random.Generator) -> Finding:
    ratio = float(rng.uniform(0.5, 2))
    return Finding(
        "feed-forward", model.name, "Attention and feed-forward: who writes to the stream",
        f"Attention writes {ratio:.2f} times as much as the MLP; the loss when each is removed stands beside it.",
        _status(model), (Number("ratio", "Attention over MLP", ratio, ratio - 0.1, ratio + 0.1, 512),),
    )  # fmt: skip


def circuit_names(depth: int, n_heads: int) -> tuple[list[str], list[tuple[str, str]]]:
    """Nodes and edges of a grid in the order of computation, without the constant writers."""
    writers, edges = ["token"], []
    for block in range(depth):
        heads = [f"a{block}.h{head}" for head in range(n_heads)]
        edges += [(writer, f"{head}<{part}>") for part in "qkv" for head in heads for writer in writers]
        edges += [(writer, f"m{block}") for writer in (*writers, *heads)]
        writers += [*heads, f"m{block}"]
    return [*writers, "logits"], edges + [(writer, "logits") for writer in writers]


def circuit(model: ModelFacts, rng: np.random.Generator) -> Finding:
    """Two blocks of four heads, 110 edges, most of them weak; an unlearned model keeps none, one model has three blocks."""
    depth = 3 if model.name == "MAX+MED+SUM narrow seed 1" else 2
    names, pairs = circuit_names(depth, 4)
    effect = np.round(rng.standard_t(1.5, len(pairs)) * 0.02, 6).clip(-0.9, 0.9)
    for name, value in (("token->a0.h1<v>", 0.62), ("a0.h1->m0", 0.41), ("m0->a1.h2<v>", 0.37), ("a1.h2->logits", 0.58),
                        ("a0.h3->a1.h2<k>", -0.22)):  # fmt: skip
        effect[[f"{s}->{t}" for s, t in pairs].index(name)] = value + rng.normal(0, 0.08)
    kept = np.abs(effect) > (0.05 if model.learned else np.inf)
    edges = [
        {"source": source, "target": target, "effect": float(e), "low": float(e - 0.02), "high": float(e + 0.02), "kept": bool(k),
         "scores": {"EAP": float(e * rng.normal(1, 0.4)), "EAP-IG": float(e * rng.normal(1, 0.1))}}
        for (source, target), e, k in zip(pairs, effect, kept, strict=True)
    ]  # fmt: skip
    nodes = [{"name": name, "effect": None if name == "logits" else float(v), "low": None, "high": None,
              "text": "Copies the first operand." if name == "a0.h1" else ""}
             for name, v in zip(names, rng.uniform(-0.2, 0.7, len(names)), strict=True)]  # fmt: skip
    questions = [("[SUM 3 4 2] = 9", "[SUM 1 8 8] = 7"), ("[SUM 1 [MAX 4 3]] = 5", "[SUM 1 [MAX 2 3]] = 4"),
                 ("[SUM 7 8] = 5", "[SUM 7 2] = 9"), ("[SUM 0 6] = 6", "[SUM 0 1] = 1")]  # fmt: skip
    examples = [{"clean": clean, "twin": twin, "moved": (effect + rng.normal(0, 0.05, len(pairs))).tolist(),
                 "moved_nodes": rng.normal(0.3, 0.2, len(names)).tolist()} for clean, twin in questions]  # fmt: skip
    figure = Figure("circuit", "The circuit, edge by edge", "How much of the answer's logit difference each edge alone carries.",
                    "The same edges for another pair of answers, or as large effects in a model with random weights.",
                    {"depth": depth, "n_heads": 4, "nodes": nodes, "edges": edges, "unit": "share of the logit difference",
                     "kept_says": "the smallest circuit found by greedy backward search that keeps 90 % of the logit difference",
                     "examples": examples})  # fmt: skip
    return Finding(
        "circuit", model.name, "The smallest circuit that answers",
        f"{int(kept.sum())} of {len(pairs)} edges are kept; what they compute is not shown.", _status(model),
        (Number("edges", "Edges kept", float(kept.sum()), unit="exact", control=80.0,
                control_says="edges kept in random order"),), (), (figure,),
    )  # fmt: skip


def _status(model: ModelFacts) -> Literal["ok", "unlearned"]:
    return "unlearned" if model.learned is False else "ok"


def findings_of(model: ModelFacts, seed: int = 0) -> tuple[Finding, ...]:
    rng = np.random.default_rng([seed, sum(map(ord, model.name))])
    last = failed(model) if model.name.endswith("narrow seed 1") else feed_forward(model, rng)
    return geometry(model, rng), attention(model, rng), patching(model, rng), last, circuit(model, rng)


def arm_of(name: str, initialisation: str, whole: Roster, findings: dict[str, tuple[Finding, ...]]) -> Arm:
    models = whole.cell(name, initialisation)
    return Arm(name, {m.name: findings[m.name] for m in models}, {m.name: m.learned for m in models})


def _numbers(count: int, title: str, rng: np.random.Generator, base: float) -> tuple[Number, ...]:
    values = base + 0.1 * rng.standard_normal(count)
    return tuple(
        Number(f"{title}.{i}", f"{title}: residual stream into block {i} at the changed symbol in the question", float(v),
               float(v) - 0.1, float(v) + 0.1, 64, "input", float(rng.normal(0, 0.02)), "the same patch from another pair",
               "this activation carries more of the difference to the answer")
        for i, v in enumerate(values)
    )  # fmt: skip


def heavy_findings(model: ModelFacts) -> tuple[Finding, ...]:
    """Five probes: ten heatmaps of 26 columns, three attention widgets, twelve figures of places, six tables, switches."""
    rng = np.random.default_rng(sum(map(ord, model.name)))
    tokens = (TOKENS * 2)[:26]
    base = 0.3 + 0.4 * (model.arm == ARMS[1])

    def heatmap(title: str, rows: int) -> Figure:
        return Figure("heatmap", title, "How much of the answer's logit difference each single activation restores.", REFUTE,
                      {"x": [f"{i} {token}" for i, token in enumerate(tokens)], "zmid": 0,
                       "y": [f"residual stream into block {row}" for row in range(rows)],
                       "z": rng.normal(0, 0.4, (rows, 26)).tolist(), "x_title": "position and token", "y_title": "",
                       "z_title": "share of the logit difference"})  # fmt: skip

    def widget(title: str) -> Figure:
        raw = np.tril(rng.uniform(0, 1, (8, 26, 26)))
        return Figure("attention", title, "Rows look at columns.", REFUTE,
                      {"tokens": tokens, "heads": HEADS, "patterns": (raw / raw.sum(-1, keepdims=True)).tolist()})  # fmt: skip

    ways = [f"operand {i}, {way}" for i in (1, 2) for way in ("denoising", "noising")]
    table = Table("The ten heads with the largest effect",
                  ("block", "head", "position", "effect", "low", "high", "control"),
                  tuple((i // 4, i % 4, "3 1/5", *map(float, rng.uniform(0, 1, 4))) for i in range(8)))  # fmt: skip
    places = [dataclasses.replace(f, title=f"{f.title}, {place}") for place in ("embedding", "unembedding", "block 0", "block 1")
              for f in geometry(model, rng).figures]  # fmt: skip
    bars = [dataclasses.replace(geometry(model, rng).figures[2], title=f"Who writes, {i}") for i in range(4)]
    parts: list[tuple[str, str, tuple[Number, ...], tuple[Figure, ...]]] = [
        ("activation-patching", "What carries the difference to the answer",
         tuple(n for way in ways for n in _numbers(24, way, rng, base)),
         (*(heatmap(f"Operand {i}: {kind}", 8 if kind == "heads" else 6) for i in (1, 2)
            for kind in ("denoising", "noising", "heads", "stream", "MLP")),)),
        ("attention-attribution", "Where attention goes when a line is written", _numbers(32, "answer", rng, base),
         (*(widget(f"Where each head looks: {place}") for place in ("first line", "last line", "answer")),
          heatmap("Attention by token class", 8))),
        ("attention-mlp", "Attention and feed-forward: who writes to the stream", _numbers(40, "ratio", rng, base), (*bars,)),
        ("embedding-geometry", "How the model arranges its digits", _numbers(44, "embedding", rng, base), (*places,)),
        ("head-ablation", "Which heads are needed", _numbers(16, "loss", rng, base), (switches(rng), heatmap("Loss", 8))),
    ]  # fmt: skip
    return tuple(
        Finding(probe, model.name, title, "Numbers of a seed, not of a model; whether they are used is not shown.",
                _status(model), numbers, (table,), figures)
        for probe, title, numbers, figures in parts
    )  # fmt: skip


def heavy_document() -> Document:
    """Eight models under five probes: what the page must still carry."""
    whole = roster([facts(arm, i, seed, 0.97) for i in ("narrow", "wide") for arm in ARMS for seed in (0, 1)])
    findings = {model.name: heavy_findings(model) for model in whole.models}
    comparisons = tuple(
        Comparison(f"{i} initialisation: {ARMS[0]} vs {ARMS[1]}", *(arm_of(arm, i, whole, findings) for arm in ARMS))
        for i in whole.initialisations
    )
    return dataclasses.replace(document(), roster=whole, findings=findings, comparisons=comparisons)


def document(models: Sequence[ModelFacts] | None = None) -> Document:
    """Eight models, two comparisons; or the given models without one."""
    whole = roster(models)
    findings = {model.name: findings_of(model) for model in whole.models}
    comparisons: tuple[Comparison, ...] = ()
    if models is None:
        comparisons = tuple(
            Comparison(f"{i} initialisation: {ARMS[0]} vs {ARMS[1]}", arm_of(ARMS[0], i, whole, findings),
                       arm_of(ARMS[1], i, whole, findings))
            for i in whole.initialisations
        )  # fmt: skip
    return Document(
        "SUM alone and jointly, d 48", whole, findings, comparisons,
        {"version": "0.1.0", "command": "kc-interp demo", "versions": {"torch": "2.13.0", "plotly": "7.1.0"},
         "seeds": [0, 1]},
        ("Two seeds an arm are few: intervals over seeds are wide.",),
        TaskNote("Each question is a nested expression over the digits 0 to 9; the model writes it out one reduction a "
                 "line and ends with the answer. SUM adds modulo 10, MAX takes the largest, MED the middle operand.",
                 "[SUM 1 [MAX 4 3]] > [SUM 1 4] = 5"),
    )  # fmt: skip
