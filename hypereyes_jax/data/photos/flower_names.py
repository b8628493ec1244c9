"""Names of the 102 classes of Oxford Flowers-102, whose archive holds numbers only; label 1 comes first."""

from __future__ import annotations

FLOWER_NAMES: tuple[str, ...] = tuple(
    name.strip()
    for name in """
    pink primrose; hard-leaved pocket orchid; Canterbury bells; sweet pea; English marigold; tiger lily; moon orchid;
    bird of paradise; monkshood; globe thistle; snapdragon; colt's foot; king protea; spear thistle; yellow iris;
    globe-flower; purple coneflower; Peruvian lily; balloon flower; giant white arum lily; fire lily; pincushion flower;
    fritillary; red ginger; grape hyacinth; corn poppy; Prince of Wales feathers; stemless gentian; artichoke;
    sweet William; carnation; garden phlox; love in the mist; Mexican aster; alpine sea holly; ruby-lipped cattleya;
    Cape flower; great masterwort; Siam tulip; Lenten rose; Barbeton daisy; daffodil; sword lily; poinsettia;
    bolero deep blue; wallflower; marigold; buttercup; oxeye daisy; common dandelion; petunia; wild pansy; primula;
    sunflower; pelargonium; bishop of Llandaff; gaura; geranium; orange dahlia; pink-yellow dahlia; cautleya spicata;
    Japanese anemone; black-eyed Susan; silverbush; Californian poppy; osteospermum; spring crocus; bearded iris;
    windflower; tree poppy; gazania; azalea; water lily; rose; thorn apple; morning glory; passion flower; lotus;
    toad lily; anthurium; frangipani; clematis; hibiscus; columbine; desert-rose; tree mallow; magnolia; cyclamen;
    watercress; canna lily; hippeastrum; bee balm; ball moss; foxglove; bougainvillea; camellia; mallow;
    Mexican petunia; bromelia; blanket flower; trumpet creeper; blackberry lily
    """.split(";")
)
