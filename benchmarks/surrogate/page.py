"""The tables of ``benchmarks.surrogate_study``, Markdown."""

from __future__ import annotations

from collections.abc import Sequence

from benchmarks.evaluation.summary import Row

__all__ = ["render"]


def _vote_table(rows: Sequence[Row], task: str) -> str:
    """Return accuracy / fidelity of each vote, one line a setting."""
    mine = {row.method: row.estimates for row in rows if row.task == task}
    network = mine.pop("network")["accuracy"]
    settings = list(dict.fromkeys(method.split("|")[0] for method in mine))
    votes = list(dict.fromkeys(method.split("|")[1] for method in mine))
    lines = [
        f"### {task}: network {network.mean:.1%} ({network.low:.1%}–{network.high:.1%}), "
        f"{network.n_values} images",
        "",
        f"| prototypes | {' | '.join(votes)} |",
        "|---" * (len(votes) + 1) + "|",
    ]
    for setting in settings:
        found = [mine[f"{setting}|{vote}"] for vote in votes]
        top = max(e["accuracy"].mean for e in found)
        cells = []
        for estimates in found:
            text = f"{100 * estimates['accuracy'].mean:.1f}"
            text = f"**{text}**" if estimates["accuracy"].mean == top else text
            cells.append(f"{text} / {100 * estimates['fidelity'].mean:.1f}")
        lines.append(f"| {setting} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _test_table(rows: Sequence[Row], agreements: Sequence[dict[str, object]]) -> str:
    lines = [
        "| task | prototypes | vote | accuracy | fidelity | ARI of seeds |",
        "|---|---|---|---|---|---|",
    ]
    ari = {(a["task"], a["method"]): a["images"] for a in agreements}
    for row in rows:
        name, _, vote = row.method.partition("|")
        found = [row.estimates[key] for key in ("accuracy", "fidelity")]
        texts = [f"{100 * e.mean:.1f} ({100 * e.low:.1f}–{100 * e.high:.1f})" for e in found]
        agreed = ari.get((row.task, name))
        texts += ["" if agreed is None or vote == "share" else f"{agreed:.2f}"]
        texts = [texts[0], "", ""] if name == "network" else texts
        lines.append(f"| {row.task} | {name} | {vote} | {' | '.join(texts)} |")
    return "\n".join(lines)


def _seed_table(found: Sequence[dict[str, object]], task: str) -> str:
    lines = [
        f"### {task}",
        "",
        "| k-means and what changes | ARI an image | worst pair | all pixels | classes alone | "
        "accuracy |",
        "|---|---|---|---|---|---|",
    ]
    for row in (row for row in found if row["task"] == task):
        figures = " | ".join(f"{row[key]:.2f}" for key in ("images", "least", "all", "classes"))
        lines.append(f"| {row['title']} | {figures} | {row['accuracy']:.1%} |")
    return "\n".join(lines)


def render(
    found: dict[str, list[Row]], seeds: list[dict[str, object]], fits: list[dict[str, object]]
) -> str:
    """Return all tables, Markdown."""
    tasks = list(dict.fromkeys(row.task for rows in found.values() for row in rows))
    parts = ["## Votes, on validation images (accuracy / fidelity, %)"]
    parts += [_vote_table(found["vote"], task) for task in tasks]
    parts += ["## Seeds, B234 balanced, on validation images"]
    parts += [_seed_table(seeds, task) for task in tasks]
    parts += ["## What was chosen, on test images", _test_table(found["test"], fits)]
    return "\n\n".join(parts) + "\n"
