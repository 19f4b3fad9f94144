"""What the papers claim, as differences between two arms (or an arm and a reference row) on the unseen test classes."""

from __future__ import annotations

from dataclasses import dataclass

ASYMMETRIC = "test_asymmetric"


@dataclass(frozen=True)
class Side:
    """An arm or a reference row, and the search in which it is measured."""

    arm: str
    role: str = "test"


@dataclass(frozen=True)
class Claim:
    """`better` has the higher recall at 1 than `worse`."""

    paper: str
    text: str
    better: Side
    worse: Side


def _claim(paper: str, text: str, better: str, worse: str, role: str = "test") -> Claim:
    return Claim(paper, text, Side(better, role), Side(worse, role))


YU, S2SD, OBD, AML, RAML = "Yu et al. 2019", "S2SD", "OBD-SD", "Asymmetric metric learning", "RAML"
CLAIMS: tuple[Claim, ...] = (
    _claim(YU, "absolute teacher beats none", "yu_absolute", "none"),
    _claim(YU, "relative teacher beats none", "yu_relative", "none"),
    _claim(YU, "relative beats absolute", "yu_relative", "yu_absolute"),
    _claim(YU, "attention adds to relative", "yu_relative_attention", "yu_relative"),
    _claim(YU, "half the labels: relative teacher beats none", "yu_relative_labels50", "none_labels50"),
    _claim(YU, "semi-supervised: images without labels help", "yu_relative_semi", "yu_relative_labels50"),
    _claim(YU, "cross-quality: relative teacher beats none", "yu_relative_coarse", "none_coarse"),
    _claim(S2SD, "DSD beats none", "dsd", "none"),
    _claim(S2SD, "MSD beats DSD", "msd", "dsd"),
    _claim(S2SD, "MSDF beats MSD", "msdf", "msd"),
    _claim(S2SD, "MSDF beats none", "msdf", "none"),
    _claim(S2SD, "128 dimensions with MSDF beat 512 without", "msdf", "none_d512"),
    _claim(S2SD, "64 dimensions with MSDF beat 512 without", "msdf_d64", "none_d512"),
    _claim(S2SD, "32 dimensions with MSDF beat 512 without", "msdf_d32", "none_d512"),
    _claim(OBD, "PSD beats none", "psd", "none"),
    _claim(OBD, "diffusion adds to PSD", "obd_sd", "psd"),
    _claim(OBD, "20 % label noise: PSD beats none", "psd_noise20", "none_noise20"),
    _claim(OBD, "20 % label noise: diffusion adds to PSD", "obd_sd_noise20", "psd_noise20"),
    _claim(OBD, "with a proxy loss (Proxy Anchor): PSD beats none", "psd_proxy", "none_proxy"),
    _claim(AML, "asymmetric: Contrastive+ beats regression", "aml_contrastive_plus", "aml_regression", ASYMMETRIC),
    _claim(AML, "asymmetric: regression beats triplet", "aml_regression", "aml_triplet", ASYMMETRIC),
    _claim(AML, "asymmetric: regression beats multi-similarity", "aml_regression", "aml_multi_similarity", ASYMMETRIC),
    _claim(AML, "symmetric: regression beats the student alone", "aml_regression", "none"),
    _claim(AML, "symmetric: Contrastive+ beats the student alone", "aml_contrastive_plus", "none"),
    _claim(AML, "symmetric: regression beats triplet", "aml_regression", "aml_triplet"),
    _claim(AML, "symmetric: regression beats multi-similarity", "aml_regression", "aml_multi_similarity"),
    _claim(RAML, "asymmetric: beats the teacher on small queries", "raml", "teacher_small", ASYMMETRIC),
    _claim(
        RAML,
        "asymmetric: from the teacher's weights, beats another network from ImageNet's on larger pictures, at 1.9 x its GFLOPs",
        "raml",
        "raml_other_network",
        ASYMMETRIC,
    ),
    _claim(
        RAML,
        "asymmetric: smaller pictures (48 px) beat a smaller network (Lite0 at 64 px) at equal GFLOPs",
        "raml_48",
        "raml_network_64",
        ASYMMETRIC,
    ),
    _claim(RAML, "symmetric: beats the teacher on small pictures", "raml", "teacher_small"),
    _claim(RAML, "symmetric on small pictures: reaches the teacher on large ones", "raml", "teacher_row"),
)
