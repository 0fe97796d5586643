"""The real models, in the order of the tables."""

from zoo import crepe, detector, efficientnet, minilm_sentences, recogniser, vit
from zoo.model import RealModel

ZOO: tuple[RealModel, ...] = (
    recogniser.MODEL,
    detector.MODEL,
    efficientnet.MODEL,
    minilm_sentences.MODEL,
    minilm_sentences.DYNAMO,
    vit.MODEL,
    vit.DYNAMO,
    crepe.MODEL,
)


def choose(names: str) -> tuple[RealModel, ...]:
    """The models whose names are listed, separated by commas; ``all`` for every one."""
    if names == "all":
        return ZOO
    known = {model.name: model for model in ZOO}
    wanted = [name.strip() for name in names.split(",")]
    unknown = [name for name in wanted if name not in known]
    if unknown:
        raise SystemExit(f"--models: no model {unknown[0]}; there are {', '.join(known)}")
    return tuple(known[name] for name in wanted)
