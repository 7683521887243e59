"""The tables of algorithms in docs/algorithms.md, made of the docstrings of the recipes."""

import inspect
import re

from tables import table

from metajax import algorithms

FAMILIES = {
    "gradient": [
        "maml", "fomaml", "anil", "boil", "reptile", "imaml", "meta_sgd", "maml_plus_plus",
        "meta_curvature", "alfa", "t_net", "mt_net", "warp_grad", "ml3", "low_rank_maml",
    ],
    "comparison": [
        "protonets", "matching_nets", "gaussian_protonets", "relation_nets", "tadam",
        "simple_cnaps", "snail",
    ],
    "closed_form": ["r2d2", "metaopt_net", "proto_maml", "dkt", "bayesian_linear"],
    "written": ["cavia", "mmaml", "hypernetwork_head", "leo", "meta_net"],
    "in_one_pass": ["neural_process", "in_context"],
    "continual": ["oml", "anml"],
    "unlabelled": [
        "soft_kmeans_protonets", "transductive", "label_propagation", "transductive_fine_tuning",
        "centroid_networks",
    ],
    "transfer": [
        "pretraining", "fine_tuning", "low_rank_fine_tuning", "learning_to_reweight", "data_rater",
        "ensemble", "augmented_queries",
    ],
    "modalities": [
        "am3", "cross_modal_adaptation", "fumi", "described_low_rank",
        "computed_modality_weights", "descended_modality_weights", "smil", "meta_kd", "croma",
    ],
}  # fmt: skip
"""The recipes of each family, in the order of its table."""

MEASURED = {
    "maml": ("Omniglot", "few-shot-classification"),
    "protonets": ("Omniglot", "few-shot-classification"),
    "meta_sgd": ("sinusoids", "regression-on-sinusoids"),
    "cavia": ("sinusoids", "regression-on-sinusoids"),
    "neural_process": ("Gaussian processes", "neural-processes"),
    "in_context": ("real tables", "real-tables"),
    "centroid_networks": ("characters and intents", "clustering-classes-never-seen"),
    "computed_modality_weights": ("several modalities", "several-modalities"),
    "descended_modality_weights": ("several modalities", "several-modalities"),
}
"""Where docs/results.md has a table with the algorithm: the text of a link, and its place."""


def row(name):
    """Name, what it is, papers, what it was checked against, and where it was measured."""
    text = inspect.getdoc(getattr(algorithms, name))
    about = text.partition("\n\n")[0].replace("\n", " ")
    source = paragraph(text, "Source")
    links = []
    for before, paper in re.findall(r"([^;:]*?\d{4}), arXiv (\d{4}\.\d{5})", source):
        # What stands before the authors says what of the paper this is, such as "the factors".
        parts = before.strip().split(", ")
        while parts[0][0].islower():
            parts.pop(0)
        links.append(f"[{', '.join(parts)}](https://arxiv.org/abs/{paper})")
    shown = ", ".join(links) or source.partition(".")[0].partition(";")[0]
    place, anchor = MEASURED.get(name, ("", ""))
    measured = f"[{place}](results.md#{anchor})" if place else ""
    checked = paragraph(text, "Checked against").rstrip(".")
    return [f"`{name}`", about, shown, checked, measured]


def paragraph(text, title):
    """What stands behind a title such as "Source:", on one line."""
    found = re.search(rf"^{title}s?: (.*?)(?:\n\n|\Z)", text, re.DOTALL | re.MULTILINE)
    return " ".join(found[1].split()) if found else ""


def made(family):
    """The function that makes the table of a family."""

    def make():
        header = ["name", "what it is", "paper", "checked against", "measured"]
        return table(header, [row(name) for name in FAMILIES[family]])

    make.__name__ = f"algorithms_{family}"
    return make


MADE = [made(family) for family in FAMILIES]
