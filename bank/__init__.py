"""Patches in, candidates out. A built bank, format 1, file by file:

manifest.json                 settings (as its `recipe`), inputs, digests of every file; written
                              last, so that its presence means the bank is whole
patches/<split>-<nnnnn>/data.mdb   LMDB: 8-byte big-endian patch id -> raw RGB of one patch
patches.arrow                 one row per patch, sorted by patch id (bank/table.py)
scenes/<split>-<nnnnn>.tar    WebDataset: picture, graph and masks of each scene (pipeline/pack.py)
scenes.index.arrow            image id -> tar and offsets, for reading in any order
vocabulary.json               names of objects and predicates, in order
photos.arrow                  one row per photo: shard, SHA-256 of its file and of its annotations;
                              by id and file a photo counts as content
---- the content ends here; what follows is derived from it ----
graph_encoder.safetensors     the network behind features.arrow
cooccurrence.safetensors      the network behind cooccurrence.arrow
features.arrow                patch id -> object vector; what candidates are searched by
cooccurrence.arrow            patch id -> vector in which patches of one photo lie close
index/                        search by category, training patches only
candidates.arrow              patch id -> K training patches from other photos, the nearest of its
                              category first, then of any (`fallback`)
---- in neither digest: where the bank comes from, and what describes it ----
quality.arrow                 patch id -> share of its box that its mask covers, the box's sides in
                              px; optional (bank/quality.py)
failures.jsonl                every photo or object left out, with a reason code
croissant.json                for search engines and dataset hubs (bank/croissant.py)
report.html                   numbers and contact sheets, by `python -m jobs.inspect_bank`

A bank may lie at an address of the web: its files then come as they are asked for (bank/mirror.py).

Files here are code, folders are banks (git-ignored).

Letters of shapes are those of model/__init__.py: B patches, O objects, K candidates, D width of a
feature (the graph's), F co-occurrence width. Small ones are a function's own: n rows, q queries.
"""
