"""ARMOR's means over nine D4RL datasets, beside seven baselines. Bhardwaj et al., NeurIPS 2023, arXiv:2302.11048.

The authors' poster has one number for each algorithm: its mean over medium, medium-replay and medium-expert data of
hopper, walker2d and halfcheetah. No score of a single dataset is in a source that we could verify. So two tables are
made. The first has our score on each dataset. The second, `.means`, has our mean of the nine beside the quoted mean.

The quoted means mix versions of the data. Those of MOPO, MOReL, COMBO and CQL are of v0, those of IQL, RAMBO and ATAC
of v2; ARMOR's own is taken for v2, unverified. All of ours are on v2, so that they compare with one another. Hence a
quoted mean of v0 stands beside ours without a verdict: mopo_table1.py, combo_table.py and morel_table2.py run on v0.

A score is of the last evaluation, as the quoted ATAC's is; four seeds are our choice. A verdict needs a seed that has
finished on all nine datasets. It is that of the other tables, for the means over nine of these seeds. ARMOR has no
authors' code, and its beta and lambda were in no source (algorithms/armor.py). Four cells of Adroit, from a secondary
site, are shown as they are quoted.

Run: python benchmark/armor_means.py [--columns armor atac] [--gpus 0] [--dry-run]
     python benchmark/armor_means.py --standin --datasets hopper-medium-v2 hopper-medium-replay-v2 --updates 30000
"""

import csv
import sys
from pathlib import Path

import numpy as np

from benchmark.engine import grid, page, tables
from benchmark.engine.files import whole
from benchmark.engine.grid import Column, Table
from common import friendly

NINE = tuple(f"{robot}-{level}-v2" for robot in ("hopper", "walker2d", "halfcheetah")
             for level in ("medium", "medium-replay", "medium-expert"))
ADROIT = "pen-human-v1", "pen-cloned-v1", "hammer-human-v1", "door-human-v1"
OURS = "v2"  # the version of our nine

TABLE = Table(
    name="armor_means", title="ARMOR: means over nine datasets of D4RL", papers=("armor_means.csv", "armor_adroit.csv"),
    datasets=NINE + ADROIT,
    notes=("The quoted means are the poster's. Those of MOPO, MOReL, COMBO and CQL are of v0 data and must not be "
           "compared with ours, on v2; those of IQL, RAMBO and ATAC are of v2, and ARMOR's is taken for v2. Which "
           "version a mean is of is inferred from the cells it is a mean of (benchmark/papers/armor_means.csv).",
           "ARMOR's beta and lambda, its seeds and its protocol are in no source. MOReL's values on v2 are its file's "
           "defaults, a place to start.",
           "Cells of Adroit are from a secondary site, unverified."),
    columns={"armor": Column("armor")} | {name: Column(name, datasets=NINE) for name in
                                          ("morel", "mopo", "rambo", "combo", "atac", "cql", "iql")})


def scores(this: grid.Grid, column: str) -> dict[str, dict[int, float]]:
    """{dataset: {seed: score}} of a column's finished runs on the nine."""
    found = {}
    for cell in this.cells:
        if cell.column == column and cell.dataset in NINE:
            rows = {seed: run.result["seeds"].get(str(seed)) for seed, run in sorted(this.finished(cell).items())}
            found[cell.dataset] = {seed: row[this.table.score] for seed, row in rows.items() if row}
    return {dataset: of for dataset, of in found.items() if of}


def means(this: grid.Grid) -> list[dict]:
    """A row per algorithm: our mean, of how many datasets, and the quoted one; a verdict where they compare."""
    quotes = {name: (dataset, row) for (dataset, name), row in tables.published(this.table).items()
              if dataset.startswith("mean-of-nine-")}
    rows = []
    for column in dict.fromkeys(cell.column for cell in this.cells):
        dataset, quote = quotes[column]
        found, version = scores(this, column), dataset.rpartition("-")[2]
        whole_seeds = set.intersection(*(set(of) for of in found.values())) if len(found) == len(NINE) else set()
        each = [float(np.mean([of[seed] for of in found.values()])) for seed in sorted(whole_seeds)]
        judged = ""
        if this.paper and version == OURS:
            judged = "incomplete" if found and not each else tables.verdict(each, float(quote["mean"]), 0.0)
        row = tables.row(f"mean of {len(found)} of {len(NINE)}", column, "", quote if this.paper else {}, judged, each)
        if found and not each:  # of what there is: all seeds of each dataset
            row["mean"] = repr(float(np.mean([np.mean(list(of.values())) for of in found.values()])))
        rows.append(row | {"quoted_version": version if this.paper else ""})
    return rows


def markdown(this: grid.Grid, rows: list[dict]) -> str:
    lines = [["algorithm", "ours, v2", "datasets", "seeds on all", "quoted", "quoted on", "verdict"], ["---"] * 7]
    for row in rows:
        ours = page.pair(row["mean"], row["std"]) if row["mean"] else "-"
        lines.append([row["algorithm"], ours, row["dataset"].removeprefix("mean of "), str(row["seeds"]),
                      row["published_mean"] or "-", row["quoted_version"] or "-", row["verdict"] or "-"])
    body = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    how = ("Ours: the mean over datasets of the last evaluation's normalised score, ± population std of that mean "
           "over the seeds that finished on all nine; without such a seed, the mean of what there is. Quoted: without "
           "std, a verdict allows 2 points (benchmark/engine/tables.py, `verdict`). No verdict: another version of the "
           "data, or other data or settings than the paper's.")
    return "\n\n".join([f"# {TABLE.title}", *(f"**{note}**" for note in tables.notes(this)), body, how]) + "\n"


def write(this: grid.Grid) -> None:
    rows, path = means(this), f"{this.args.out / tables.stem(this)}.means"
    text = markdown(this, rows)
    with whole(Path(f"{path}.md")) as part:
        part.write_text(text)
    with whole(Path(f"{path}.csv")) as part, open(part, "w", newline="") as file:
        writer = csv.DictWriter(file, rows[0] if rows else ["dataset", "algorithm"], lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    print(f"\n{text}\n{path}.md and .csv")


def main():
    this = grid.make(TABLE, sys.argv[1:])
    if this.args.dry_run:
        print(markdown(this, means(this)))
        return this.plan()
    grid.train(this)
    write(this)
    grid.finish(this)


if __name__ == "__main__":
    with friendly():
        main()
