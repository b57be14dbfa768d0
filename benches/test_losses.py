"""The one bench: every point of the plan, by every contender. `axes.py` says which, `workbench.py`
how.
"""


def test_loss(point, workbench, benchmark):
    case, contender = point.case, point.contender
    with contender.settings():
        job = workbench.prepare(point)
        roof = workbench.roof(point)
        benchmark.group = case.title
        benchmark.extra_info.update(
            case=vars(case),
            contender=contender.name,
            ours=contender.ours,
            threads=contender.threads,
            turn=point.turn,
            sets=job.sets,
            roof=roof,
        )
        workbench.let_pools_sleep()
        benchmark.pedantic(
            job.call, rounds=job.rounds, iterations=job.iterations, warmup_rounds=job.warm_up
        )
