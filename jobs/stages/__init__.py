"""Makes banks. jobs/build_bank.py and jobs/edit_bank.py alone call the stages, in this order:

staging.py        lock the folder; the finished next version takes the bank's place at the end
additions.py      which photos a finished bank lacks
cut.py            plan shards and cut them (cutting.py: one shard; cluster.py: by which workers;
                  attempts.py, probe.py: photos that crash a worker)
copy_shards.py    shards of a finished bank, without some photos
assemble.py       shards -> tables, vocabulary.json, failures.jsonl
derive.py         tables -> networks, vectors, index, candidates
complete.py       all files -> croissant.json, manifest.json

receipts.py lets a rerun skip what is done; project.py says where this code lies, and its digest.

workforce.py and cluster.py serve jobs/verify_bank.py and jobs/inspect_bank.py as well.
"""
