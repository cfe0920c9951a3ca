"""Catalogue of foundation encoders: what each is, how it is built, and where its weights come from.

Shapes, statistics and licences are those of the models' own pages and configuration files; a licence is binding only in
the wording of the page.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

_IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
_HALF = ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
_CLIP = ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711))
_OPTIMUS = ((0.707223, 0.578729, 0.703617), (0.211883, 0.230117, 0.177517))
_HIBOU = ((0.7068, 0.5755, 0.722), (0.195, 0.2316, 0.1816))
_ALL_MAGNIFICATIONS = (0.25, 0.5, 1.0, 2.0)
_NON_COMMERCIAL = "CC-BY-NC-ND-4.0"


@dataclass(frozen=True, slots=True)
class CatalogueEntry:
    """An encoder that the suite knows by name.

    Attributes:
        name: value of ``network.encoder``.
        title: name in publications.
        hub: repository on the Hugging Face hub.
        architecture: timm's name of the architecture.
        patch: edge of a patch in pixels.
        dim: channels of a token.
        parameters: in millions.
        licence: of the weights.
        gated: whether the repository asks for an agreement before it hands out the file.
        mpps: resolutions of the training tiles in micrometres per pixel; empty if photographs or not published.
        statistics: mean and standard deviation of the input, in 0..1.
        arguments: numbers that differ from those of the architecture.
        swiglu: whether the MLPs are SwiGLU although those of the architecture are not.
    """

    name: str
    title: str
    hub: str
    architecture: str
    patch: int
    dim: int
    parameters: int
    licence: str
    gated: bool
    mpps: tuple[float, ...] = (0.5,)
    statistics: tuple[tuple[float, float, float], tuple[float, float, float]] = _IMAGENET
    arguments: Mapping[str, float | bool] = field(default_factory=dict)
    swiglu: bool = False


_UNI2 = {
    "img_size": 224, "depth": 24, "num_heads": 24, "embed_dim": 1536, "mlp_ratio": 2.66667 * 2,
    "init_values": 1e-5, "no_embed_class": True, "reg_tokens": 8,
}  # fmt: skip
_GIGAPATH = {"img_size": 224, "patch_size": 16, "mlp_ratio": 5.33334, "init_values": 1e-5}
_VIRCHOW = {"img_size": 224, "mlp_ratio": 5.3375, "init_values": 1e-5}
_LAYER_SCALE = {"img_size": 224, "init_values": 1e-5}
_SWIGLU_BASE = {"img_size": 224, "mlp_ratio": 5.33334, "init_values": 1e-5}
_SWIGLU_LARGE = {"img_size": 224, "mlp_ratio": 5.34375, "init_values": 1e-5}


def _kaiko(name: str, size: str, architecture: str, patch: int, dim: int, parameters: int) -> CatalogueEntry:
    return CatalogueEntry(
        name, f"Kaiko ViT-{size}/{patch}", f"1aurent/{architecture}.kaiko_ai_towards_large_pathology_fms", architecture,
        patch, dim, parameters, "Kaiko non-commercial", False, _ALL_MAGNIFICATIONS, _HALF,
    )  # fmt: skip


def _dino(name: str, title: str, architecture: str, tag: str, patch: int, dim: int, parameters: int) -> CatalogueEntry:
    licence = "DINOv3 licence" if "dinov3" in name else "Apache-2.0"
    return CatalogueEntry(
        name, title, f"timm/{architecture}.{tag}", architecture, patch, dim, parameters, licence, False, ()
    )


_ENTRIES = (
    CatalogueEntry(
        "uni", "UNI", "MahmoodLab/UNI", "vit_large_patch16_224", 16, 1024, 303, _NON_COMMERCIAL, True,
        arguments=_LAYER_SCALE,
    ),
    CatalogueEntry(
        "uni2-h", "UNI2-h", "MahmoodLab/UNI2-h", "vit_giant_patch14_224", 14, 1536, 681, _NON_COMMERCIAL, True,
        arguments=_UNI2, swiglu=True,
    ),
    CatalogueEntry(
        "virchow", "Virchow", "paige-ai/Virchow", "vit_huge_patch14_224", 14, 1280, 631, "Apache-2.0", True,
        arguments=_VIRCHOW, swiglu=True,
    ),
    CatalogueEntry(
        "virchow2", "Virchow2", "paige-ai/Virchow2", "vit_huge_patch14_224", 14, 1280, 631, _NON_COMMERCIAL, True,
        _ALL_MAGNIFICATIONS, arguments={**_VIRCHOW, "reg_tokens": 4}, swiglu=True,
    ),
    CatalogueEntry(
        "h-optimus-0", "H-optimus-0", "bioptimus/H-optimus-0", "vit_giant_patch14_reg4_dinov2", 14, 1536, 1135,
        "Apache-2.0", True, statistics=_OPTIMUS, arguments=_LAYER_SCALE,
    ),
    CatalogueEntry(
        "h-optimus-1", "H-optimus-1", "bioptimus/H-optimus-1", "vit_giant_patch14_reg4_dinov2", 14, 1536, 1135,
        _NON_COMMERCIAL, True, statistics=_OPTIMUS, arguments=_LAYER_SCALE,
    ),
    CatalogueEntry(
        "h0-mini", "H0-mini", "bioptimus/H0-mini", "vit_base_patch14_reg4_dinov2", 14, 768, 86, _NON_COMMERCIAL, True,
        statistics=_OPTIMUS, arguments=_SWIGLU_BASE, swiglu=True,
    ),
    CatalogueEntry(
        "phikon-v2", "Phikon-v2", "owkin/phikon-v2", "vit_large_patch16_224", 16, 1024, 303, "Owkin non-commercial",
        False, arguments=_LAYER_SCALE,
    ),
    CatalogueEntry(
        "prov-gigapath", "Prov-GigaPath", "prov-gigapath/prov-gigapath", "vit_giant_patch14_dinov2", 16, 1536, 1135,
        "Prov-GigaPath research licence", True, arguments=_GIGAPATH,
    ),
    CatalogueEntry(
        "hibou-b", "Hibou-B", "histai/hibou-b", "vit_base_patch14_reg4_dinov2", 14, 768, 86, "Apache-2.0", True, (),
        _HIBOU, _SWIGLU_BASE, swiglu=True,
    ),
    CatalogueEntry(
        "hibou-l", "Hibou-L", "histai/hibou-L", "vit_large_patch14_reg4_dinov2", 14, 1024, 304, "Apache-2.0", True, (),
        _HIBOU, _SWIGLU_LARGE, swiglu=True,
    ),
    _kaiko("kaiko-s16", "S", "vit_small_patch16_224", 16, 384, 22),
    _kaiko("kaiko-s8", "S", "vit_small_patch8_224", 8, 384, 22),
    _kaiko("kaiko-b16", "B", "vit_base_patch16_224", 16, 768, 86),
    _kaiko("kaiko-b8", "B", "vit_base_patch8_224", 8, 768, 86),
    _kaiko("kaiko-l14", "L", "vit_large_patch14_reg4_dinov2", 14, 1024, 304),
    CatalogueEntry(
        "conch", "CONCH (vision tower)", "MahmoodLab/CONCH", "vit_base_patch16_224", 16, 768, 86, _NON_COMMERCIAL, True,
        (), _CLIP, {"img_size": 448},
    ),
    _dino("dinov2-s", "DINOv2 ViT-S/14", "vit_small_patch14_dinov2", "lvd142m", 14, 384, 22),
    _dino("dinov2-b", "DINOv2 ViT-B/14", "vit_base_patch14_dinov2", "lvd142m", 14, 768, 86),
    _dino("dinov2-l", "DINOv2 ViT-L/14", "vit_large_patch14_dinov2", "lvd142m", 14, 1024, 304),
    _dino("dinov2-g", "DINOv2 ViT-g/14", "vit_giant_patch14_dinov2", "lvd142m", 14, 1536, 1136),
    _dino("dinov3-s", "DINOv3 ViT-S/16", "vit_small_patch16_dinov3", "lvd1689m", 16, 384, 22),
    _dino("dinov3-b", "DINOv3 ViT-B/16", "vit_base_patch16_dinov3", "lvd1689m", 16, 768, 86),
    _dino("dinov3-l", "DINOv3 ViT-L/16", "vit_large_patch16_dinov3", "lvd1689m", 16, 1024, 303),
)  # fmt: skip

CATALOGUE: Mapping[str, CatalogueEntry] = {entry.name: entry for entry in _ENTRIES}
"""Entries by name."""
