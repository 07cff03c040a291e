"""Patches in, candidates out. A built bank, format 1, file by file:

manifest.json                 recipe, inputs, digests of every file; written last, so that its
                              presence means the bank is whole
patches/<split>-<nnnnn>/data.mdb   LMDB: 8-byte big-endian patch id -> raw RGB of one patch
patches.arrow                 one row per patch, sorted by patch id (bank/table.py)
scenes/<split>-<nnnnn>.tar    WebDataset: picture, graph and masks of each scene (pipeline/pack.py)
scenes.index.arrow            image id -> tar and offsets, for reading in any order
vocabulary.json               names of objects and predicates, in order
---- the content ends here; what follows is derived from it ----
graph_encoder.safetensors     the network behind features.arrow
cooccurrence.safetensors      the network behind cooccurrence.arrow
features.arrow                patch id -> object vector; what candidates are searched by
cooccurrence.arrow            patch id -> vector in which patches of one photo lie close
index/                        search by category, training patches only
candidates.arrow              patch id -> K training patches from other photos, the nearest of its
                              category first, then of any (`fallback`)
failures.jsonl                every photo or object left out, with a reason code

Files here are code, folders are banks (git-ignored).

Letters of shapes, as in model/__init__.py but for two:

    P  patches of the bank         Q  queries, objects that candidates are searched for
    D  width of a feature          F  co-occurrence width      K  candidates      O  objects
"""
