"""A contender of benchmark/speed.py and its turns: an algorithm of ours, its peer in d3rlpy, or a matrix product.

It runs under the peers' Python too, and so imports the project only for an algorithm of ours. JOB is JSON. The first
line that it writes has facts about it (JSON); then it reads numbers of updates, a line each, and answers each with the
seconds that they took. Whatever else is printed goes to stderr. It ends with its stdin.

Run: python benchmark/engine/speed_worker.py '{"kind": "product", "size": 1024, "device": "cpu", "threads": 1}'
"""

import dataclasses
import json
import os
import sys
import time
from pathlib import Path

try:
    import resource
except ImportError:  # Windows
    resource = None

PEERS = {  # our file: d3rlpy's class; SQL, EQL and XQL are IQL with other losses and LayerNorm on V
    "td3_bc": "TD3PlusBC", "sac_n": "SAC", "iql": "IQL", "sql_eql": "IQL", "xql": "IQL", "cql": "CQL", "awac": "AWAC"}
FLAGS = (  # ours, d3rlpy's
    ("batch_size", "batch_size"), ("gamma", "gamma"), ("tau", "tau"), ("num_critics", "n_critics"),
    ("policy_freq", "update_actor_interval"), ("num_actions", "n_action_samples"),
    ("lr", "actor_learning_rate"), ("lr", "critic_learning_rate"), ("actor_lr", "actor_learning_rate"),
    ("actor_lr", "temp_learning_rate"), ("critic_lr", "critic_learning_rate"))


def flops(update, period: int) -> float:
    """Of one update, the mean of a period: matrix products, forward and backward, a multiplication and an addition
    being two. What goes element by element (activations, losses, Adam) is not counted."""
    from torch.utils.flop_counter import FlopCounterMode
    with FlopCounterMode(display=False) as counter:
        for _ in range(period):
            update()
    return counter.get_total_flops() / period


def size(*modules) -> int:
    """Parameters that are trained."""
    return sum(p.numel() for module in modules for p in module.parameters() if p.requires_grad)


def memory() -> int:
    """Most bytes so far, on Linux."""
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss if resource else 0


def ours(job: dict):
    """Facts, and a function that updates an agent of each seed once. `args`: the algorithm's."""
    import torch
    from torch import nn

    from benchmark.engine.kernels import kernels, period_of
    from benchmark.engine.runs import agent_class, load_script
    from common import keep_memory
    from common.data import load_dataset
    from common.graph import WARM_UP, side_by_side
    module, mode = load_script(Path(job["script"])), job["mode"]
    args = module.Args(**job["args"] | {"seeds": tuple(range(job["seeds"]))})
    data, before = load_dataset(job["data"], args.device, reward=args.reward), memory()
    keep_memory()  # as Run does
    agents = [agent_class(module)(args, data, seed) for seed in args.seeds]
    facts = {"parameters": size(*(value for value in vars(agents[0]).values() if isinstance(value, nn.Module))),
             "period": period_of(agents[0])}
    if job["peer"]:
        critics = agents[0].critics
        first = critics[0] if isinstance(critics, nn.ModuleList) else critics
        facts["hidden"] = [bias.shape[-1] for bias in first.biases][:-1]
    if mode == "eager":
        facts["flops"] = flops(agents[0].update, facts["period"])
        facts["kernels"] = kernels(agents[0].update, facts["period"]).total()
    if "compile" in mode:
        for agent in agents:
            agent.update = torch.compile(agent.update)
    update = side_by_side(agents) if "graph" in mode else lambda: [agent.update() for agent in agents]
    try:
        for _ in range(facts["period"] * (1 if mode == "eager" else WARM_UP + 2)):
            update()
    except Exception as error:  # the compiler's kinds are many
        if "compile" not in mode:
            raise
        return {"failed": f"torch.compile: {type(error).__name__}: {str(error).strip().splitlines()[0]}"}, None
    return facts | {"memory": memory() - before}, update


def peer(job: dict):
    """The same of d3rlpy's: what its fit() does in a step, without logging. `args`: ours; empty for d3rlpy's own."""
    import d3rlpy
    import numpy as np
    args, rows = job["args"], np.load(job["data"])
    config = getattr(d3rlpy.algos, f"{PEERS[job['algorithm']]}Config")
    fields = {field.name for field in dataclasses.fields(config)}
    values = {theirs: args[mine] for mine, theirs in FLAGS if mine in args and theirs in fields}
    if job["hidden"]:
        encoder = d3rlpy.models.VectorEncoderFactory(job["hidden"])
        values |= {field: encoder for field in fields if field.endswith("encoder_factory")}
    if args.get("normalize"):
        mean, std = rows["observations"].mean(0), rows["observations"].std(0)
        values["observation_scaler"] = d3rlpy.preprocessing.StandardObservationScaler(mean, std)
    device = job["device"] if ":" in job["device"] else f"{job['device']}:0"
    algorithm = config(compile_graph=job["mode"] == "compile_graph", **values).create(device)
    buffer = d3rlpy.dataset.MDPDataset(**rows)
    algorithm.build_with_dataset(buffer)

    def update():
        algorithm.update(buffer.sample_transition_batch(algorithm.batch_size))

    networks = (getattr(algorithm.impl.modules, field, None) for field in ("policy", "q_funcs", "value_func"))
    period = getattr(algorithm.config, "update_actor_interval", 1)
    facts = {"parameters": size(*filter(None, networks)), "period": period}
    if job["mode"] == "eager":
        facts["flops"] = flops(update, period)
    for _ in range(period * (1 if job["mode"] == "eager" else 5)):  # its graphs are recorded at the third call
        update()
    return facts, update


def product(job: dict):
    """Two square float32 matrices."""
    import torch
    x, y = torch.randn(2, job["size"], job["size"], device=job["device"])
    z = torch.empty_like(x)
    return {"flops": 2 * job["size"] ** 3}, lambda: torch.mm(x, y, out=z)


def main(job: dict):
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # libraries print
    import torch
    torch.set_num_threads(job["threads"])
    torch.backends.cuda.matmul.allow_tf32 = True  # as runs have it
    device = torch.device(job["device"])
    if device.type == "cuda":
        torch.cuda.set_device(device.index or 0)
    wait = (lambda: None) if device.type == "cpu" else getattr(torch, device.type).synchronize
    facts, update = {"ours": ours, "peer": peer, "product": product}[job["kind"]](job)
    print(json.dumps(facts), file=answers, flush=True)
    for line in sys.stdin if update else ():
        wait()
        start = time.perf_counter()
        for _ in range(int(line)):
            update()
        wait()
        print(time.perf_counter() - start, file=answers, flush=True)


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
