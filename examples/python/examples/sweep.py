"""CAT's alpha and lambda over a grid, from one set of statistics: python sweep.py [SWEEP.png]

The features are recorded once; each setting is a merge of a second or less. Without matplotlib the
numbers are printed only.
"""

import copy
import sys

import any_network
import catmerge

ALPHAS, LAMBDAS = (0.2, 0.4, 0.6, 0.8, 1.0), (0.0, 1.0, 5.0)


def main(path="sweep.png", steps=150):
    base, experts, heads = any_network.family(steps)
    recordings = any_network.features(experts)
    states = any_network.states(experts)
    curves = {}
    for lambda_ in LAMBDAS:
        curves[lambda_] = []
        for alpha in ALPHAS:
            merged, _ = catmerge.merge(
                base.state_dict(),
                states,
                "cat",
                statistics=recordings,
                alpha=alpha,
                lambda_=lambda_,
            )
            network = copy.deepcopy(base)
            network.load_state_dict(merged)
            scores = any_network.scores(network, heads)
            curves[lambda_].append(sum(scores.values()) / len(scores))
        print(
            f"lambda {lambda_:g}:",
            ", ".join(f"{a:g} {s:.1f}" for a, s in zip(ALPHAS, curves[lambda_])),
        )
    try:
        import matplotlib

        matplotlib.use("Agg")
        from matplotlib import pyplot
    except ImportError:
        return print("matplotlib draws the curves, if it is installed")
    pyplot.figure()
    for lambda_, values in curves.items():
        pyplot.plot(ALPHAS, values, marker="o", label=f"lambda {lambda_:g}")
    pyplot.xlabel("alpha")
    pyplot.ylabel("mean accuracy, %")
    pyplot.legend()
    pyplot.savefig(path, dpi=120)
    print(path)


if __name__ == "__main__":
    main(*sys.argv[1:2])
