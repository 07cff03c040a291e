"""A scene graph -> text, so that a text-to-image model can draw the same scene."""

from pipeline.scene import SceneGraph


def sentences(graph: SceneGraph) -> str:
    """`sky above boat and boat left of pier`: a sentence per relation, joined by "and".

    This is how RetrieveGAN's comparison with AttnGAN words its graphs, as Xu and Xu (AAAI 2022)
    report it. Names are left as they are; an object that no relation names is a sentence by itself,
    so that the text has as many objects as the graph.
    """
    objects = graph.objects
    clauses = [f"{objects[s]} {predicate} {objects[o]}" for s, predicate, o in graph.relations]
    named = {place for s, _, o in graph.relations for place in (s, o)}
    return " and ".join([*clauses, *(name for o, name in enumerate(objects) if o not in named)])
