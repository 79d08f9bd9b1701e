"""The table of probes: `make bench-probes`. What decides on 200 labelled validation images?

Pairs of backbones whose difference is known are judged many times over, each time by 200 other
images, by every probe and test. The pairs are EfficientNet-Lite0 before and after short
pretrainings that help, harm or do little, on two domains of drawings, `openmoji/color` and
`openmoji/paint`, which are for tuning: nothing is reported on them. What is known is the difference
in accuracy of logistic regression on train, on all images that no pretraining saw.

With `--write`, the table is kept in `benchmarks/probes.txt`. `--store FOLDER` keeps the trainings
and features, so that a second run takes a minute. `--domains` measures one of them.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
import warnings
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler
from torch import Tensor

from benchmarks.measure import Row, print_table, versions
from benchmarks.probe_pairs import BASE, CLASSES, DOMAINS, Network, networks
from hpt_dist.evals import evidence, ridge
from hpt_dist.evals.features import Labelled
from hpt_dist.evals.knn import scores_of, vote
from hpt_dist.evals.metrics import probabilities

KEPT = Path(__file__).with_name("probes.txt")
IMAGES, FEW = 200, 400  # of validation, and of train, that are drawn
DRAWS, TRAINS = 20, 2
_L2 = 0.1  # of the logistic regression, the best for the base among 0.01, 0.1 and 1


class Answers(NamedTuple):
    """What a probe says of each image that it judges."""

    right: np.ndarray  # bool [n]
    scores: Mapping[str, np.ndarray]  # float64 [n], the larger the better


class Draw(NamedTuple):
    """Images by which a pair is judged: rows of train, and of unseen ones."""

    train: Tensor
    val: Tensor


# A probe and the images that a network is judged by -> its answers.
Probe = Callable[[Network, Draw], Answers]


def learned(network: Network, draw: Draw) -> Labelled:
    """Return the images of train that a draw has."""
    return Labelled(*(part[draw.train] for part in network.train))


def judging(network: Network, draw: Draw) -> Labelled:
    """Return the images of validation that a draw has."""
    return Labelled(*(part[draw.val] for part in network.unseen))


def both(network: Network, draw: Draw) -> Labelled:
    """Return all labelled images of a draw, those of validation last."""
    pair = learned(network, draw), judging(network, draw)
    return Labelled(*(torch.cat(parts) for parts in zip(*pair, strict=True)))


def answers(scores: Tensor, labels: Tensor) -> Answers:
    """Return the answers of scores [n, num_classes], which are probabilities or the like."""
    rows = torch.arange(len(labels))
    true = scores[rows, labels]
    targets = ridge.targets_of(labels, CLASSES)
    smooth = {
        "probability": true,
        "log loss": true.clamp(min=1e-3).log(),
        "squared error": -(scores - targets).square().sum(dim=1),
    }
    return Answers(
        (scores.argmax(dim=1) == labels).numpy(),
        {name: one.numpy() for name, one in smooth.items()},
    )


def knn(k: int, temperature: float) -> Probe:
    """Return nearest neighbours in train, which judge validation."""

    def probe(network: Network, draw: Draw) -> Answers:
        val = judging(network, draw)
        (votes,) = vote(learned(network, draw), val.features, CLASSES, [k], temperature)
        shares = torch.from_numpy(probabilities(scores_of(votes, several=False)))
        return answers(shares, val.labels)

    return probe


def knn_left_out(network: Network, draw: Draw) -> Answers:
    """Nearest neighbours among all other labelled images judge each."""
    labelled = both(network, draw)
    unit = torch.nn.functional.normalize(labelled.features, dim=1)
    similar = (unit @ unit.T).fill_diagonal_(-torch.inf)
    nearest, at = similar.topk(20, dim=1)
    weights = ((nearest - nearest[:, :1]) / 0.07).exp().double()
    votes = torch.zeros(len(unit), CLASSES).double().scatter_add_(1, labelled.labels[at], weights)
    return answers(votes / votes.sum(dim=1, keepdim=True), labelled.labels)


def ridge_left_out(network: Network, draw: Draw) -> Answers:
    """A ridge probe of all other labelled images judges each."""
    labelled = both(network, draw)
    return answers(ridge.leave_one_out(labelled, CLASSES).scores, labelled.labels)


def of_val(found: Answers) -> Answers:
    """Return the answers to the images of validation alone, which are the last."""
    last = slice(-IMAGES, None)
    return Answers(found.right[last], {name: one[last] for name, one in found.scores.items()})


def ridge_train(network: Network, draw: Draw) -> Answers:
    """A ridge probe of train judges validation."""
    val = judging(network, draw)
    return answers(ridge.predict(learned(network, draw), val.features, CLASSES).scores, val.labels)


def logistic_fits(network: Network, trains: Sequence[Tensor]) -> list[Tensor]:
    """Return the probabilities of unseen images [n, num_classes] by each train."""
    found = []
    for rows in trains:
        features, labels = (part[rows].numpy() for part in network.train)
        scaler = StandardScaler().fit(features)
        regression = LogisticRegression(C=1 / (_L2 * len(rows)), tol=1e-3, max_iter=300)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            regression.fit(scaler.transform(features), labels)
        shares = np.zeros((len(network.unseen.labels), CLASSES))
        unseen = scaler.transform(network.unseen.features.numpy())
        shares[:, regression.classes_] = regression.predict_proba(unseen)
        found.append(torch.from_numpy(shares))
    return found


class Known(NamedTuple):
    """What logistic regression knows of a network: whether each unseen image is right, a share."""

    fits: list[Tensor]
    right: np.ndarray


def known(network: Network, trains: Sequence[Tensor]) -> Known:
    """Fit the logistic regressions of a network."""
    fits = logistic_fits(network, trains)
    labels = network.unseen.labels
    right = torch.stack([(one.argmax(dim=1) == labels).double() for one in fits])
    return Known(fits, right.mean(dim=0).numpy())


PROBES: dict[str, Probe] = {
    **{f"knn k={k} t={t:g}": knn(k, t) for k, t in ((20, 0.07), (5, 0.07), (50, 0.03))},
    "knn left out": knn_left_out,
    "ridge of train": ridge_train,
    "ridge left out": ridge_left_out,
}
LOOKS_AT_ALL = ("knn left out", "ridge left out")
ONLY_VAL = "ridge left out, val"
DEFAULT, BEFORE = "ridge of train", "knn k=20 t=0.07"  # of the monitor
DECIDED = 2.0  # standard errors: pairs whose known difference is smaller have no right verdict


class Verdict(NamedTuple):
    """Of a pair in one draw by one test: the difference in means, its error, and which way."""

    mean: float
    error: float
    sign: int


def verdicts(before: Answers, after: Answers) -> dict[str, Verdict]:
    """Return the verdict of each test, paired by image."""
    gate = evidence.gate({0: before.right, 1: after.right}, kept=1, last=1)
    sign = {"helped": 1, "harmed": -1}.get(gate.verdict, 0)
    found = {"accuracy": Verdict(gate.mean, gate.half_width / _REACH, sign)}
    for name in before.scores:
        differences = after.scores[name] - before.scores[name]
        mean, error = differences.mean(), differences.std(ddof=1) / len(differences) ** 0.5
        found[name] = Verdict(mean, error, int(np.sign(mean)) * (abs(mean) > _REACH * error))
    return found


_REACH = 1.959964


def swapped(before: Answers, after: Answers, coins: np.random.Generator) -> tuple[Answers, Answers]:
    """Return a pair without a difference: each image's two answers change places, or do not."""
    heads = coins.random(len(before.right)) < 0.5

    def mixed(one: Answers, other: Answers) -> Answers:
        scores = {
            name: np.where(heads, one.scores[name], other.scores[name]) for name in one.scores
        }
        return Answers(np.where(heads, one.right, other.right), scores)

    return mixed(before, after), mixed(after, before)


