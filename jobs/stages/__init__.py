"""Makes banks. jobs/build_bank.py and jobs/edit_bank.py alone call the stages, in this order:

staging.py        lock the folder; the finished next version takes the bank's place at the end
additions.py      which photos a finished bank lacks
cut.py            plan shards and cut them (cutting.py: one shard; attempts.py, probe.py: photos
                  that crash a worker)
copy_shards.py    shards of a finished bank, without some photos
assemble.py       shards -> tables, vocabulary.json, failures.jsonl
derive.py         tables -> networks, vectors, index, candidates, quality: a stage each, in
                  networks.py, vectors.py, search.py, quality.py (blocks.py: what they share;
                  derivation.py: what they are made from)
complete.py       all files -> croissant.json, manifest.json

cluster.py has shards and blocks made, here or by Dask's workers; receipts.py lets a rerun skip what
is done; project.py says where this code lies, and its digest. workforce.py and cluster.py serve
jobs/verify_bank.py and jobs/inspect_bank.py as well.
"""
