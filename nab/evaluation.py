"""Every metric, defined once. All are percentages; the names are the same in results, tables and curves."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from nab.attacks import Triggered
from nab.data import Dataset, GroundTruth
from nab.defenses.deployed import Answers, Deployed
from nab.needs import Suspicion

FALSE_POSITIVE_RATE = 0.05
"""The largest share of clean inputs that may be taken for triggered ones when `input_metrics` counts detections."""


def percent(hits: Tensor) -> float:
    """Share of true values (bool, N) in percent; NaN if N is 0."""
    return 100.0 * hits.sum().item() / len(hits) if len(hits) else math.nan


def attack_metrics(clean: Tensor, triggered: Tensor | None, test: Triggered) -> dict[str, float]:
    """Accuracy and attack success from answers. A refusal (-1) is neither right nor a success of the attack.

    Args:
        clean: int64, N; answers to the clean test images.
        triggered: int64, N; answers to the same images with the trigger. None if nobody attacked.
        test: the true labels and the attacker's.

    Returns:
        ``clean_accuracy`` (ACC); ``attack_success_rate`` (ASR) and ``robust_accuracy`` (RA), both over images that are
        not of the target class; ``robust_accuracy_all``, RA over all images, which the authors of NAB report as BA.
        Without an attack, ACC alone.
    """
    metrics = {"clean_accuracy": percent(clean == test.true_labels)}
    if triggered is None:
        return metrics
    eligible = test.is_eligible
    is_right = triggered == test.true_labels
    return metrics | {
        "attack_success_rate": percent((triggered == test.attack_labels)[eligible]),
        "robust_accuracy": percent(is_right[eligible]),
        "robust_accuracy_all": percent(is_right),
    }


def refusal_metrics(clean: Answers, triggered: Answers | None, test: Triggered) -> dict[str, float]:
    """ACC, ASR and RA after refusal, and how much is refused; nothing for a defense that never refuses.

    Args:
        clean: answers to the clean test images.
        triggered: answers to the same images with the trigger. None if nobody attacked.
        test: the true labels and the attacker's.

    Returns:
        the metrics of `attack_metrics` with the suffix ``_after_refusal``, where a refused image is neither right nor a
        success of the attack (``clean_accuracy_after_refusal`` is the PSR of the authors of NAB);
        ``clean_refusal_rate`` (their C-REJ); ``triggered_refusal_rate`` (their B-REJ) and ``defense_success_rate``
        (their DSR: right or refused), both over all triggered images, target class included, as they count.
    """
    if clean.is_refused is None:
        return {}
    attacked = None if triggered is None else triggered.accepted
    after = attack_metrics(clean.accepted, attacked, test)
    metrics = {f"{name}_after_refusal": value for name, value in after.items()}
    metrics["clean_refusal_rate"] = percent(clean.is_refused)
    if triggered is None or triggered.is_refused is None:
        return metrics
    return metrics | {
        "triggered_refusal_rate": percent(triggered.is_refused),
        "defense_success_rate": percent((triggered.labels == test.true_labels) | triggered.is_refused),
    }


def input_metrics(clean: Answers, triggered: Answers | None, test: Triggered) -> dict[str, float]:
    """How well the scores tell triggered images from clean ones; nothing without scores or without an attack.

    Args:
        clean: answers to the clean test images, the negatives.
        triggered: answers to the same images with the trigger; those that are not of the target class are the
            positives.
        test: the true labels and the attacker's.

    Returns:
        ``input_auroc``; ``input_detection_rate``, the share of positives above the lowest threshold that at most 5 % of
        the negatives exceed (TPR at 5 % FPR).
    """
    if clean.scores is None or triggered is None or triggered.scores is None:
        return {}
    positives = triggered.scores[test.is_eligible]
    scores = torch.cat([positives, clean.scores])
    is_positive = torch.arange(len(scores)) < len(positives)
    allowed = int(FALSE_POSITIVE_RATE * len(clean.scores) + 1e-9)
    threshold = clean.scores.sort(descending=True).values[allowed]
    return {"input_auroc": auroc(scores, is_positive), "input_detection_rate": percent(positives > threshold)}


def answer_metrics(deployed: Deployed, clean: Answers, triggered: Answers | None, test: Triggered) -> dict[str, float]:
    """ACC, ASR and RA as deployed, and of every variant, whose name is the suffix. Arguments as in `refusal_metrics`.

    If `Deployed.refuses`, a refusal is the answer; else refusals are advice, and labels are counted without them.
    """

    def answered(answers: Answers) -> Tensor:
        return answers.accepted if deployed.refuses else answers.labels

    metrics = attack_metrics(answered(clean), None if triggered is None else answered(triggered), test)
    for name, labels in clean.variants.items():
        other = attack_metrics(labels, None if triggered is None else triggered.variants[name], test)
        metrics |= {f"{metric}_{name}": value for metric, value in other.items()}
    return metrics


def evaluate(deployed: Deployed, test: Dataset, triggered: Triggered, *, is_attacked: bool = True) -> dict[str, float]:
    """All metrics of a deployed defense.

    Args:
        deployed: what answers.
        test: the test set.
        triggered: the same images with the trigger, and the attacker's labels.
        is_attacked: whether anybody attacked. If not, only metrics of clean images are measured.
    """
    clean = deployed.answer(test.images)
    attacked = deployed.answer(triggered.images) if is_attacked else None
    return (
        answer_metrics(deployed, clean, attacked, triggered)
        | refusal_metrics(clean, attacked, triggered)
        | input_metrics(clean, attacked, triggered)
    )


def detection_metrics(suspicion: Suspicion, truth: GroundTruth) -> dict[str, float]:
    """How good the suspects are.

    Args:
        suspicion: suspects and scores.
        truth: which samples are poisoned. Those of the target class are positives too, as the authors of NAB count.

    Returns:
        ``suspect_count``; ``detection_precision``, the share of suspects that are poisoned (the authors' detection
        accuracy); ``detection_recall``, the share of poisoned samples that are suspects; ``detection_auroc``. Without
        an attack, the count alone.
    """
    is_suspect = suspicion.is_suspect
    counted = {"suspect_count": float(is_suspect.sum())}
    if not truth.is_poisoned.any():
        return counted
    return counted | {
        "detection_precision": percent(truth.is_poisoned[is_suspect]),
        "detection_recall": percent(is_suspect[truth.is_poisoned]),
        "detection_auroc": auroc(suspicion.scores, truth.is_poisoned),
    }


def auroc(scores: Tensor, positives: Tensor) -> float:
    """Probability, in percent, that a random positive scores higher than a random negative; ties count half.

    Args:
        scores: float, N; minus infinity is allowed.
        positives: bool, N.

    Returns:
        NaN if all samples are positives, or none is.
    """
    from sklearn.metrics import roc_auc_score

    if positives.all() or not positives.any():
        return math.nan
    ranks = scores.unique(return_inverse=True)[1]  # scikit-learn refuses infinity
    return 100.0 * float(roc_auc_score(positives.numpy(), ranks.numpy()))


def pseudo_label_metrics(suspicion: Suspicion, truth: GroundTruth) -> dict[str, float]:
    """``pseudo_label_accuracy``, the share of suspects whose pseudo label is their true label, and
    ``pseudo_label_accuracy_all``, the share of all samples; nothing without pseudo labels."""
    if suspicion.pseudo_labels is None:
        return {}
    is_right = suspicion.pseudo_labels == truth.true_labels
    return {
        "pseudo_label_accuracy": percent(is_right[suspicion.is_suspect]),
        "pseudo_label_accuracy_all": percent(is_right),
    }


def stamp_metrics(suspicion: Suspicion, is_stamped: Tensor, truth: GroundTruth) -> dict[str, float]:
    """``stamped_count``, the number of samples that were trained with a stamp (``is_stamped``: bool, N), and
    ``pseudo_label_accuracy_stamped``, the share of these whose pseudo label is their true label."""
    counted = {"stamped_count": float(is_stamped.sum())}
    if suspicion.pseudo_labels is None:
        return counted
    is_right = suspicion.pseudo_labels == truth.true_labels
    return counted | {"pseudo_label_accuracy_stamped": percent(is_right[is_stamped])}


def defense_effectiveness(undefended: Mapping[str, float | None], defended: Mapping[str, float | None]) -> float:
    """DER: 100 when the whole attack is gone at no cost, 50 when nothing changed.

    ``(max(0, ASR drop) - max(0, ACC drop) + 100) / 2`` with both drops in points, as BackdoorBench defines it for
    scalars.

    Args:
        undefended: the metrics of the same run without a defense.
        defended: the metrics of the defense.

    Returns:
        NaN if a metric is missing, as without an attack.
    """
    asr_drop, acc_drop = (
        _number(undefended, name) - _number(defended, name) for name in ("attack_success_rate", "clean_accuracy")
    )
    if math.isnan(asr_drop) or math.isnan(acc_drop):
        return math.nan
    return (max(0.0, asr_drop) - max(0.0, acc_drop) + 100.0) / 2


def _number(metrics: Mapping[str, float | None], name: str) -> float:
    value = metrics.get(name)
    return math.nan if value is None else value


def loss_gap(losses: Tensor, is_poisoned: Tensor, rate: float) -> list[dict[str, float]]:
    """What LGA saw, epoch by epoch.

    The losses are those of the training, in which the network changes from batch to batch. The detector's score is
    computed afterwards, when the network is at rest. So the last row comes close to the detection precision of the
    result, but is not the same.

    Args:
        losses: float, epochs x N; NaN for samples that an epoch left out.
        is_poisoned: bool, N.
        rate: the share of samples that are suspected, in (0, 1].

    Returns:
        one row per epoch: ``epoch`` from 1; ``loss_poisoned`` and ``loss_clean``, the mean losses;
        ``detection_precision``, the percentage of poisoned samples among those with the smallest loss.
    """
    count = max(1, int(rate * losses.shape[1] + 1e-9))
    rows = []
    for epoch, row in enumerate(losses):
        seen = ~row.isnan()
        least = torch.where(seen, row, math.inf).argsort(stable=True)[:count]
        rows.append(
            {
                "epoch": epoch + 1,
                "loss_poisoned": row[seen & is_poisoned].mean().item(),
                "loss_clean": row[seen & ~is_poisoned].mean().item(),
                "detection_precision": percent(is_poisoned[least]),
            }
        )
    return rows
