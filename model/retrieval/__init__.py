"""One patch per object: E_p, F_occur, the greedy choice and its relaxations (section 2.1)."""