class Tally:
    """What one probe and test said of all pairs and draws."""

    def __init__(self) -> None:
        self.said: dict[str, list[Verdict]] = defaultdict(list)
        self.of_nothing: list[int] = []

    def power(self, truths: Mapping[str, tuple[float, float]]) -> tuple[float, float]:
        """Return the shares of right verdicts and of wrong ones, over pairs that are decided."""
        signs = [
            one.sign * np.sign(truths[pair][0])
            for pair, said in self.said.items()
            for one in said
            if abs(truths[pair][0]) > DECIDED * truths[pair][1]
        ]
        return float(np.mean(np.equal(signs, 1))), float(np.mean(np.equal(signs, -1)))

    def correlation(self, truths: Mapping[str, tuple[float, float]]) -> float:
        """Return the correlation of differences with the known ones."""
        points = [(truths[pair][0], one.mean) for pair, said in self.said.items() for one in said]
        return float(np.corrcoef(np.transpose(points))[0, 1])

    def spread(self, left: float) -> float:
        """Return the deviation of differences over draws, as a multiple of their stated error.

        Args:
            left: what `left_of` says.
        """
        ratios = [
            np.std([one.mean for one in said], ddof=1) / np.mean([one.error for one in said])
            for said in self.said.values()
        ]
        return float(np.mean(ratios) / left)


