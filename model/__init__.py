"""A batch of scenes with candidates in, images and losses out.

The same letters everywhere:

    N  images                      O  objects of all images laid end to end, without `__image__`
    V  graph nodes: O objects, then N image nodes            T  triples
    K  candidates per object       M  objects of the longest scene of a batch
    D  graph width                 E  patch-embedding width  F  co-occurrence width
    B  patches                     P  patch side, px         C H W  channels, height, width
    Q  pairs of objects            S  scenes of a score      R  trials, one from each start
    n  objects of one scene        h w  height, width of a smaller map; Cp channels of predicates
"""
