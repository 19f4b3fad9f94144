"""Every metric of an evaluation: name, definition, formula, and the papers that report it (the table of docs/protocols.md)."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Metric:
    """What a logged name means; `query` is written q, its positives P_q, their number n_q, the rank of the j-th of them r_j."""

    definition: str
    formula: str
    """LaTeX, of one query (the metric is the mean over the queries that have a positive) or of the whole space."""
    papers: str
    """Who reports it."""
    always: bool = False
    """Logged without being asked for."""
    symmetric: bool = False
    """Measured only where one network embeds both sides alike: it looks at one set of vectors."""


METRICS: dict[str, Metric] = {
    "recall_at_k": Metric(
        "share of queries with a positive among the K nearest; `recall_at_<K>` for each K of `evaluation.k`",
        r"[r_1 \le K]",
        "Yu, S2SD, RAML, OBD-SD",
        always=True,
    ),
    "map": Metric(
        "mean average precision over all ranks, in the form of `evaluation.average_precision`",
        r"\frac{1}{n_q}\sum_{j=1}^{n_q} p_j",
        "AML and RAML (trapezoidal)",
        always=True,
    ),
    "mean_average_precision_at_r": Metric(
        "mAP@R: precision at each positive among the first R = n_q ranks, summed, over R (Musgrave et al. 2020)",
        r"\frac{1}{n_q}\sum_{j:\,r_j \le n_q} \frac{j}{r_j}",
        "none in this form; S2SD's supplement in the released one",
        always=True,
    ),
    "r_precision": Metric(
        "share of positives among the first R = n_q ranks",
        r"\frac{1}{n_q}\,\#\{j : r_j \le n_q\}",
        "none; Musgrave et al. 2020",
        always=True,
    ),
    "nmi": Metric(
        "normalised mutual information (arithmetic mean) of classes and k-means clusters, as many clusters as classes measured",
        r"\frac{2\,I(Y;C)}{H(Y)+H(C)}",
        "S2SD and OBD-SD, in the released form",
        always=True,
        symmetric=True,
    ),
    "map_step": Metric(
        "mAP over all ranks with the step form, whatever `evaluation.average_precision` says",
        r"\frac{1}{n_q}\sum_{j} \frac{j}{r_j}",
        "none; scikit-learn's average precision",
    ),
    "map_trapezoidal": Metric(
        "mAP over all ranks with the trapezoidal form of the Oxford and Paris benchmarks",
        r"\frac{1}{n_q}\sum_{j} \frac12\left(\frac{j-1}{r_j-1}+\frac{j}{r_j}\right),\ \text{the first fraction 1 where } r_j=1",
        "AML, RAML",
    ),
    "map_at_k": Metric(
        "`map` of the first k ranks, over min(n_q, k); `map_at_<k>` for each k of `evaluation.k`",
        r"\frac{1}{\min(n_q,k)}\sum_{j:\,r_j \le k} p_j",
        "RAML's code (1, 4, 8)",
    ),
    "map_at_1000": Metric(
        "`map_at_k` with k = 1000",
        r"\frac{1}{\min(n_q,1000)}\sum_{j:\,r_j \le 1000} p_j",
        "none in this form; S2SD's and OBD-SD's code in the released one",
    ),
    "map_at_1000_released": Metric(
        "step mAP of the first 1000 ranks, over the size of the class with the query in it",
        r"\frac{1}{n_q+1}\sum_{j:\,r_j \le 1000} \frac{j}{r_j}",
        "S2SD's and OBD-SD's code",
    ),
    "mp_at_k": Metric(
        "mP@k: positives among the first k, over min(k, rank of the last positive); `mp_at_<k>` for each k of `evaluation.k`",
        r"\frac{\#\{j : r_j \le k\}}{\min(k,\,r_{n_q})}",
        "AML (mP@10), RAML's code",
    ),
    "mean_average_precision_at_r_released": Metric(
        "mAP@R where R counts the query too (at most (n - 1)/n for a class of n)",
        r"\frac{1}{n_q+1}\sum_{j:\,r_j \le n_q+1} \frac{j}{r_j}",
        "S2SD and OBD-SD",
    ),
    "nmi_released": Metric(
        "NMI of as many clusters as there are *training* classes",
        r"\text{as } \texttt{nmi}",
        "S2SD, OBD-SD",
        symmetric=True,
    ),
    "nmi_clusters": Metric(
        "how many clusters `nmi` has: the number of classes of the part measured",
        r"|Y|",
        "none",
        symmetric=True,
    ),
    "clustering_f1": Metric(
        "F1 over pairs of pictures, of the clusters of `nmi`: a pair is found where it shares a cluster, right where a class",
        r"\frac{2\,TP}{2\,TP+FP+FN}",
        "none in this form",
        symmetric=True,
    ),
    "clustering_f1_released": Metric(
        "F1 of the clusters of `nmi_released`",
        r"\text{as } \texttt{clustering\_f1}",
        "S2SD's and OBD-SD's code",
        symmetric=True,
    ),
    "embedding_density": Metric(
        "mean cosine distance within a class over that of two class means (Roth et al. 2020); classes of one picture skipped",
        r"\pi_{intra}/\pi_{inter}",
        "S2SD's Figure 2, OBD-SD's Table 8 (of the training classes)",
        symmetric=True,
    ),
    "spectral_decay": Metric(
        "divergence of the spectrum from the uniform one: singular values of the vectors, not centred, full SVD, summing to 1",
        r"\mathrm{KL}(\mathcal U \,\Vert\, s) = -\frac1d\sum_{i=1}^{d}\log(d\,s_i)",
        "S2SD's Figure 2 (of the training classes)",
        symmetric=True,
    ),
    "trimmed_spectral_decay": Metric(
        "`spectral_decay` without the two largest singular values",
        r"\text{as } \texttt{spectral\_decay}, \text{ of } s_3, \ldots, s_d",
        "OBD-SD's Table 8 (of the training classes)",
        symmetric=True,
    ),
}
"""By the name that `evaluation.metrics` takes."""