def left_of(drawn: Mapping[int, int]) -> float:
    """Return how much of a mean's error is left where images are drawn from not many more.

    Args:
        drawn: how many images by how many there are, each part drawn without replacement.
    """
    n = sum(drawn.values())
    return float(sum(some / n * (1 - some / all_) for all_, some in drawn.items()) ** 0.5)


def judged(
    domain: str, nets: Mapping[str, Network], fits: Mapping[str, Known], tallies: dict[str, Tally]
) -> dict[str, float]:
    """Judge each network of a domain against its base; return the CPU seconds of each probe."""
    generator = torch.Generator().manual_seed(DOMAINS.index(domain))
    coins = np.random.default_rng(DOMAINS.index(domain))
    seconds: dict[str, float] = defaultdict(float)
    there, unseen = (len(part.labels) for part in nets[BASE])
    for at in range(DRAWS):
        draw = Draw(
            torch.randperm(there, generator=generator)[:FEW],
            torch.randperm(unseen, generator=generator)[:IMAGES],
        )
        for name, probe in PROBES.items():
            began = time.process_time()
            found = {stage: probe(network, draw) for stage, network in nets.items()}
            seconds[name] += (time.process_time() - began) / len(nets) / DRAWS
            _note(domain, name, found, coins, tallies)
        val = {stage: of_val(one) for stage, one in found.items()}  # of the last probe
        _note(domain, ONLY_VAL, val, coins, tallies)
        found = {
            stage: answers(one.fits[at % TRAINS][draw.val], nets[stage].unseen.labels[draw.val])
            for stage, one in fits.items()
        }
        _note(domain, "logistic of train", found, coins, tallies)
    seconds[ONLY_VAL] = seconds["ridge left out"]
    return seconds


def _note(
    domain: str,
    name: str,
    found: Mapping[str, Answers],
    coins: np.random.Generator,
    tallies: dict[str, Tally],
) -> None:
    for stage, after in found.items():
        if stage == BASE:
            continue
        for test, verdict in verdicts(found[BASE], after).items():
            tallies[f"{name}, {test}"].said[f"{domain} {stage}"].append(verdict)
        for test, verdict in verdicts(*swapped(found[BASE], after, coins)).items():
            tallies[f"{name}, {test}"].of_nothing.append(verdict.sign)


def rows(store: str, domains: Sequence[str]) -> Iterator[Row]:
    """Yield what is known of each pair, then what each probe and test says."""
    tallies: dict[str, Tally] = defaultdict(Tally)
    truths: dict[str, tuple[float, float]] = {}
    seconds: dict[str, list[float]] = defaultdict(list)
    for domain in domains:
        nets = networks(store, domain)
        generator = torch.Generator().manual_seed(99)
        there = len(nets[BASE].train.labels)
        trains = [torch.arange(there)]
        trains += [torch.randperm(there, generator=generator)[:FEW] for _ in range(TRAINS - 1)]
        began = time.process_time()
        fits = {stage: known(network, trains) for stage, network in nets.items()}
        seconds["logistic of train"].append((time.process_time() - began) / len(nets) / TRAINS)
        for stage in list(nets)[1:]:
            change = fits[stage].right - fits[BASE].right
            mean, error = change.mean(), change.std(ddof=1) / len(change) ** 0.5
            truths[f"{domain} {stage}"] = 100 * mean, 100 * error
            note = f"points ± {100 * error:.1f}, one standard error"
            yield Row(f"{domain}: {stage}", 100 * mean, None, note)
        for name, spent in judged(domain, nets, fits, tallies).items():
            seconds[name].append(spent)
    yield from judgements(tallies, truths, seconds)


def judgements(
    tallies: Mapping[str, Tally],
    truths: Mapping[str, tuple[float, float]],
    seconds: Mapping[str, Sequence[float]],
) -> Iterator[Row]:
    """Yield what each probe and test says, then whether the monitor's default keeps its promise."""
    for name, tally in tallies.items():
        yield _row(name, tally, truths, float(np.mean(seconds[name.rpartition(", ")[0]])))
    ours, theirs = (tallies[f"{name}, accuracy"] for name in (DEFAULT, BEFORE))
    gain = ours.power(truths)[0] / theirs.power(truths)[0]
    yield Row(f"right verdicts, {DEFAULT} over {BEFORE}", gain, 1.5)
    false = float(np.mean(np.abs(ours.of_nothing)))
    yield Row(f"verdicts of no difference, {DEFAULT}", false, 0.08, at_most=True, digits=3)
    yield Row(f"spread, {DEFAULT}", ours.spread(left_of({602: IMAGES})), 1.15, at_most=True)


def _row(name: str, tally: Tally, truths: Mapping[str, tuple[float, float]], seconds: float) -> Row:
    right, wrong = tally.power(truths)
    drawn = {602: IMAGES} | ({509: FEW} if name.rpartition(", ")[0] in LOOKS_AT_ALL else {})
    spread = tally.spread(left_of(drawn))
    note = (
        f"wrong {wrong:.3f}, of no difference {np.mean(np.abs(tally.of_nothing)):.3f}, correlation "
        f"{tally.correlation(truths):.2f}, spread {spread:.2f}, {seconds:.2f} s"
    )
    return Row(name, right, None, note, digits=3)


def header() -> str:
    """Return the first lines of the table."""
    return versions(("torch", "timm", "scikit-learn", "numpy")) + (
        "\n# A pair: ratio is the known difference of the backbone from its base, in points."
        "\n# A probe, by a test: ratio is the share of right verdicts on pairs that differ by more"
        "\n# than two standard errors. Wrong, of no difference: shares of false verdicts, of which"
        "\n# 0.05 of the latter are due. Spread: of the measured differences, over what the test"
        "\n# states; 1 if its interval is right. s: CPU seconds a look, features given."
    )


def main() -> int:
    """Measure and print every row; return the exit status."""
    parser = argparse.ArgumentParser(prog="benchmarks.probes", description=__doc__)
    parser.add_argument("--write", action="store_true", help=f"keep the table in {KEPT.name}")
    parser.add_argument("--store", default="", help="keeps trainings and features")
    parser.add_argument("--domains", nargs="+", choices=DOMAINS, default=DOMAINS)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        found = rows(asked.store or folder, asked.domains)
        return print_table(found, header(), KEPT if asked.write else None)


if __name__ == "__main__":
    sys.exit(main())
